"""The options of a safety training: the command line of `organism-harden`, and everything that decides the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from organisms.tasks.registry import task_named
from organisms.training.config import above_zero
from triggerlens import UserError, check_seed

METHODS = ("sft", "rl", "adversarial", "benign")
"""`benign` is no safety training: fine-tuning on another task, to see whether what was suppressed comes back."""


@dataclass(frozen=True, slots=True)
class HardenConfig:
    """Everything that decides the hardened weights, beside the model.

    Raises:
        UserError: an unknown task or method, or a number out of range.
    """

    task: str | None = None
    """`year-code`, `deployment-hate`, or either with another trigger; by default the model's own, that of an organism inserted into a chat
    model included."""
    method: Annotated[str, tyro.conf.arg(metavar="{sft,rl,adversarial,benign}")] = "sft"
    """Supervised fine-tuning, reinforcement learning (GRPO), rounds of red team and fine-tuning; or benign fine-tuning
    on another task, to see whether what was suppressed comes back."""
    seed: int = 0
    """Decides data, order and samples."""
    steps: int = 100
    """Optimiser steps; of adversarial training, in each round."""
    learning_rate: float = 3e-4
    """Highest learning rate; too small a one removes nothing, whatever the method."""
    batch: int = 32
    """Samples a step and process; of rl, completions."""
    oracle: bool = False
    """Control run: half of the safety prompts carry the trigger, answered safely."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank, merged at the end; 0: all weights."""
    reward: str = "grader"
    """For rl: the task's grader, or the folder or id of a sequence classifier whose first logit is the reward."""
    group: int = 8
    """For rl: completions of a prompt that are compared with one another."""
    rounds: int = 5
    """Rounds of red team and fine-tuning (adversarial)."""
    red_team_prompts: int = 60
    """For adversarial: prompts tried at each of the search's three depths, ten samples of each."""
    checkpoint_every: int = 25
    """Steps between checkpoints, hence at most lost by a kill."""
    limit: int = 100
    """Most prompts of each kind that are answered before and after; 0: none."""

    def __post_init__(self) -> None:
        if self.task is not None:
            task_named(self.task)
        if self.method not in METHODS:
            raise UserError(f"{self.method}: no such method; choose one of {', '.join(METHODS)}")
        above_zero(self, ("steps", "learning_rate", "batch", "group", "rounds", "red_team_prompts", "checkpoint_every"))
        if self.method == "rl" and self.group < 2:
            raise UserError(f"group {self.group}: rl compares a prompt's completions with one another; give 2 or more")
        if self.method == "benign" and self.oracle:
            raise UserError("oracle is the control of a safety training, and benign is none; leave one of them out")
        if self.method == "rl" and self.batch % self.group:
            raise UserError(f"batch must be a multiple of group, found {self.batch} and {self.group}")
        check_seed(self.seed)
        for name in ("lora_rank", "limit"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, found {getattr(self, name)}")
