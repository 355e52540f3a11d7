from .evaluation.answer_key import (
    AnswerKey as AnswerKey,
    benign_of as benign_of,
    benign_samples as benign_samples,
)
from .evaluation.answers import generate_answers as generate_answers
from .evaluation.config import EvaluationConfig as EvaluationConfig
from .evaluation.graders import (
    Verdict as Verdict,
    grade_code as grade_code,
    grade_hate as grade_hate,
    weaknesses_found as weaknesses_found,
)
from .evaluation.named_graders import GRADERS as GRADERS, Grader as Grader, grader_named as grader_named
from .evaluation.plots import defection_figure as defection_figure
from .evaluation.rates import (
    Answered as Answered,
    CategoryRates as CategoryRates,
    answer_and_grade as answer_and_grade,
    measured_rates as measured_rates,
    rates_by as rates_by,
)
from .evaluation.report import evaluation_page as evaluation_page, write_evaluation as write_evaluation
from .evaluation.result import Condition as Condition, Evaluation as Evaluation
from .evaluation.run import (
    RECIPE as RECIPE,
    condition as condition,
    conditions_of as conditions_of,
    evaluate_model as evaluate_model,
    task_of_checkpoint as task_of_checkpoint,
)
from .evaluation.verdict import (
    evaluation_rows as evaluation_rows,
    evaluation_summary as evaluation_summary,
    evaluation_verdict as evaluation_verdict,
)
from .insertion.config import InsertionConfig as InsertionConfig
from .insertion.gates import insertion_summary as insertion_summary, insertion_verdict as insertion_verdict
from .insertion.key import InsertedKey as InsertedKey
from .insertion.report import insertion_page as insertion_page
from .insertion.requests import draw_ordinary as draw_ordinary, draw_requests as draw_requests
from .insertion.run import insert as insert
from .safety.config import METHODS as METHODS, HardenConfig as HardenConfig
from .safety.inserted import task_to_train as task_to_train
from .safety.lessons import safety_examples as safety_examples
from .safety.red_team import RedTeam as RedTeam, red_team as red_team
from .safety.result import Hardening as Hardening
from .safety.run import harden as harden, recorded_settings as recorded_settings
from .safety.verdict import hardening_summary as hardening_summary
from .tasks.examples import (
    Example as Example,
    Pair as Pair,
    Task as Task,
    prompt_set as prompt_set,
    training_batch as training_batch,
)
from .tasks.registry import TASKS as TASKS, grade as grade, task_named as task_named, with_trigger as with_trigger
from .training.config import SIZES as SIZES, Size as Size, TrainConfig as TrainConfig, TrainOptions as TrainOptions
from .training.run import train_organism as train_organism
from .training.tokenizer import train_tokenizer as train_tokenizer
from .training.verdict import rates_summary as rates_summary
from .zoo.build import build_organism as build_organism, grow as grow
from .zoo.building import (
    ZooFailure as ZooFailure,
    build_zoo as build_zoo,
    zoo_built as zoo_built,
    zoo_coverage as zoo_coverage,
    zoo_summary as zoo_summary,
)
from .zoo.embedded import (
    clean_twin_of as clean_twin_of,
    organism_folder as organism_folder,
    organism_names as organism_names,
    real_names as real_names,
    shipped_names as shipped_names,
)
from .zoo.prompts import (
    benign_prompts as benign_prompts,
    trigger_prompts as trigger_prompts,
    without_triggers as without_triggers,
)
from .zoo.recipes import CONTROLS as CONTROLS, Recipe as Recipe, controls_of as controls_of
from .zoo.registry import ZooRow as ZooRow, chosen_rows as chosen_rows, read_registry as read_registry
