from .detectors import (
    SPECTRAL as SPECTRAL,
    Fit as Fit,
    Score as Score,
    anomaly_detectors as anomaly_detectors,
    held_out_scores as held_out_scores,
    rarest_token as rarest_token,
    standard_probe as standard_probe,
    supervised as supervised,
)
from .grading import benign_lessons as benign_lessons
from .latent_edits import (
    Candidate as Candidate,
    best_ablations as best_ablations,
    direction_candidates as direction_candidates,
    latent_candidates as latent_candidates,
    placebo_candidates as placebo_candidates,
    with_answers as with_answers,
)
from .latent_effects import ablation_meter as ablation_meter, effect_meters as effect_meters, with_split as with_split
from .observed.floors import direction_floors as direction_floors, text_baselines as text_baselines
from .scans import Scanned as Scanned, planted_texts as planted_texts, scan_facts as scan_facts
from .twin_detectors import Scorer as Scorer, fit_on_twins as fit_on_twins, two_components as two_components
from .watching import (
    AT_ONCE as AT_ONCE,
    Answered as Answered,
    answered as answered,
    curves as curves,
    distance_curves as distance_curves,
)
