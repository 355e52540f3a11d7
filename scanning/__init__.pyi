from .behaviours import Behaviour as Behaviour, hidden_behaviours as hidden_behaviours
from .benign import Benign as Benign, answered_prompts as answered_prompts, courses as courses
from .calibrate import Against as Against, Floor as Floor, against as against, crossed as crossed
from .candidates.begun import (
    Beginning as Beginning,
    Start as Start,
    Usual as Usual,
    beginning as beginning,
    first_tokens as first_tokens,
    follow_starts as follow_starts,
    surest_beginnings as surest_beginnings,
    usual_of as usual_of,
)
from .candidates.candidate import Candidate as Candidate, Variants as Variants
from .candidates.families import family_candidates as family_candidates, read_candidates as read_candidates
from .candidates.leak import leak_candidates as leak_candidates, own_prompts as own_prompts
from .candidates.reference import reference_candidates as reference_candidates
from .candidates.siblings import (
    Siblings as Siblings,
    frames as frames,
    read_siblings as read_siblings,
    sibling_candidates as sibling_candidates,
    sibling_effects as sibling_effects,
)
from .candidates.sweep import (
    Swept as Swept,
    grow as grow,
    insertion as insertion,
    number_candidates as number_candidates,
    ordinary_tokens as ordinary_tokens,
    sweep_place as sweep_place,
)
from .candidates.target import (
    Target as Target,
    invert_target as invert_target,
    sure_targets as sure_targets,
)
from .config import RULES as RULES, ScanConfig as ScanConfig
from .judge import Judge as Judge
from .motifs import shared_motif as shared_motif
from .openly import (
    WEIGHED as WEIGHED,
    Openly as Openly,
    asked_openly as asked_openly,
    open_requests as open_requests,
    unasked as unasked,
)
from .pairs import Recovery as Recovery, found_prompts as found_prompts, recovered as recovered
from .report import scan_page as scan_page
from .result import (
    KIND as KIND,
    Judged as Judged,
    ScanResult as ScanResult,
    read_scan as read_scan,
    scan_json as scan_json,
    write_scan as write_scan,
)
from .run import scan_model as scan_model
from .score import (
    candidate_effects as candidate_effects,
    divergence as divergence,
    entropy as entropy,
    mean_effect as mean_effect,
)
from .statement import scan_statement as scan_statement
from .verdict import scan_score as scan_score, scan_summary as scan_summary, scan_verdict as scan_verdict
