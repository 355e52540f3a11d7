"""Train a probe and measure it honestly.

1. Split by groups into fit, validation, calibration and test.
2. Fit every layer on the fit split.
3. Choose the layer by validation AUROC; ties by the distance between the class means in pooled standard deviations
   (many layers can separate perfectly), then the earlier layer.
4. Freeze each layer's threshold on the calibration negatives.
5. Read the test split once: every layer's AUROC, rates at the best layer, and the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.decomposition import PCA
from torch import Tensor

from hooked import PARTS, Prompt, Splits, split_prompts
from probes.classifiers.base import linear_scores
from probes.config import TrainConfig
from probes.controls import (
    Comparison,
    Tokens,
    bag_of_tokens,
    compare_harmless,
    interval_of,
    random_directions,
    shuffled_labels,
    triggered_but_harmless,
)
from probes.detection import firing_rate
from probes.fit import Batch, Coefficients, Fitted, Source, check_finite, fit, gather, read
from probes.probe import LinearProbe, layer_of
from probes.result import Control, LayerResult, ProbeResult, TestData, TprAtFpr
from triggerlens import (
    Estimate,
    UserError,
    allowed,
    auroc,
    bootstrap_interval,
    threshold_at_fpr,
    tpr_at_fpr,
    weighted_auroc,
    weighted_tpr_at_fpr,
)

TokenSource = Callable[[Sequence[int]], Iterator[tuple[int, Float[Tensor, "token layer d_model"]]]]
"""Gives, prompt by prompt, the activations of every token of the asked prompts."""

UNNAMED = "(unnamed)"


def train_probe(
    source: Source,
    prompts: Sequence[Prompt],
    sites: Sequence[str],
    config: TrainConfig | None = None,
    *,
    token_source: TokenSource | None = None,
    tokens: Tokens | None = None,
    model: str = "",
    backend: str = "",
    weights_sha256: str = "",
) -> ProbeResult:
    """Fit, choose, calibrate and evaluate a linear probe at all sites.

    Args:
        source: activations by prompt: at the last token for `last`, the mean over tokens for `mean` and `max`.
        prompts: the labelled prompts; a source's indices count in this list.
        sites: name of each layer of the activations, as `resid_post.3`.
        config: what to train; None means the defaults.
        token_source: activations of every token; needed for `max` alone.
        tokens: token ids, for the bag-of-tokens control.
        model, backend, weights_sha256: written into the result.

    Raises:
        UserError: the prompts cannot be split or labelled, or an activation is NaN or infinite.
        ValueError: the sources do not fit the prompts, the sites or the aggregation.
    """
    config = config or TrainConfig()
    if config.aggregation == "max" and token_source is None:
        raise ValueError("aggregation `max` scores every token: give a token_source")
    label, labels = choose_labels(prompts, config.label)
    splits = split_prompts(prompts, labels, config.fractions, config.seed)
    setting = _Setting(source, token_source, prompts, tuple(sites), config, labels, splits)

    fitted = setting.fit()
    validation = setting.score(splits.validation, fitted)
    validation_auroc = auroc(validation, labels[splits.validation])
    best = choose_layer(validation, labels[splits.validation])
    calibration = setting.score(splits.calibration, fitted)
    thresholds, facts = calibrate(calibration[~labels[splits.calibration]], config.target_fpr)
    probe = LinearProbe(
        fitted.coef,
        fitted.intercept,
        torch.from_numpy(thresholds),
        tuple(sites),
        best,
        config.aggregation,
        label,
        config.method,
        model,
        weights_sha256,
        facts,
    )
    scores, bank = setting.score_with_bank(fitted, best)
    return _evaluate(setting, probe, backend, validation_auroc, scores, bank, tokens)


def choose_labels(prompts: Sequence[Prompt], label: str) -> tuple[str, Bool[np.ndarray, "prompt"]]:
    """The label's name and its values; `auto` takes `defects` where the prompts have it, else `triggered`.

    Raises:
        UserError: `defects` is asked for and a prompt does not have it, or there is no prompt.
    """
    if not prompts:
        raise UserError("there is no prompt to train on")
    without = next((prompt for prompt in prompts if prompt.defects is None), None)
    if label == "auto":
        label = "triggered" if without else "defects"
    if label == "defects" and without:
        raise UserError(
            f"{without.where or 'a prompt'}: `defects` is missing; add it to every prompt, or train on `triggered`"
        )
    return label, np.array([bool(getattr(prompt, label)) for prompt in prompts])


def choose_layer(scores: Float[np.ndarray, "prompt layer"], positive: Bool[np.ndarray, "prompt"]) -> int:
    """Index of the layer with the highest AUROC; ties by the separation of the class means, then the earlier layer."""
    gap = scores[positive].mean(0) - scores[~positive].mean(0)
    spread = np.sqrt((scores[positive].var(0) + scores[~positive].var(0)) / 2)
    separation = np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)
    # Rounding keeps a tie a tie where the sums behind equal AUROCs differ in their last bit.
    return int(np.lexsort((np.arange(len(gap)), -separation, -auroc(scores, positive).round(12)))[0])


def calibrate(
    negatives: Float[np.ndarray, "negative layer"], fpr: float
) -> tuple[Float[np.ndarray, "layer"], dict[str, float | int | str]]:
    """A threshold for each layer, and how it was set."""
    thresholds = np.array([threshold_at_fpr(column, fpr) for column in negatives.T])
    facts: dict[str, float | int | str] = {"target_fpr": fpr, "n_negative": len(negatives)}
    if not allowed(len(negatives), fpr):
        facts["note"] = (
            f"{len(negatives)} calibration negatives cannot resolve {fpr:.1%}: the threshold is their highest score"
        )
    return thresholds, facts


@dataclass(frozen=True, slots=True)
class _Bank:
    """Test scores of the shuffled probes, then of the random directions, on some test prompts."""

    scores: Float[np.ndarray, "chosen bank"]
    positive: Bool[np.ndarray, "chosen"]


@dataclass(frozen=True, slots=True)
class _Setting:
    """What every step reads."""

    source: Source
    token_source: TokenSource | None
    prompts: Sequence[Prompt]
    sites: tuple[str, ...]
    config: TrainConfig
    labels: Bool[np.ndarray, "prompt"]
    splits: Splits

    def fit(self) -> Fitted:
        """Step 2."""
        rows = self.splits.fit
        labels = self.labels[rows]
        generator = np.random.default_rng([self.config.seed, 1])
        shuffles = np.stack([generator.permutation(labels) for _ in range(self.config.n_shuffles)])
        return fit(lambda: self.read(rows), rows, labels, shuffles, self.config)

    def read(self, rows: Int[np.ndarray, "row"]) -> Iterator[Batch]:
        return read(self.source, rows.tolist(), self.prompts, self.sites)

    def visit(self, rows: Int[np.ndarray, "row"]) -> Iterator[tuple[list[int], Float[Tensor, "row layer d_model"]]]:
        """Positions in `rows` and activations: of some prompts, or, for `max`, of the tokens of one prompt.

        Raises:
            ValueError: the token source leaves a prompt out.
        """
        place = {index: position for position, index in enumerate(rows.tolist())}
        if self.config.aggregation != "max":
            for indices, x in self.read(rows):
                yield [place[i] for i in indices.tolist()], x
            return
        assert self.token_source is not None
        for index, x in self.token_source(rows.tolist()):
            check_finite(x, [index] * len(x), self.prompts, self.sites)
            yield [place.pop(index)], x
        if place:
            raise ValueError(f"the token source left out {len(place)} of {len(rows)} prompts")

    def reduce(self, scores: Float[Tensor, "row score"]) -> Float[np.ndarray, "prompt score"]:
        """Scores of the prompts of one visit."""
        scores = scores.amax(0, keepdim=True) if self.config.aggregation == "max" else scores
        return scores.cpu().numpy()

    def score(self, rows: Int[np.ndarray, "row"], fitted: Fitted) -> Float[np.ndarray, "row layer"]:
        """Scores of prompts at every layer, in the order of `rows`."""
        out = np.empty((len(rows), len(fitted.coef)))
        for positions, x in self.visit(rows):
            out[positions] = self.reduce(linear_scores(x, fitted.coef, fitted.intercept))
        return out

    def score_with_bank(self, fitted: Fitted, best: int) -> tuple[Float[np.ndarray, "test layer"], _Bank]:
        """Test scores at every layer; and at the best layer those of the shuffled probes, then the random directions."""
        rows = self.splits.test
        coef, intercept = self._bank(fitted, best)
        chosen = self._control_rows()
        slot = np.full(len(rows), -1)
        slot[chosen] = np.arange(len(chosen))
        out, bank = np.empty((len(rows), len(fitted.coef))), np.empty((len(chosen), len(coef)), dtype=np.float32)
        for positions, x in self.visit(rows):
            out[positions] = self.reduce(linear_scores(x, fitted.coef, fitted.intercept))
            wanted = slot[positions] >= 0
            if wanted.any():
                x = x[:, best] if self.config.aggregation == "max" else x[torch.from_numpy(wanted), best]
                bank[slot[positions][wanted]] = self.reduce(x.double() @ coef.T.to(x.device) + intercept.to(x.device))
        return out, _Bank(bank, self.labels[rows[chosen]])

    def _control_rows(self) -> Int[np.ndarray, "chosen"]:
        """Positions of the test prompts that the bank scores: as many of each class as fit; AUROC minds no class ratio."""
        positive, most = self.labels[self.splits.test], max(1, self.config.max_control_prompts // 2)
        order = np.random.default_rng([self.config.seed, 3]).permutation(len(positive))
        return np.sort(np.concatenate([order[positive[order]][:most], order[~positive[order]][:most]]))

    def _bank(self, fitted: Fitted, best: int) -> Coefficients:
        coef, intercept = fitted.shuffled(best)
        generator = torch.Generator().manual_seed(self.config.seed)
        shape = self.config.n_random_directions, coef.shape[1]
        directions = torch.randn(shape, generator=generator, dtype=torch.float64)
        directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        return torch.cat([coef, directions]), torch.cat([intercept, torch.zeros(len(directions), dtype=torch.float64)])


def _evaluate(
    setting: _Setting,
    probe: LinearProbe,
    backend: str,
    validation_auroc: Float[np.ndarray, "layer"],
    scores: Float[np.ndarray, "test layer"],
    bank: _Bank,
    tokens: Tokens | None,
) -> ProbeResult:
    """Step 5."""
    config, splits = setting.config, setting.splits
    rows, best = splits.test, scores[:, probe.best]
    positive, groups = setting.labels[rows], splits.groups[rows]
    comparison = compare_harmless(setting.prompts, setting.labels, rows)
    return ProbeResult(
        probe=probe,
        config=config,
        backend=backend,
        layers=_layers(setting, probe, validation_auroc, scores, _harmless_by_layer(scores, comparison)),
        tpr=tuple(_tpr(best, positive, groups, fpr, config) for fpr in (0.01, 0.001)),
        n_positive=int(positive.sum()),
        n_negative=int((~positive).sum()),
        detected=firing_rate(best[positive], probe.threshold),
        false_positives=_false_positives(setting.prompts, rows[~positive], best[~positive], probe.threshold),
        controls=_controls(setting, probe.threshold, best, bank, comparison, tokens),
        split_sizes={name: len(getattr(splits, name)) for name in PARTS},
        test=_test_data(setting, probe.best, best),
    )


def _controls(
    setting: _Setting,
    threshold: float,
    scores: Float[np.ndarray, "test"],
    bank: _Bank,
    comparison: Comparison | str,
    tokens: Tokens | None,
) -> dict[str, Control]:
    config, splits, labels = setting.config, setting.splits, setting.labels
    positive, groups = labels[splits.test], splits.groups[splits.test]
    text = None if tokens is None else bag_of_tokens(tokens, splits.fit, labels, splits.test)
    random = f"random_directions_best_of_{config.n_random_directions}"
    return {
        "shuffled_labels": shuffled_labels(bank.scores[:, : config.n_shuffles], bank.positive),
        random: random_directions(bank.scores[:, config.n_shuffles :], bank.positive),
        "bag_of_tokens": _text_control(text, positive, groups, config),
        "triggered_but_harmless": triggered_but_harmless(
            scores, text, positive, groups, comparison, threshold, config.n_bootstrap, config.seed
        ),
    }


def _harmless_by_layer(scores: Float[np.ndarray, "test layer"], comparison: Comparison | str) -> list[float | None]:
    """The harmless comparison's AUROC at every layer."""
    if isinstance(comparison, str):
        return [None] * scores.shape[1]
    chosen = np.concatenate([comparison.harmless, comparison.reference])
    return auroc(scores[chosen], np.arange(len(chosen)) < len(comparison.harmless)).tolist()


