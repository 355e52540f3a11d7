"""Hooked models: sites, prompts, batching, activation extraction, the activation store."""

from hooked.extraction import ActivationBatch, ExtractionSpec, LiveActivations, stream_activations
from hooked.load import load_model
from hooked.model import HookedModel, ModelInfo, Run
from hooked.prompts.prompts import Prompt, PromptFile, read_prompts, write_prompts
from hooked.prompts.tokens import TokenizedPrompt, token_texts
from hooked.sites import Site, parse_site
from hooked.store import ActivationStore, default_store_root, store_activations
from triggerlens.artifacts import Manifest, read_artifact, writing_artifact
from triggerlens.errors import UserError

__all__ = [
    "ActivationBatch",
    "ActivationStore",
    "ExtractionSpec",
    "HookedModel",
    "LiveActivations",
    "Manifest",
    "ModelInfo",
    "Prompt",
    "PromptFile",
    "Run",
    "Site",
    "TokenizedPrompt",
    "UserError",
    "default_store_root",
    "load_model",
    "parse_site",
    "read_artifact",
    "read_prompts",
    "store_activations",
    "stream_activations",
    "token_texts",
    "write_prompts",
    "writing_artifact",
]
