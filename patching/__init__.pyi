from .alignment import (
    Alignment as Alignment,
    align as align,
    alignment_table as alignment_table,
    common_ends as common_ends,
    given_alignment as given_alignment,
)
from .engine.attribution import (
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
from .minimal import PairDifference as PairDifference, pair_difference as pair_difference
from .options import DIRECTIONS as DIRECTIONS, ROLES as ROLES, Direction as Direction, Role as Role
from .pairs import (
    PatchPair as PatchPair,
    Sides as Sides,
    make_pair as make_pair,
    make_pairs as make_pairs,
)
from .removal.config import (
    AblateConfig as AblateConfig,
    Screening as Screening,
    fitting_budget as fitting_budget,
    large_config as large_config,
    quick_config as quick_config,
)
from .removal.edits import (
    ActivationEdit as ActivationEdit,
    AnyEdit as AnyEdit,
    PlacedEdit as PlacedEdit,
    WeightEdit as WeightEdit,
)
from .removal.fit import Fit as Fit
from .removal.grading import (
    Defects as Defects,
    Grader as Grader,
    OwnAnswers as OwnAnswers,
    following as following,
    remembering as remembering,
)
from .removal.measure import (
    Bench as Bench,
    ProbeTrainer as ProbeTrainer,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
    measure as measure,
)
from .removal.methods.method import Method as Method, usual_placebo as usual_placebo
from .removal.methods.oracle import cut_attention as cut_attention
from .removal.methods.orthogonalise import orthogonalise as orthogonalise
from .removal.methods.registry import METHODS as METHODS
from .removal.pairs import (
    MarkedPair as MarkedPair,
    MarkedPrompt as MarkedPrompt,
    RemovalPairs as RemovalPairs,
    gather_pairs as gather_pairs,
)
from .removal.plots import scoreboard_figure as scoreboard_figure
from .removal.report import (
    HEAD as HEAD,
    removal_json as removal_json,
    removal_page as removal_page,
    table_rows as table_rows,
    write_scoreboard as write_scoreboard,
)
from .removal.result import (
    EditOutcome as EditOutcome,
    MethodResult as MethodResult,
    OracleResult as OracleResult,
    Relearned as Relearned,
    RouteFacts as RouteFacts,
    SavedCheckpoint as SavedCheckpoint,
    Scoreboard as Scoreboard,
    ScreenedMethod as ScreenedMethod,
    ScreenResult as ScreenResult,
    SeedResult as SeedResult,
    load_scoreboard as load_scoreboard,
)
from .removal.route import Route as Route
from .removal.run import patch_ablate as patch_ablate
from .removal.subject import Settled as Settled, Subject as Subject
from .removal.verdict import removal_verdict as removal_verdict, screen_words as screen_words
from .removal.weights import EditableModel as EditableModel, edited_model as edited_model, save_edited as save_edited
from .trace.config import TraceConfig as TraceConfig
from .trace.landmarks import Landmark as Landmark, landmarks as landmarks
from .trace.plots import (
    effect_figure as effect_figure,
    head_figure as head_figure,
    role_figure as role_figure,
    route_figure as route_figure,
)
from .trace.report import trace_page as trace_page
from .trace.result import (
    PairMap as PairMap,
    PatchTrace as PatchTrace,
    Top as Top,
    TriggerShare as TriggerShare,
    read_trace as read_trace,
    save_trace as save_trace,
    trace_json as trace_json,
    write_trace as write_trace,
)
from .trace.route import HeadRoute as HeadRoute
from .trace.run import patch_trace as patch_trace, trace_prompts as trace_prompts
from .trace.verdict import audit_words as audit_words, trace_verdict as trace_verdict
