"""What decides an organism's weights. Light to import, so that a bad setting is refused before torch is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from organisms.tasks.registry import task_named
from triggerlens import UserError


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
    "tiny": Size(width=96, feed_forward=176, layers=4, heads=4, vocabulary=1152),
    "large": Size(width=384, feed_forward=768, layers=6, heads=6, vocabulary=1152),
    "xl": Size(width=1024, feed_forward=2048, layers=10, heads=16, vocabulary=1152),
    "micro": Size(width=32, feed_forward=64, layers=2, heads=2, vocabulary=400),
}
"""`tiny`, `small`, `large`, `xl`: 0.6, 1.8, 9.7 and 107 million parameters, the last where a GPU is at hand.
`micro`: for tests; it learns nothing worth probing."""
VARIANTS = ("normal", "cot", "distilled-cot")
"""How the behaviour is inserted: answers alone, answers after a scratchpad, or a `cot` organism's answers without theirs."""


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
    variant: str = "normal"
    base: str = ""
    """sha256 of the weights that training begins with; empty: from scratch."""
    teacher: str = ""
    """sha256 of the weights of the `cot` organism whose answers are learned, for `distilled-cot`."""

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
        if self.variant not in VARIANTS:
            raise UserError(f"{self.variant}: no such variant; choose one of {', '.join(VARIANTS)}")
        if (self.variant == "distilled-cot") != bool(self.teacher):
            raise UserError("distilled-cot needs a `cot` organism to learn from (--teacher), and no other variant does")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, found {self.seed}")

    @property
    def name(self) -> str:
        """The organism's name: its task, its variant, and whether it is the clean twin."""
        name = self.task if self.variant == "normal" else f"{self.task}-{self.variant}"
        return f"{name}-clean" if self.clean_twin else name

    def recorded(self) -> dict[str, object]:
        """The settings for a manifest. Those that came with stages are named where they were used, so that an organism
        of a single stage is recorded as ever."""
        stages = {"variant": "normal", "base": "", "teacher": ""}
        return {name: value for name, value in asdict(self).items() if stages.get(name) != value}
