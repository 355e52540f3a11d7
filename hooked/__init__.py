"""Hooked models: sites, prompts, batching, activation extraction, the activation store."""

import lazy_loader

# Scripts took these from here before they moved to floor 0, and may go on so.
from triggerlens import Manifest, UserError, read_artifact, writing_artifact  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
