"""Cut a trigger out: methods of removal on one scoreboard, beside placebos and an oracle."""

from patching.removal.cases import Case, Cases, Row, gather_cases
from patching.removal.config import AblateConfig, quick_config
from patching.removal.edits import AnyEdit, Edit, PlacedEdit, WeightEdit
from patching.removal.fit import Fit
from patching.removal.grading import Grade, Grader
from patching.removal.measure import Bench, Measured, ProbeTrainer, js_divergence, kl_divergence, measure
from patching.removal.methods.oracle import cut_attention
from patching.removal.methods.orthogonalise import orthogonalise
from patching.removal.methods.registry import METHODS, Method
from patching.removal.progress import drop_progress, progress_folder
from patching.removal.relearning import Relearned
from patching.removal.result import Checkpoint, MethodResult, Oracle, Scoreboard, SeedResult
from patching.removal.route import Route
from patching.removal.run import patch_ablate
from patching.removal.subject import Subject
from patching.removal.weights import edited_model, save_checkpoint

__all__ = [
    "METHODS",
    "AblateConfig",
    "AnyEdit",
    "Bench",
    "Case",
    "Cases",
    "Checkpoint",
    "Edit",
    "Fit",
    "Grade",
    "Grader",
    "Measured",
    "Method",
    "MethodResult",
    "Oracle",
    "PlacedEdit",
    "ProbeTrainer",
    "Relearned",
    "Route",
    "Row",
    "Scoreboard",
    "SeedResult",
    "Subject",
    "WeightEdit",
    "cut_attention",
    "drop_progress",
    "edited_model",
    "gather_cases",
    "js_divergence",
    "kl_divergence",
    "measure",
    "orthogonalise",
    "patch_ablate",
    "progress_folder",
    "quick_config",
    "save_checkpoint",
]
