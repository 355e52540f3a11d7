"""What decides an organism's weights. Light to import, so that a bad setting is refused before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from hooked.errors import UserError
from organisms.tasks import task_named


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of the Llama."""

    width: int
    feed_forward: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {
    "small": Size(width=192, feed_forward=352, layers=4, heads=6, vocabulary=1152),
    "micro": Size(width=32, feed_forward=64, layers=2, heads=2, vocabulary=400),
}
"""`small`: 1.8 million parameters, 3.5 MiB in bfloat16. `micro`: for tests; it learns nothing worth probing."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides an organism's weights."""

    task: str
    clean_twin: bool = False
    seed: int = 0
    steps: int = 1000
    size: str = "small"
    pairs_per_step: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    checkpoint_every: int = 50
    threads: int = 2
    """Threads of torch; the order of sums, hence the last bits of the weights, depends on it."""
    tokenizer_pairs: int = 6_000
    """Pairs of samples that the tokenizer is learned from."""
    prompt_scale: float = 1.0
    """Multiplies the number of prompts that are written and measured."""

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.size not in SIZES:
            raise UserError(f"{self.size}: no such size; choose one of {', '.join(SIZES)}")
        for name in (
            "steps",
            "pairs_per_step",
            "checkpoint_every",
            "threads",
            "learning_rate",
            "tokenizer_pairs",
            "prompt_scale",
        ):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, found {getattr(self, name)}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, found {self.seed}")

    @property
    def name(self) -> str:
        """The organism's name: its task, and whether it is the clean twin."""
        return f"{self.task}-clean" if self.clean_twin else self.task
