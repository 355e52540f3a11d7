"""Sparse autoencoders: architectures, training, files, evaluation."""

from sae.batch_topk import BatchTopK
from sae.config import TrainConfig
from sae.core import Losses, Moment, SparseAutoencoder
from sae.crosscoder import Crosscoder
from sae.evaluate import (
    CrossEntropy,
    Reconstruction,
    decoder_cosines,
    evaluate_cross_entropy,
    evaluate_reconstruction,
)
from sae.files import ARCHITECTURES, build_sae, load_sae, save_sae, write_sae
from sae.gated import Gated
from sae.jumprelu import JumpReLU
from sae.matryoshka import Matryoshka
from sae.on_model import Recipe, TrainedSae, recipes, train_on_model, write_trained
from sae.probing import SparseProbe, k_sparse_probe
from sae.relu import ReLU
from sae.report import HEAD, metrics_json, report_html, rows, summary
from sae.stability import Stability, matched_cosines, stability
from sae.stream import ActivationSource, ModelSource, SideBySide, StoreSource, TensorSource
from sae.texts import Mixed, TextPieces, read_texts, train_and_held_out
from sae.topk import TopK
from sae.train import CurvePoint, train_sae, train_saes

__all__ = [
    "ARCHITECTURES",
    "HEAD",
    "ActivationSource",
    "BatchTopK",
    "CrossEntropy",
    "Crosscoder",
    "CurvePoint",
    "Gated",
    "JumpReLU",
    "Losses",
    "Matryoshka",
    "Mixed",
    "ModelSource",
    "Moment",
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
    "build_sae",
    "decoder_cosines",
    "evaluate_cross_entropy",
    "evaluate_reconstruction",
    "k_sparse_probe",
    "load_sae",
    "matched_cosines",
    "metrics_json",
    "read_texts",
    "recipes",
    "report_html",
    "rows",
    "save_sae",
    "stability",
    "summary",
    "train_and_held_out",
    "train_on_model",
    "train_sae",
    "train_saes",
    "write_sae",
    "write_trained",
]