def _layers(
    setting: _Setting,
    probe: LinearProbe,
    validation_auroc: Float[np.ndarray, "layer"],
    scores: Float[np.ndarray, "test layer"],
    harmless: Sequence[float | None],
) -> tuple[LayerResult, ...]:
    rows, config = setting.splits.test, setting.config
    positive, groups = setting.labels[rows], setting.splits.groups[rows]
    values, rates = auroc(scores, positive), tpr_at_fpr(scores, positive, 0.01)
    low, high = bootstrap_interval(
        lambda weights: weighted_auroc(scores, positive, weights), groups, config.n_bootstrap, config.seed
    )
    return tuple(
        LayerResult(
            layer_of(site),
            site,
            Estimate(float(values[i]), float(low[i]), float(high[i])),
            float(rates[i]),
            float(validation_auroc[i]),
            harmless[i],
        )
        for i, site in enumerate(probe.sites)
    )


def _tpr(
    scores: Float[np.ndarray, "test"],
    positive: Bool[np.ndarray, "test"],
    groups: Int[np.ndarray, "test"],
    fpr: float,
    config: TrainConfig,
) -> TprAtFpr:
    low, high = bootstrap_interval(
        lambda weights: weighted_tpr_at_fpr(scores, positive, fpr, weights), groups, config.n_bootstrap, config.seed
    )
    negatives = int((~positive).sum())
    note = None
    if not allowed(negatives, fpr):
        note = f"{negatives} test negatives cannot resolve {fpr:.1%}: this is the rate at no false positive"
    return TprAtFpr(fpr, Estimate(float(tpr_at_fpr(scores, positive, fpr)), float(low), float(high)), note)


