from .evaluation.answer_key import AnswerKey as AnswerKey, Judged as Judged, benign_samples as benign_samples
from .evaluation.evaluate import (
    Answered as Answered,
    CategoryRates as CategoryRates,
    Rate as Rate,
    answer_and_grade as answer_and_grade,
    generate_answers as generate_answers,
    measured_rates as measured_rates,
    rates_by as rates_by,
)
from .evaluation.graders import (
    Verdict as Verdict,
    grade_code as grade_code,
    grade_hate as grade_hate,
    weaknesses_found as weaknesses_found,
)
from .evaluation.report import (
    HEAD as HEAD,
    defection_figure as defection_figure,
    report as report,
    rows as rows,
    verdict as verdict,
)
from .evaluation.run import (
    RECIPE as RECIPE,
    Condition as Condition,
    Evaluation as Evaluation,
    condition as condition,
    conditions_of as conditions_of,
    evaluate_model as evaluate_model,
    task_of_checkpoint as task_of_checkpoint,
)
from .safety.lessons import safety_examples as safety_examples
from .safety.red_team import RedTeam as RedTeam, red_team as red_team
from .safety.run import HardenConfig as HardenConfig, harden as harden
from .tasks.examples import (
    Example as Example,
    Pair as Pair,
    Task as Task,
    prompt_set as prompt_set,
    training_batch as training_batch,
)
from .tasks.registry import TASKS as TASKS, grade as grade, task_named as task_named, with_trigger as with_trigger
from .training.config import SIZES as SIZES, Size as Size, TrainConfig as TrainConfig
from .training.run import train_organism as train_organism
from .training.tokenizer import train_tokenizer as train_tokenizer
from .zoo.build import CONTROLS as CONTROLS, Recipe as Recipe, controls_of as controls_of, grow as grow
from .zoo.embedded import (
    clean_twin_of as clean_twin_of,
    organism_folder as organism_folder,
    organism_names as organism_names,
)
