from .claims_table import (
    PUBLISHED as PUBLISHED,
    PUBLISHED_SIMPLE as PUBLISHED_SIMPLE,
    markdown as markdown,
    read_table as read_table,
)
from .registry import EXPERIMENTS as EXPERIMENTS, Experiment as Experiment, experiment_named as experiment_named
from .result import Facts as Facts, Finding as Finding, Result as Result, over_seeds as over_seeds
from .runner import (
    RESULTS as RESULTS,
    Keep as Keep,
    compute as compute,
    read_result as read_result,
    read_results as read_results,
    run_experiment as run_experiment,
)
from .shared.grading import benign_lessons as benign_lessons, key_grader as key_grader
from .shared.latent_effects import ablation_meter as ablation_meter
from .shared.subjects import ExperimentConfig as ExperimentConfig, ModelsConfig as ModelsConfig, Subject as Subject
