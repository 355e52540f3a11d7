from .ahead import AheadSource as AheadSource
from .architectures.batch_topk import BatchTopK as BatchTopK
from .architectures.core import Losses as Losses, Moment as Moment, SparseAutoencoder as SparseAutoencoder
from .architectures.crosscoder import Crosscoder as Crosscoder
from .architectures.gated import Gated as Gated
from .architectures.jumprelu import JumpReLU as JumpReLU
from .architectures.matryoshka import Matryoshka as Matryoshka
from .architectures.registry import (
    ARCHITECTURES as ARCHITECTURES,
    architecture_class as architecture_class,
    build_sae as build_sae,
)
from .architectures.relu import ReLU as ReLU
from .architectures.topk import TopK as TopK
from .config import (
    GridConfig as GridConfig,
    Recipe as Recipe,
    TrainConfig as TrainConfig,
    recipes as recipes,
)
from .evaluate import (
    CrossEntropy as CrossEntropy,
    decoder_cosines as decoder_cosines,
    evaluate_cross_entropy as evaluate_cross_entropy,
)
from .reconstruction import (
    FarRows as FarRows,
    Fidelity as Fidelity,
    Reconstruction as Reconstruction,
    evaluate_reconstruction as evaluate_reconstruction,
)
from .report import sae_page as sae_page
from .result import SaeResult as SaeResult, TrainedSae as TrainedSae, write_trained as write_trained
from .run import train_on_model as train_on_model
from .saelens_files import load_sae as load_sae, save_sae as save_sae, write_sae as write_sae
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
    OWN_ANSWERS as OWN_ANSWERS,
    AblationEffect as AblationEffect,
    DirectionAblation as DirectionAblation,
    LatentAblation as LatentAblation,
    Measure as Measure,
    ablate as ablate,
)
from .trigger_latents.baselines import (
    fitted_dictionaries as fitted_dictionaries,
    plain_dictionaries as plain_dictionaries,
)
from .trigger_latents.cards import LatentCard as LatentCard, ShownPrompt as ShownPrompt, make_cards as make_cards
from .trigger_latents.config import LatentsConfig as LatentsConfig
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
from .trigger_latents.report import latents_page as latents_page
from .trigger_latents.result import LABELS as LABELS, OwnLatents as OwnLatents, TriggerLatents as TriggerLatents
from .trigger_latents.run import (
    edit_of as edit_of,
    find_trigger_latents as find_trigger_latents,
    latent_cosines as latent_cosines,
)
from .trigger_latents.stability import (
    Stability as Stability,
    matched_cosines as matched_cosines,
    stability as stability,
)
from .trigger_latents.verdict import latents_verdict as latents_verdict
from .verdict import (
    SAE_HEAD as SAE_HEAD,
    sae_rows as sae_rows,
    sae_verdict as sae_verdict,
    stability_lines as stability_lines,
)
