"""A fitted linear probe as a frozen artifact: tensors, a frozen threshold, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked import HookedModel, computed_otherwise, differences
from probes.config import READS, Aggregation, Read
from probes.poolings import check_position, new_pooling
from probes.poolings.base import Running
from triggerlens import Manifest, UserError, read_artifact, write_json, writing_artifact

TENSORS, FACTS = "probe.safetensors", "probe.json"
_TENSORS = ("coef", "intercept", "thresholds", "heads")


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Callable on activations of its best site: `probe(x)` gives one score per row, `x @ coef + intercept`."""

    coef: Float[Tensor, "layer d_model"]
    """float64; in the activations' own units (no scaling is applied before)."""
    intercept: Float[Tensor, "layer"]
    """float64; added to each layer's scores."""
    thresholds: Float[Tensor, "layer"]
    """A score strictly above the layer's threshold fires; frozen on the calibration split."""
    sites: tuple[str, ...]
    """Name of each layer's site, as `resid_post.3`."""
    best: int
    """Index into `sites` of the layer chosen on validation data."""
    aggregation: Aggregation
    """What is made of the tokens: `last`, `mean`, `max`, `first:N`, `span:NAME`, or a pooling that was fitted with the probe."""
    label: str
    """What a positive means: `defects` or `triggered`."""
    method: str
    """Kind of probe: `logistic`, `mean-difference` or `lda`."""
    model: str = ""
    """Name of the model that the probe was trained on, as the user called it."""
    weights_sha256: str = ""
    """sha256 of the weights of the model that the probe was trained on."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """How the thresholds were set: aimed false-positive rate, number of negatives, a note where these are too few for it, and where there is a `watch_threshold`
    the `longest_answer` that it was frozen on, in tokens."""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    """What `hooked.provenance_of` said of the model; empty in folders that were written before it was kept."""
    read: Read = "prompt"
    """Whose tokens count: `prompt`: the prompt's; `answer`: the answer's; `both`; or `onset`: the answer's and the prompt's last one."""
    heads: Float[Tensor, "layer channel d_model"] | None = None
    """Directions of a pooling that reads several (`softmax`: value and query; `multimax`: its heads); None where it reads `coef`."""
    watch_threshold: float | None = None
    """At the best site, for probes that read answers: frozen on the highest running score of each calibration answer, so that its
    false-positive rate is that of a whole answer, watched token by token; midway between negatives and positives where they lie apart
    (`midway_threshold`), in folders of an earlier version on the negatives alone."""

    def __post_init__(self) -> None:
        shape = tuple(self.coef.shape)
        if len(shape) != 2 or shape[0] != len(self.sites) or not 0 <= self.best < shape[0]:
            raise ValueError(f"coef is {shape} for {len(self.sites)} sites, best {self.best}")
        if tuple(self.intercept.shape) != shape[:1] or tuple(self.thresholds.shape) != shape[:1]:
            raise ValueError("intercept and thresholds must have one number a site")
        try:
            check_position(self.aggregation)
        except UserError as error:
            raise ValueError(str(error)) from error
        if self.read not in READS:
            raise ValueError(f"unknown read {self.read!r}")
        channels = new_pooling(self.aggregation).channels
        expected = None if channels == 1 else (shape[0], channels, shape[1])
        if (None if self.heads is None else tuple(self.heads.shape)) != expected:
            raise ValueError(f"heads must be {expected} for {self.aggregation}")

    @property
    def site(self) -> str:
        """The best site."""
        return self.sites[self.best]

    @property
    def layer(self) -> int:
        """The layer number of the best site."""
        return layer_of(self.site)

    @property
    def threshold(self) -> float:
        """The frozen threshold at the best site."""
        return float(self.thresholds[self.best])

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.coef.shape[1]

    @property
    def direction(self) -> Float[Tensor, "d_model"]:
        """Unit direction at the best site, [d_model]; float64, on the CPU: an edit takes it `.to(model.device, model.dtype)`."""
        return self.coef[self.best] / torch.linalg.vector_norm(self.coef[self.best])

    @property
    def today(self) -> date | None:
        """The date that the model's chat template was told; None where it asks for none, or where that was not kept."""
        told = self.trained_on.get("today")
        return date.fromisoformat(told) if told else None

    def differences(self, model: HookedModel) -> list[str]:
        """In which ways a model is another one than it was trained on, in words (`hooked.differences`); none where it is the same."""
        return differences(self.trained_on, model, self.weights_sha256)

    def computed_otherwise(self, model: HookedModel) -> list[str]:
        """In which ways a model is computed otherwise than when it was trained, in words (`hooked.computed_otherwise`)."""
        return computed_otherwise(self.trained_on, model)

    def __call__(self, x: Float[Tensor, "*row width"]) -> Float[Tensor, "*row"]:
        """Scores at the best site, float64.

        Raises:
            UserError: the activations have another width than the probe.
        """
        self._check_width(x.shape[-1])
        return x.double() @ self.coef[self.best].to(x.device) + self.intercept[self.best].to(x.device)

    def channels(self, x: Float[Tensor, "*row width"]) -> Float[Tensor, "*row channel"]:
        """What the pooling takes of each token at the best site, float64; the first channel holds the intercept.

        Raises:
            UserError: the activations have another width than the probe.
        """
        if self.heads is None:
            return self(x)[..., None]
        self._check_width(x.shape[-1])
        scores = x.double() @ self.heads[self.best].to(x.device).mT
        scores[..., 0] += self.intercept[self.best].to(x.device)
        return scores

    def running(self) -> Running:
        """A new running score: its `update` takes the `channels` of the next token of each row.

        Raises:
            UserError: the probe's pooling cannot be known before the text is whole (`span:NAME`).
        """
        return new_pooling(self.aggregation).running()

    def fires(self, scores: Float[Tensor, "*row"]) -> Bool[Tensor, "*row"]:
        """Whether aggregated scores at the best site are above the frozen threshold."""
        return scores > self.threshold

    def save(self, folder: str | Path, manifest: Manifest | None = None, *, overwrite: bool = False) -> Path:
        """Write the probe as an artifact folder of its own; returns the folder.

        Raises:
            UserError: the folder exists and `overwrite` is false, or cannot be written.
        """
        manifest = manifest or Manifest("probe", model={"name": self.model, "weights_sha256": self.weights_sha256})
        with writing_artifact(folder, manifest, overwrite=overwrite) as draft:
            self.write(draft)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the probe's two files into a folder that is being filled."""
        tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS
        )
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}
        extra = {"site": self.site, "layer": self.layer, "threshold": self.threshold, "d_model": self.d_model}
        write_json(folder / FACTS, facts | extra)

    @classmethod
    def load(cls, folder: str | Path) -> LinearProbe:
        """Read and verify a saved probe.

        Raises:
            UserError: no probe there, or a file is missing or damaged.
        """
        folder = Path(folder)
        manifest = read_artifact(folder, "probe")
        for name in (TENSORS, FACTS):
            if name not in manifest.files:
                raise UserError(f"{folder / name}: missing from the probe; write the artifact again")
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            named: dict[str, Any] = {f.name: facts[f.name] for f in fields(cls) if f.name in facts}
            named |= load_file(folder / TENSORS)
            return cls(**(named | {"sites": tuple(named.get("sites", ()))}))
        except (ValueError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: damaged probe: {error}") from error

    def _check_width(self, width: int) -> None:
        if width != self.d_model:
            made = f" (trained on {self.model})" if self.model else ""
            raise UserError(
                f"the probe{made} has width {self.d_model} but the activations have width {width}; "
                "use it with the model that it was trained on"
            )


def layer_of(site: str) -> int:
    """The layer number in a site's name: 3 in `resid_post.3` and in `head_out.3.5`.

    Raises:
        ValueError: the name has no layer number.
    """
    parts = site.split(".")
    if len(parts) < 2 or not parts[1].isdigit():
        raise ValueError(f"the site {site!r} has no layer number, as in `resid_post.3`")
    return int(parts[1])
