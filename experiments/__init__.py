"""One module for each claim of the literature: a frozen config in, a saved and hashed result out.

>>> from experiments import EXPERIMENTS
>>> EXPERIMENTS["trigger-agnostic-probe"].claims
(1,)

To add one: a module with `VERSION`, `Config`, `QUICK` and `run(config, keep)` (see `experiments.runner`), and its line below.
"""

from experiments.registry import EXPERIMENTS, Experiment
from experiments.result import Finding, Result
from experiments.runner import RESULTS, Keep, compute, read_result, run_experiment
from experiments.shared.subjects import ExperimentConfig, ModelsConfig, Subject

__all__ = [
    "EXPERIMENTS",
    "RESULTS",
    "Experiment",
    "ExperimentConfig",
    "Finding",
    "Keep",
    "ModelsConfig",
    "Result",
    "Subject",
    "compute",
    "read_result",
    "run_experiment",
]
