from .cases import Case as Case, Cases as Cases, Row as Row, gather_cases as gather_cases
from .config import AblateConfig as AblateConfig, quick_config as quick_config
from .edits import AnyEdit as AnyEdit, Edit as Edit, PlacedEdit as PlacedEdit, WeightEdit as WeightEdit
from .fit import Fit as Fit
from .grading import Grade as Grade, Grader as Grader
from .measure import (
    Bench as Bench,
    Measured as Measured,
    ProbeTrainer as ProbeTrainer,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
    measure as measure,
)
from .methods.oracle import cut_attention as cut_attention
from .methods.orthogonalise import orthogonalise as orthogonalise
from .methods.registry import METHODS as METHODS, Method as Method
from .progress import drop_progress as drop_progress, progress_folder as progress_folder
from .relearning import Relearned as Relearned
from .result import (
    Checkpoint as Checkpoint,
    MethodResult as MethodResult,
    Oracle as Oracle,
    Scoreboard as Scoreboard,
    SeedResult as SeedResult,
)
from .route import Route as Route
from .run import patch_ablate as patch_ablate
from .subject import Subject as Subject
from .weights import edited_model as edited_model, save_checkpoint as save_checkpoint
