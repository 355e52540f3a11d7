"""Sparse autoencoders: architectures, training, files, evaluation."""

from sae.batch_topk import BatchTopK
from sae.config import TrainConfig
from sae.core import Losses, Moment, SparseAutoencoder
from sae.crosscoder import Crosscoder
from sae.files import ARCHITECTURES, build_sae, load_sae, save_sae, write_sae
from sae.gated import Gated
from sae.jumprelu import JumpReLU
from sae.matryoshka import Matryoshka
from sae.relu import ReLU
from sae.stream import ActivationSource, ModelSource, SideBySide, StoreSource, TensorSource
from sae.topk import TopK
from sae.train import CurvePoint, train_sae, train_saes

__all__ = [
    "ARCHITECTURES",
    "ActivationSource",
    "BatchTopK",
    "Crosscoder",
    "CurvePoint",
    "Gated",
    "JumpReLU",
    "Losses",
    "Matryoshka",
    "ModelSource",
    "Moment",
    "ReLU",
    "SideBySide",
    "SparseAutoencoder",
    "StoreSource",
    "TensorSource",
    "TopK",
    "TrainConfig",
    "build_sae",
    "load_sae",
    "save_sae",
    "train_sae",
    "train_saes",
    "write_sae",
]
