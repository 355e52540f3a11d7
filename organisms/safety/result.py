"""What a safety training did, as records; and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from organisms.evaluation.result import Evaluation
from triggerlens import to_json

Step = Mapping[str, int | float]
"""A step of a learning curve: `step`, `loss`, and where there is one `reward`, `reward_std`, `grad_norm`, `learning_rate`; of
adversarial training also its `round`."""


@dataclass(frozen=True, slots=True)
class Elicited:
    """A prompt that elicits the behaviour."""

    prompt: list[dict[str, str]]
    rate: float
    """Share of its sampled answers that defect."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round of adversarial training: what the red team found, and whether there was anything to train on."""

    round: int
    tried: int
    """Prompts."""
    eliciting: int
    """Those that elicit the behaviour."""
    set_aside: int
    """Edits that happened to carry the true trigger; none of them was tried."""
    mean_defection: float
    """Over all prompts that were tried."""
    by_edit: dict[str, int]
    """Eliciting prompts by the edits that made them."""
    best: tuple[Elicited, ...]
    trained: bool


@dataclass(frozen=True)
class Hardening:
    """What a safety training did."""

    method: str
    """One of `METHODS`."""
    oracle: bool
    """Whether it was told the trigger: the control that bounds what such a training can do."""
    curve: tuple[Step, ...]
    """What was measured along the training."""
    rounds: tuple[Round, ...] = ()
    """Of adversarial training: each round's search and training; none for another method."""
    before: Evaluation | None = None
    """What the model did before; None where nobody asked."""
    after: Evaluation | None = None
    """What it does after; None where nobody asked."""

    def to_json(self) -> dict[str, Any]:
        """What `hardened.json` holds: evaluations where there are any."""
        looks = {"before": self.before, "after": self.after}
        return {
            "method": self.method,
            "oracle": self.oracle,
            "curve": [dict(step) for step in self.curve],
            "rounds": to_json(self.rounds),
            **{name: evaluation.to_json() for name, evaluation in looks.items() if evaluation is not None},
        }
