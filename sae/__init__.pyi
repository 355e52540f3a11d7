from .architectures.batch_topk import BatchTopK as BatchTopK
from .architectures.core import Losses as Losses, Moment as Moment, SparseAutoencoder as SparseAutoencoder
from .architectures.crosscoder import Crosscoder as Crosscoder
from .architectures.gated import Gated as Gated
from .architectures.jumprelu import JumpReLU as JumpReLU
from .architectures.matryoshka import Matryoshka as Matryoshka
from .architectures.relu import ReLU as ReLU
from .architectures.topk import TopK as TopK
from .config import TrainConfig as TrainConfig
from .evaluate import (
    CrossEntropy as CrossEntropy,
    Reconstruction as Reconstruction,
    decoder_cosines as decoder_cosines,
    evaluate_cross_entropy as evaluate_cross_entropy,
    evaluate_reconstruction as evaluate_reconstruction,
)
from .report import (
    HEAD as HEAD,
    metrics_json as metrics_json,
    report_html as report_html,
    rows as rows,
    summary as summary,
)
from .run import (
    Recipe as Recipe,
    TrainedSae as TrainedSae,
    recipes as recipes,
    train_on_model as train_on_model,
    write_trained as write_trained,
)
from .saelens_files import (
    ARCHITECTURES as ARCHITECTURES,
    build_sae as build_sae,
    load_sae as load_sae,
    save_sae as save_sae,
    write_sae as write_sae,
)
from .stream import (
    ActivationSource as ActivationSource,
    ModelSource as ModelSource,
    SideBySide as SideBySide,
    StoreSource as StoreSource,
    TensorSource as TensorSource,
)
from .texts import (
    Mixed as Mixed,
    TextPieces as TextPieces,
    read_texts as read_texts,
    train_and_held_out as train_and_held_out,
)
from .train import CurvePoint as CurvePoint, train_sae as train_sae, train_saes as train_saes
from .trigger_latents.ablation import (
    AblationEffect as AblationEffect,
    DirectionAblation as DirectionAblation,
    Edit as Edit,
    LatentAblation as LatentAblation,
    Measure as Measure,
    ablate as ablate,
)
from .trigger_latents.baselines import (
    fitted_dictionaries as fitted_dictionaries,
    plain_dictionaries as plain_dictionaries,
)
from .trigger_latents.cards import LatentCard as LatentCard, make_cards as make_cards
from .trigger_latents.latents import (
    AGGREGATIONS as AGGREGATIONS,
    LatentScore as LatentScore,
    PromptLabels as PromptLabels,
    prompt_labels as prompt_labels,
    rank_latents as rank_latents,
    read_features as read_features,
    shuffled_control as shuffled_control,
)
from .trigger_latents.probing import SparseProbe as SparseProbe, k_sparse_probe as k_sparse_probe
from .trigger_latents.report import dashboard_html as dashboard_html, latent_summary as latent_summary
from .trigger_latents.run import (
    ALONE as ALONE,
    LABELS as LABELS,
    TriggerLatents as TriggerLatents,
    edit_of as edit_of,
    find_trigger_latents as find_trigger_latents,
    latent_cosines as latent_cosines,
)
from .trigger_latents.stability import (
    Stability as Stability,
    matched_cosines as matched_cosines,
    stability as stability,
)
