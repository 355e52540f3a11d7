from .answers.plots import tokens_seen as tokens_seen
from .answers.result import AnswerPoint as AnswerPoint, AnswerResult as AnswerResult, Parting as Parting
from .classifiers.lda import LDAProbe as LDAProbe
from .classifiers.logistic import LogisticProbe as LogisticProbe
from .classifiers.mean_difference import MeanDifferenceProbe as MeanDifferenceProbe
from .classifiers.moments import Moments as Moments
from .config import AGGREGATIONS as AGGREGATIONS, Aggregation as Aggregation, TrainConfig as TrainConfig
from .controls import bag_of_tokens as bag_of_tokens, harmless_scores as harmless_scores
from .detection import (
    LabelledScores as LabelledScores,
    firing_rate as firing_rate,
    midway_threshold as midway_threshold,
)
from .fit import choose_layer as choose_layer
from .inputs import Answers as Answers, CheckedPrompts as CheckedPrompts, check_prompts as check_prompts
from .poolings.aggregation import aggregate as aggregate
from .poolings.base import Running as Running
from .poolings.registry import new_pooling as new_pooling
from .probe import LinearProbe as LinearProbe
from .refit import fresh_auroc as fresh_auroc
from .report import probe_page as probe_page
from .result import (
    Control as Control,
    HarmlessControl as HarmlessControl,
    LayerResult as LayerResult,
    ProbeResult as ProbeResult,
    metrics_json as metrics_json,
)
from .run import freeze_probe as freeze_probe, train_on_model as train_on_model, train_probe as train_probe
from .score import (
    Example as Example,
    PromptScore as PromptScore,
    example_prompts as example_prompts,
    example_rows as example_rows,
    score_prompts as score_prompts,
)
from .verdict import probe_verdict as probe_verdict
from .watch import (
    AnswerWatch as AnswerWatch,
    WatchedAnswer as WatchedAnswer,
    WatchedToken as WatchedToken,
    Watcher as Watcher,
    check_fits as check_fits,
    check_rooms as check_rooms,
    threshold_of as threshold_of,
    watch_answers as watch_answers,
)
