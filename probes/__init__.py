"""Linear defection probes: fit on every layer at once, choose, calibrate, evaluate beside controls, report."""

from hooked.prompts.splits import Fractions, Splits, group_prompts, split_prompts
from probes.aggregate import AGGREGATIONS, Aggregation, aggregate
from probes.classifiers.lda import LDAProbe
from probes.classifiers.logistic import LogisticProbe
from probes.classifiers.mean_difference import MeanDifferenceProbe
from probes.classifiers.moments import Moments
from probes.config import TrainConfig
from probes.evaluate import train_probe
from probes.probe import LinearProbe
from probes.refit import fresh_auroc
from probes.report import Example, example_rows, make_example, report_html
from probes.result import Control, LayerResult, ProbeResult, metrics_json
from probes.run import check_prompts, example_prompts, train_on_model
from probes.score import PromptScore, score_prompts
from probes.verdict import verdict
from triggerlens.estimate import Estimate, bootstrap_interval
from triggerlens.estimate import rate as wilson
from triggerlens.ranking import auroc, threshold_at_fpr, tpr_at_fpr

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
