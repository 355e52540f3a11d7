"""Linear defection probes: fit on every layer at once, choose, calibrate, evaluate beside controls, report."""

from probes.aggregate import AGGREGATIONS, Aggregation, aggregate
from probes.config import TrainConfig
from probes.fresh import fresh_auroc
from probes.lda import LDAProbe
from probes.linear import LinearProbe
from probes.logistic import LogisticProbe
from probes.mean_difference import MeanDifferenceProbe
from probes.metrics import Estimate, Rate, auroc, bootstrap_interval, threshold_at_fpr, tpr_at_fpr, wilson
from probes.moments import Moments
from probes.on_model import check_prompts, example_prompts, train_on_model
from probes.report import Example, example_rows, make_example, report_html
from probes.results import Control, LayerResult, ProbeResult, metrics_json
from probes.scoring import PromptScore, score_prompts
from probes.splits import Fractions, Splits, group_prompts, split_prompts
from probes.train import train_probe
from probes.verdict import verdict

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "Control",
    "Estimate",
    "Example",
    "Fractions",
    "LDAProbe",
    "LayerResult",
    "LinearProbe",
    "LogisticProbe",
    "MeanDifferenceProbe",
    "Moments",
    "ProbeResult",
    "PromptScore",
    "Rate",
    "Splits",
    "TrainConfig",
    "aggregate",
    "auroc",
    "bootstrap_interval",
    "check_prompts",
    "example_prompts",
    "example_rows",
    "fresh_auroc",
    "group_prompts",
    "make_example",
    "metrics_json",
    "report_html",
    "score_prompts",
    "split_prompts",
    "threshold_at_fpr",
    "tpr_at_fpr",
    "train_on_model",
    "train_probe",
    "verdict",
    "wilson",
]
