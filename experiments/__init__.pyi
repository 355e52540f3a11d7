from .claims.answer_monitor import AnswerMonitor as AnswerMonitor
from .claims.behaviour_or_tokens import BehaviourOrTokens as BehaviourOrTokens
from .claims.clean_detectors import CleanDetectors as CleanDetectors
from .claims.insertion import InsertionGrid as InsertionGrid
from .claims.localisation import Localisation as Localisation
from .claims.observed import ObservedOrDeployed as ObservedOrDeployed
from .claims.persistence import Persistence as Persistence
from .claims.persistence_axes import PersistenceAxes as PersistenceAxes
from .claims.rare_answers import RareAnswers as RareAnswers
from .claims.removal import RemovalFrontier as RemovalFrontier
from .claims.trigger_agnostic import TriggerAgnostic as TriggerAgnostic
from .claims.trigger_latents import LatentsAndDirections as LatentsAndDirections
from .claims.unknown_trigger import UnknownTrigger as UnknownTrigger
from .claims.zoo_leaderboard import ZooLeaderboard as ZooLeaderboard
from .claims_table import Row as Row, markdown as markdown, read_table as read_table
from .experiment import (
    Claim as Claim,
    Experiment as Experiment,
    Judgement as Judgement,
    Verdict as Verdict,
    register as register,
)
from .registry import EXPERIMENTS as EXPERIMENTS, experiment_named as experiment_named
from .result import (
    Finding as Finding,
    Result as Result,
    Specimen as Specimen,
    estimate_of as estimate_of,
    mean_over_seeds as mean_over_seeds,
)
from .runner import run_experiment as run_experiment
from .saved_results import (
    RESULTS as RESULTS,
    chosen_result as chosen_result,
    read_result as read_result,
    read_results as read_results,
    real_result as real_result,
)
from .shared.grading import benign_lessons as benign_lessons
from .shared.latent_effects import ablation_meter as ablation_meter
from .shared.leaderboard.context import Context as Context
from .shared.leaderboard.entrants import Zoo as Zoo
from .shared.leaderboard.entries import enter as enter
from .shared.observed.contrasts import draw_contrasts as draw_contrasts
from .shared.observed.grammar import GRAMMAR as GRAMMAR, read_grammar as read_grammar
from .shared.observed.persistence import persistence_of as persistence_of
from .shared.observed.readings import read_contrasts as read_contrasts
from .shared.observed.transfer import (
    fit_formats as fit_formats,
    setting_estimates as setting_estimates,
    transfer_matrix as transfer_matrix,
)
from .shared.subjects import ExperimentConfig as ExperimentConfig, ModelsConfig as ModelsConfig, Subject as Subject
