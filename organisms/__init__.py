"""Model organisms with a known trigger: tasks, training, grading, and the embedded zoo.

>>> from organisms import organism_folder, clean_twin_of
>>> clean_twin_of("year-code")
'year-code-clean'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from organisms.evaluation.answer_key import AnswerKey, Judged, benign_samples
from organisms.evaluation.graders import Verdict, grade_code, grade_hate, weaknesses_found
from organisms.safety.data import safety_examples
from organisms.tasks.examples import Example, Pair, Task, prompt_set, training_batch
from organisms.tasks.registry import TASKS, grade, task_named, with_trigger
from organisms.training.config import SIZES, Size, TrainConfig
from organisms.zoo.build import CONTROLS, Recipe, controls_of, grow
from organisms.zoo.embedded import clean_twin_of, organism_folder, organism_names

if TYPE_CHECKING:
    from organisms.evaluation.evaluate import (
        Answered,
        CategoryRates,
        Rate,
        answer_and_grade,
        generate_answers,
        measured_rates,
        rates_by,
    )
    from organisms.evaluation.report import defection_figure
    from organisms.evaluation.run import Condition, Evaluation, evaluate_model, task_of_checkpoint
    from organisms.safety.red_team import RedTeam, red_team
    from organisms.safety.run import HardenConfig, harden
    from organisms.training.run import train_organism
    from organisms.training.tokenizer import train_tokenizer

__all__ = [
    "CONTROLS",
    "SIZES",
    "TASKS",
    "AnswerKey",
    "Answered",
    "CategoryRates",
    "Condition",
    "Evaluation",
    "Example",
    "HardenConfig",
    "Judged",
    "Pair",
    "Rate",
    "Recipe",
    "RedTeam",
    "Size",
    "Task",
    "TrainConfig",
    "Verdict",
    "answer_and_grade",
    "benign_samples",
    "clean_twin_of",
    "controls_of",
    "defection_figure",
    "evaluate_model",
    "generate_answers",
    "grade",
    "grade_code",
    "grade_hate",
    "grow",
    "harden",
    "measured_rates",
    "organism_folder",
    "organism_names",
    "prompt_set",
    "rates_by",
    "red_team",
    "safety_examples",
    "task_named",
    "task_of_checkpoint",
    "train_organism",
    "train_tokenizer",
    "training_batch",
    "weaknesses_found",
    "with_trigger",
]

_HEAVY = {
    "organisms.evaluation.evaluate": (
        "Answered",
        "CategoryRates",
        "Rate",
        "answer_and_grade",
        "generate_answers",
        "measured_rates",
        "rates_by",
    ),
    "organisms.evaluation.run": ("Condition", "Evaluation", "evaluate_model", "task_of_checkpoint"),
    "organisms.evaluation.report": ("defection_figure",),
    "organisms.safety.run": ("HardenConfig", "harden"),
    "organisms.safety.red_team": ("RedTeam", "red_team"),
    "organisms.training.tokenizer": ("train_tokenizer",),
    "organisms.training.run": ("train_organism",),
}
"""Modules that import torch and transformers: only when one of their names is asked for."""


def __getattr__(name: str) -> Any:
    for module, names in _HEAVY.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
