"""Sparse autoencoders: architectures, training, files, evaluation, trigger latents."""

from sae.architectures.batch_topk import BatchTopK
from sae.architectures.core import Losses, Moment, SparseAutoencoder
from sae.architectures.crosscoder import Crosscoder
from sae.architectures.gated import Gated
from sae.architectures.jumprelu import JumpReLU
from sae.architectures.matryoshka import Matryoshka
from sae.architectures.relu import ReLU
from sae.architectures.topk import TopK
from sae.config import TrainConfig
from sae.evaluate import (
    CrossEntropy,
    Reconstruction,
    decoder_cosines,
    evaluate_cross_entropy,
    evaluate_reconstruction,
)
from sae.report import HEAD, metrics_json, report_html, rows, summary
from sae.run import Recipe, TrainedSae, recipes, train_on_model, write_trained
from sae.saelens_files import ARCHITECTURES, build_sae, load_sae, save_sae, write_sae
from sae.sources import ActivationSource, ModelSource, SideBySide, StoreSource, TensorSource
from sae.texts import Mixed, TextPieces, read_texts, train_and_held_out
from sae.train import CurvePoint, train_sae, train_saes
from sae.trigger_latents.ablation import AblationEffect, DirectionAblation, LatentAblation, ablate
from sae.trigger_latents.baselines import fitted_dictionaries, plain_dictionaries
from sae.trigger_latents.cards import LatentCard, make_cards
from sae.trigger_latents.latents import (
    LatentScore,
    PromptLabels,
    prompt_labels,
    rank_latents,
    read_features,
    shuffled_control,
)
from sae.trigger_latents.probing import SparseProbe, k_sparse_probe
from sae.trigger_latents.report import dashboard_html, latent_summary
from sae.trigger_latents.run import TriggerLatents, edit_of, find_trigger_latents, latent_cosines
from sae.trigger_latents.stability import Stability, matched_cosines, stability

__all__ = [
    "ARCHITECTURES",
    "HEAD",
    "AblationEffect",
    "ActivationSource",
    "BatchTopK",
    "CrossEntropy",
    "Crosscoder",
    "CurvePoint",
    "DirectionAblation",
    "Gated",
    "JumpReLU",
    "LatentAblation",
    "LatentCard",
    "LatentScore",
    "Losses",
    "Matryoshka",
    "Mixed",
    "ModelSource",
    "Moment",
    "PromptLabels",
    "ReLU",
    "Recipe",
    "Reconstruction",
    "SideBySide",
    "SparseAutoencoder",
    "SparseProbe",
    "Stability",
    "StoreSource",
    "TensorSource",
    "TextPieces",
    "TopK",
    "TrainConfig",
    "TrainedSae",
    "TriggerLatents",
    "ablate",
    "build_sae",
    "dashboard_html",
    "decoder_cosines",
    "edit_of",
    "evaluate_cross_entropy",
    "evaluate_reconstruction",
    "find_trigger_latents",
    "fitted_dictionaries",
    "k_sparse_probe",
    "latent_cosines",
    "latent_summary",
    "load_sae",
    "make_cards",
    "matched_cosines",
    "metrics_json",
    "plain_dictionaries",
    "prompt_labels",
    "rank_latents",
    "read_features",
    "read_texts",
    "recipes",
    "report_html",
    "rows",
    "save_sae",
    "shuffled_control",
    "stability",
    "summary",
    "train_and_held_out",
    "train_on_model",
    "train_sae",
    "train_saes",
    "write_sae",
    "write_trained",
]
