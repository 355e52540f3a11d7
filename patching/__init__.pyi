from .alignment import (
    Alignment as Alignment,
    align as align,
    alignment_table as alignment_table,
    common_ends as common_ends,
    given_alignment as given_alignment,
)
from .engine.attribution import (
    Estimate as Estimate,
    attribution_effects as attribution_effects,
    metric_gradients as metric_gradients,
    rank_correlation as rank_correlation,
)
from .engine.cells import (
    Cell as Cell,
    Patch as Patch,
    joint_cell as joint_cell,
    layer_cells as layer_cells,
    layer_sites as layer_sites,
    position_cells as position_cells,
    site_cells as site_cells,
)
from .engine.exact import Audit as Audit, ExactResult as ExactResult, exact_effects as exact_effects
from .engine.packed import DoesNotFit as DoesNotFit, PackedModel as PackedModel
from .engine.reference import patched_value as patched_value, read_sites as read_sites
from .metric import (
    KLDivergence as KLDivergence,
    LogitDifference as LogitDifference,
    LogProbability as LogProbability,
    Readout as Readout,
    normalised as normalised,
    readout as readout,
)
from .pairs import (
    DIRECTIONS as DIRECTIONS,
    Direction as Direction,
    PatchPair as PatchPair,
    Sides as Sides,
    make_pair as make_pair,
    make_pairs as make_pairs,
    twins as twins,
)
from .removal.cases import Case as Case, Cases as Cases, Row as Row, gather_cases as gather_cases
from .removal.config import AblateConfig as AblateConfig, quick_config as quick_config
from .removal.edits import AnyEdit as AnyEdit, Edit as Edit, PlacedEdit as PlacedEdit, WeightEdit as WeightEdit
from .removal.fit import Fit as Fit
from .removal.grading import Grade as Grade, Grader as Grader, following as following, remembering as remembering
from .removal.measure import (
    Bench as Bench,
    Measured as Measured,
    ProbeTrainer as ProbeTrainer,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
    measure as measure,
)
from .removal.methods.oracle import cut_attention as cut_attention
from .removal.methods.orthogonalise import orthogonalise as orthogonalise
from .removal.methods.registry import METHODS as METHODS, Method as Method
from .removal.progress import drop_progress as drop_progress, progress_folder as progress_folder
from .removal.relearning import Relearned as Relearned
from .removal.report import (
    HEAD as HEAD,
    removal_page as removal_page,
    removal_verdict as removal_verdict,
    table_rows as table_rows,
)
from .removal.result import (
    Checkpoint as Checkpoint,
    MethodResult as MethodResult,
    Oracle as Oracle,
    Scoreboard as Scoreboard,
    SeedResult as SeedResult,
)
from .removal.route import Route as Route
from .removal.run import patch_ablate as patch_ablate
from .removal.subject import Subject as Subject
from .removal.weights import edited_model as edited_model, save_checkpoint as save_checkpoint
from .trace.landmarks import landmarks as landmarks
from .trace.report import trace_page as trace_page, trace_verdict as trace_verdict
from .trace.route import HeadRoute as HeadRoute
from .trace.run import (
    ROLES as ROLES,
    PairMap as PairMap,
    PatchTrace as PatchTrace,
    Share as Share,
    Top as Top,
    patch_trace as patch_trace,
)
