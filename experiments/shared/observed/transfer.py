"""Directions between two contexts, and how far they carry: to other prompts, other formats, other cues, and both.

1. A probe is fitted on the `fit` part of some formats, at every layer. Its layer is the one with the highest AUROC on the `validation`
   part of the same formats, whose cues it has not seen; of equal ones the lowest.
2. Scores are used the way round that fitting says. AUROC on the `known` and `new` parts of each format: inside what it was fitted on, and
   outside.
3. Four settings sum this up, each a mean over formats: fitted and tested on one format (`within`), or fitted on all others
   (`across`); with the cues of fitting or with other ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

import probes
from experiments.shared.later import torch
from experiments.shared.observed.contrasts import Contrasts, Part
from triggerlens import Estimate, auroc, auroc_estimate

ProbeKind = Literal["mean difference", "logistic"]
PROBES: tuple[ProbeKind, ...] = ("mean difference", "logistic")
Setting = Literal["within format", "across formats", "within format, new cues", "across formats, new cues"]
SETTINGS: dict[Setting, tuple[bool, Part]] = {
    "within format": (False, "known"),
    "across formats": (True, "known"),
    "within format, new cues": (False, "new"),
    "across formats, new cues": (True, "new"),
}
"""Whether the format was left out of fitting, and which cues are tested."""
Rows = Int[np.ndarray, " row"]


@dataclass(frozen=True)
class Reading:
    """What is known of a model's prompts."""

    contrasts: Contrasts
    values: Float[torch.Tensor, "prompt site d_model"]

    def labels(self, rows: Rows) -> Bool[np.ndarray, " row"]:
        """Of some prompts."""
        return self.contrasts.positive[rows]


@dataclass(frozen=True)
class Fitted:
    """A direction at every layer."""

    formats: tuple[str, ...]
    """That it was fitted on."""
    coef: Float[torch.Tensor, "site d_model"]
    layer: int
    """Chosen by the validation part."""


def fit(reading: Reading, kind: ProbeKind, formats: Sequence[str], labels: np.ndarray | None = None) -> Fitted:
    """A probe on some formats.

    Args:
        reading: of the model.
        kind: of probe.
        formats: to fit and to choose the layer on.
        labels: in place of the prompts' own, of those to fit on.
    """
    rows = reading.contrasts.rows("fit", *formats)
    coef = coefficients(kind, reading.values[rows], reading.labels(rows) if labels is None else labels)
    return Fitted(tuple(formats), coef, best_layer(reading, coef, formats))


def coefficients(
    kind: ProbeKind, values: Float[torch.Tensor, "prompt site d_model"], labels: np.ndarray
) -> Float[torch.Tensor, "site d_model"]:
    """A direction at every layer; the logistic one on features that are centred and scaled by one number a layer."""
    target = torch.from_numpy(labels.astype(np.int64))
    if kind == "mean difference":
        return (values[target == 1].mean(0) - values[target == 0].mean(0)).double()
    centred = values - values.mean(0)
    scale = centred.square().mean((0, 2)).sqrt().clamp_min(1e-12)
    return probes.LogisticProbe().fit(centred / scale[:, None], target).coef_ / scale[:, None]


def best_layer(reading: Reading, coef: Float[torch.Tensor, "site d_model"], formats: Sequence[str]) -> int:
    """The lowest of the layers with the highest validation AUROC."""
    rows = reading.contrasts.rows("validation", *formats)
    return int(auroc(scores(reading, coef, rows), reading.labels(rows)).argmax())


def scores(reading: Reading, coef: Float[torch.Tensor, "site d_model"], rows: Rows) -> Float[np.ndarray, "row site"]:
    """Projections at every layer."""
    return torch.einsum("psd,sd->ps", reading.values[rows].double(), coef).numpy()


def at_layer(
    reading: Reading, directions: Float[torch.Tensor, "direction d_model"], layer: int, rows: Rows
) -> Float[np.ndarray, "row direction"]:
    """Projections on several directions of one layer."""
    return (reading.values[rows, layer].double() @ directions.double().T).numpy()


def estimate(reading: Reading, fitted: Fitted, rows: Rows) -> Estimate:
    """AUROC at the probe's layer."""
    score = at_layer(reading, fitted.coef[fitted.layer][None], fitted.layer, rows)[:, 0]
    return auroc_estimate(score, reading.labels(rows), reading.contrasts.pairs[rows])


def fits_needed(formats: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Which probes the settings need: one of each format, and one of all others."""
    for name in formats:
        yield name, (name,)
        yield f"all but {name}", tuple(other for other in formats if other != name)


def fit_formats(reading: Reading, kind: ProbeKind = "mean difference") -> dict[str, Fitted]:
    """A probe on each single format, by its name, and on all but each, as `all but NAME`."""
    return {name: fit(reading, kind, many) for name, many in fits_needed(reading.contrasts.formats)}


def fits_of_setting(setting: Setting, formats: Sequence[str]) -> list[tuple[str, str, Part]]:
    """For each format: which fit is tested on it, and on which of its parts."""
    left_out, part = SETTINGS[setting]
    return [(f"all but {name}" if left_out else name, name, part) for name in formats]


def mean_of_formats(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of numbers that were measured on different prompts, with the interval that theirs give: their distances to each end, summed as
    independent errors are (Newcombe, 1998)."""
    value = float(np.mean([own.value for own in estimates]))
    down = math.hypot(*(own.value - own.low for own in estimates)) / len(estimates)
    up = math.hypot(*(own.high - own.value for own in estimates)) / len(estimates)
    n = sum(own.n for own in estimates if own.n is not None)
    return Estimate(value, max(0.0, value - down), min(1.0, value + up), n=n)


def setting_estimates(reading: Reading, fitted: Mapping[str, Fitted]) -> dict[Setting, Estimate]:
    """AUROC in each setting."""
    formats = reading.contrasts.formats
    return {
        setting: mean_of_formats(
            [
                estimate(reading, fitted[name], reading.contrasts.rows(part, form))
                for name, form, part in fits_of_setting(setting, formats)
            ]
        )
        for setting in SETTINGS
    }


def transfer_matrix(reading: Reading, fitted: Mapping[str, Fitted], part: Part) -> dict[str, dict[str, Estimate]]:
    """AUROC of each single format's probe on each format."""
    formats = reading.contrasts.formats
    return {
        name: {form: estimate(reading, fitted[name], reading.contrasts.rows(part, form)) for form in formats}
        for name in formats
    }


def curves(reading: Reading, fitted: Mapping[str, Fitted]) -> dict[Setting, list[float]]:
    """AUROC at every layer in each setting, mean over formats; of no layer that was chosen."""
    formats = reading.contrasts.formats
    return {setting: _curve(reading, fitted, fits_of_setting(setting, formats)) for setting in SETTINGS}


def _curve(reading: Reading, fitted: Mapping[str, Fitted], tested: Sequence[tuple[str, str, Part]]) -> list[float]:
    each = []
    for name, form, part in tested:
        rows = reading.contrasts.rows(part, form)
        each.append(auroc(scores(reading, fitted[name].coef, rows), reading.labels(rows)))
    return [round(float(value), 6) for value in np.mean(each, axis=0)]