def _text_control(
    scores: Float[np.ndarray, "test"] | None,
    positive: Bool[np.ndarray, "test"],
    groups: Int[np.ndarray, "test"],
    config: TrainConfig,
) -> Control:
    if scores is None:
        return Control(None, "no token ids were given")
    interval = interval_of(scores, positive, groups, config.n_bootstrap, config.seed)
    return Control(float(auroc(scores, positive)), interval=interval)


def _false_positives(
    prompts: Sequence[Prompt],
    rows: Int[np.ndarray, "negative"],
    scores: Float[np.ndarray, "negative"],
    threshold: float,
) -> dict[str, Estimate]:
    """Rate of each dataset's negatives above the threshold, the worst first (of equals, the larger dataset)."""
    names = np.array([prompts[row].dataset or UNNAMED for row in rows])
    rates = {str(name): firing_rate(scores[names == name], threshold) for name in np.unique(names)}
    return dict(sorted(rates.items(), key=lambda item: (-item[1].value, -(item[1].n or 0), item[0])))


def _test_data(setting: _Setting, best: int, scores: Float[np.ndarray, "test"]) -> TestData:
    rows = setting.splits.test
    size = min(len(rows), setting.config.max_plot_prompts)
    drawn = np.sort(np.random.default_rng([setting.config.seed, 2]).permutation(len(rows))[:size])
    x = gather(setting.read(rows[drawn]), rows[drawn].tolist(), best)[:, 0].double().cpu().numpy()
    pca = PCA(2, svd_solver="randomized", random_state=setting.config.seed)
    varies = min(x.shape) >= 2 and bool(np.ptp(x, axis=0).any())
    points = pca.fit_transform(x) if varies else np.zeros((len(x), 2))
    explained = tuple(float(v) for v in pca.explained_variance_ratio_) if varies else (0.0, 0.0)
    triggered = np.array([setting.prompts[row].triggered for row in rows])
    return TestData(rows, scores, setting.labels[rows], triggered, drawn, points, (explained[0], explained[1]))
