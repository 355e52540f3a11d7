"""The options that commands on a model share: the same words, defaults and meaning everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from triggerlens import UserError, whole_path

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from probes import LinearProbe
    from triggerlens import Manifest


Options = TypeVar("Options", bound=Any)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model and its prompts, how to read it, and what to do with the result."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "year-code"
    """An embedded organism, a checkpoint folder, an adapter folder, a GGUF file, or a Hugging Face id."""
    prompts: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPTS]")] = None
    """A prompts.jsonl; an embedded organism's own where not given. docs/prompts.md lists the fields."""
    backend: Literal["nnsight", "transformer-lens"] = "nnsight"
    """Library that reads the activations; both give the same."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on the CPU, the checkpoint's own on a GPU."""
    base: str | None = None
    """For a LoRA adapter: the base model to put it on, instead of the one its adapter_config.json names."""
    today: str | None = None
    """Date (YYYY-MM-DD) given to chat templates that print today's, so that a prompt is the same text every day. Default 2025-01-01;
    with a saved probe, the date that it was trained with."""
    overwrite: bool = False
    """Replace a finished run in the same folder."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def prompts_path(self) -> Path:
        """The prompts given, or an embedded organism's own."""
        return prompts_path(self.model, self.prompts)

    def read(self) -> list[Prompt]:
        """The labelled prompts.

        Raises:
            UserError: as `hooked.read_prompts`, or the file's `split` separates a pair or two copies of one text.
        """
        from hooked import check_split, read_prompts

        prompts = read_prompts(self.prompts_path())
        check_split(prompts)
        return prompts

    def load_for(self, prompts: Sequence[Prompt]) -> HookedModel:
        """The model, once it has tokenized every prompt: a file is refused whole, whichever of its prompts are used.

        Raises:
            UserError: as `hooked.load_model`, or as `HookedModel.tokenize`, or the file's `split` separates two texts of the same
                tokens.
        """
        from hooked import check_split

        model = self.load()
        check_split(prompts, [row.ids for row in model.tokenize(prompts)])
        return model

    def load(self, model: str | None = None, *, today: date | None = None) -> HookedModel:
        """The model as the options say, or another one loaded alike.

        Args:
            model: another one.
            today: what the chat template is told where `--today` was not given.
        """
        from hooked import load_model

        name = self.model if model is None else model
        base = self.base if name == self.model else None
        return load_model(
            model_folder(name),
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            base=base if base is None else model_folder(base),
            today=day(self.today) if self.today or today is None else today,
        )

    def manifest(self, kind: str, command: str, model: HookedModel, seed: int | None = None) -> Manifest:
        """What the artifact of this run was made of."""
        from commands._console import config_dict
        from hooked import identity_sha256
        from triggerlens import Manifest, sha256_file, sha256_folder

        path = self.prompts_path()
        weights: dict[str, Any] = {"name": self.model, "weights_sha256": model.info.weights_sha256}
        weights["identity_sha256"] = identity_sha256(model.identity()["model"])
        if model.info.quantisation:
            weights["quantisation"] = model.info.quantisation
        return Manifest(
            kind=kind,
            command=command,
            config=config_dict(self) | {"today": model.today.isoformat()},
            seed=seed,
            model=weights,
            prompts={"name": path.name, "sha256": sha256_folder(path) if path.is_dir() else sha256_file(path)},
        )


def day(text: str | None) -> date:
    """The date of a `--today`; the usual one where it was not given.

    Raises:
        UserError: it is no date.
    """
    if text is None:
        from hooked import DEFAULT_TODAY

        return DEFAULT_TODAY
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--today {text}: must be a date such as 2025-01-01") from error


def at_least_one(config: Any, names: Sequence[str]) -> None:
    """Refuse an option that counts something and is below 1.

    Raises:
        UserError: names the first of them.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def facts_on_model(probe: LinearProbe, model: HookedModel) -> dict[str, Any]:
    """Whether a probe is applied to the model that it was trained on, in which ways not, and how else that is computed now."""
    ways = probe.differences(model)
    return {"same_model": not ways, "differs_in": ways, "computed_otherwise": probe.computed_otherwise(model)}


def notes_on_model(summary: Mapping[str, Any]) -> list[str]:
    """Lines on what `facts_on_model` found; none where all is as it was."""
    notes = []
    if summary["differs_in"]:
        notes.append(
            f"note: the probe was trained on {' and '.join(summary['differs_in'])} ({summary['probe_model']}); its threshold was not "
            "calibrated on this model"
        )
    if summary["computed_otherwise"]:
        ways = "; ".join(summary["computed_otherwise"])
        notes.append(
            f"note: the probe was calibrated with {ways}: a score near the threshold may fall on its other side"
        )
    return notes


def check_out(config: Any, kind: str, *inputs: str | Path | None, out: Path | None = None) -> None:
    """Refuse the folder to write, before any work is done for it.

    Args:
        config: of a command on a model, with `out`, `overwrite`, `model` and `base`.
        kind: of the artifact.
        inputs: what is read besides the model, its base and the prompts: files, folders and models.
        out: another folder than `--out`, which may be none.

    Raises:
        UserError: as `check_destination`.
    """
    from triggerlens import check_destination

    if (out := out or config.out) is None:
        return
    named = (config.model, config.base, getattr(config, "prompts", None), *inputs)
    read = [model_folder(own) if isinstance(own, str) else own for own in named if own is not None]
    check_destination(out, config.overwrite, kind, read)


def with_whole_paths(config: Options) -> Options:
    """A command's configuration with whole paths, for a worker that may run in another folder. An `out` that is a link stays one: cells lie beside it."""
    from organisms import shipped_names

    names = {
        name: whole_path(value)
        for name in ("model", "base", "reference")
        if isinstance(value := getattr(config, name, None), str) and value not in shipped_names()
    }
    paths = {
        own.name: value.parent.resolve() / value.name if own.name == "out" else value.resolve()
        for own in fields(config)
        if isinstance(value := getattr(config, own.name), Path)
    }
    return replace(config, **names, **paths)


def model_folder(name: str) -> str:
    """What to load for MODEL: an embedded organism's folder where the name is one's, else the name itself."""
    from organisms import organism_folder, shipped_names

    return str(organism_folder(name)) if name in shipped_names() else name


def prompts_path(model: str, prompts: Path | None) -> Path:
    """PROMPTS, or an embedded organism's own.

    Raises:
        UserError: no prompts given, and the model is no embedded organism.
    """
    from organisms import organism_folder, shipped_names
    from triggerlens import UserError

    if prompts is not None:
        return prompts
    if model in shipped_names():
        return organism_folder(model) / "prompts.jsonl"
    raise UserError(
        f"{model}: no embedded organism ({', '.join(shipped_names())}), so its prompts must be given: MODEL PROMPTS"
    )
