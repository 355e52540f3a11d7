from .aggregation import AGGREGATIONS as AGGREGATIONS, Aggregation as Aggregation, aggregate as aggregate
from .classifiers.lda import LDAProbe as LDAProbe
from .classifiers.logistic import LogisticProbe as LogisticProbe
from .classifiers.mean_difference import MeanDifferenceProbe as MeanDifferenceProbe
from .classifiers.moments import Moments as Moments
from .config import TrainConfig as TrainConfig
from .controls import bag_of_tokens as bag_of_tokens
from .detection import firing_rate as firing_rate
from .evaluate import choose_labels as choose_labels, train_probe as train_probe
from .probe import LinearProbe as LinearProbe
from .refit import fresh_auroc as fresh_auroc
from .report import (
    Example as Example,
    example_rows as example_rows,
    make_example as make_example,
    report_html as report_html,
)
from .result import (
    Control as Control,
    LayerResult as LayerResult,
    ProbeResult as ProbeResult,
    metrics_json as metrics_json,
    rate_json as rate_json,
)
from .run import check_prompts as check_prompts, example_prompts as example_prompts, train_on_model as train_on_model
from .score import PromptScore as PromptScore, score_prompts as score_prompts
from .verdict import probe_verdict as probe_verdict
