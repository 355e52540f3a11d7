"""From labelled prompts to a measured probe.

1. Label the prompts, and divide them by groups (pairs, and texts that are the same tokens to the model) into fit, validation,
   calibration and test.
2. Fit every layer on the fit split.
3. Choose the layer by validation AUROC; ties by the distance between the class means in pooled standard deviations
   (many layers can separate perfectly), then the earlier layer. Where answers are read, ties go first to the layers that are not
   shown to tell triggered-but-harmless prompts from untriggered ones.
4. Freeze each layer's threshold on the calibration negatives.
5. Read the test split once: scores at every layer, and at the chosen one those of the controls.
6. Measure the controls.
7. Evaluate: every layer's AUROC, and rates at the chosen layer and its frozen threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked import (
    PARTS,
    ExtractionSpec,
    HookedModel,
    LiveActivations,
    Prompt,
    TokenizedPrompt,
    provenance_of,
)
from probes.answers.measure import answer_text, measure_answers, watch_threshold
from probes.classifiers.base import Fitted
from probes.config import TrainConfig
from probes.controls import (
    Tokens,
    bag_of_tokens,
    compare_harmless,
    harmless_scores,
    make_bank,
    measure_controls,
)
from probes.detection import LabelledScores, firing_rate
from probes.evaluate import draw_test, false_positives, measure_layers, measure_tpr
from probes.fit import calibrate, choose_layer, fit_probe
from probes.inputs import (
    Activations,
    Answers,
    CheckedPrompts,
    Reading,
    Source,
    TokenSource,
    check_prompts,
    divided_by_tokens,
)
from probes.probe import LinearProbe
from probes.result import Control, ProbeResult
from probes.sinks import SAMPLE, far_tokens
from triggerlens import auroc, rank, say_once, to_json


def train_probe(
    source: Source,
    prompts: Sequence[Prompt] | CheckedPrompts,
    sites: Sequence[str],
    config: TrainConfig | None = None,
    *,
    token_source: TokenSource | None = None,
    lengths: Sequence[int] | None = None,
    tokens: Tokens | None = None,
    answers: Answers | None = None,
    model: str = "",
    backend: str = "",
    weights_sha256: str = "",
    trained_on: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Fit, choose, calibrate and evaluate a linear probe at all sites.

    Args:
        source: activations by prompt: at the last token for `last`, the mean over tokens for `mean` and `max`; not read where the
            aggregation is learned.
        prompts: the labelled prompts, or what `check_prompts` made of them; a source's indices count in this list.
        sites: name of each layer of the activations, as `resid_post.3`.
        config: what to train; None means the defaults.
        token_source: activations of every token that is read; needed for `max`, for learned poolings and for answers.
        lengths: how many tokens that is of each prompt; counted where None and needed.
        tokens: token ids, for the bag-of-tokens control. Texts of the same tokens stay together where `check_prompts` was given them.
        answers: needed where answers are read.
        model, backend, weights_sha256, trained_on: written into the result.

    Raises:
        UserError: the prompts cannot be split or labelled, or an activation is NaN or infinite.
        ValueError: the sources do not fit the prompts, the sites or the aggregation.
    """
    config = config or TrainConfig()
    # 1. Label and divide.
    checked = prompts if isinstance(prompts, CheckedPrompts) else check_prompts(prompts, config)
    activations = Activations(source, token_source, checked.prompts, tuple(sites), config.aggregation, lengths)
    named = {"model": model, "weights_sha256": weights_sha256, "trained_on": trained_on or {}}
    frozen = _freeze(activations, checked, config, named, answers)
    return _measure(frozen, activations, checked, tokens, answers, config, backend)


def freeze_probe(
    source: Source,
    prompts: Sequence[Prompt] | CheckedPrompts,
    sites: Sequence[str],
    config: TrainConfig | None = None,
    *,
    token_source: TokenSource | None = None,
    lengths: Sequence[int] | None = None,
    answers: Answers | None = None,
) -> LinearProbe:
    """The probe of `train_probe`, fitted, chosen and calibrated alike, for whoever measures it: no test prompt is read.

    Raises:
        UserError, ValueError: as `train_probe`.
    """
    config = config or TrainConfig()
    checked = prompts if isinstance(prompts, CheckedPrompts) else check_prompts(prompts, config)
    activations = Activations(source, token_source, checked.prompts, tuple(sites), config.aggregation, lengths)
    return _freeze(activations, checked, config, {}, answers).probe


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A probe whose layer and threshold are chosen, before the test split is read."""

    probe: LinearProbe
    fitted: Fitted
    validation_auroc: Float[np.ndarray, "layer"]


def _freeze(
    activations: Activations,
    checked: CheckedPrompts,
    config: TrainConfig,
    named: Mapping[str, Any],
    answers: Answers | None,
) -> _Frozen:
    """Phases 2 to 4; `named` is what the probe says of the model."""
    if answers is None and config.read != "prompt":
        raise ValueError(f"read `{config.read}`: give the answers")
    labels, splits = checked.labels, checked.splits
    # 2. Fit.
    fitted = fit_probe(activations, checked, config)
    # 3. Choose.
    validation = activations.score(splits.validation, fitted)
    # A probe of answers is asked for the behaviour: a layer that tells the trigger too is the worse of two that are right.
    told = None if answers is None else harmless_scores(checked, splits.validation, validation)
    best = choose_layer(validation, labels[splits.validation], told)
    # 4. Calibrate.
    calibration, negative = activations.score(splits.calibration, fitted), ~labels[splits.calibration]
    thresholds, facts = calibrate(calibration[negative], splits.groups[splits.calibration][negative], config.target_fpr)
    probe = LinearProbe(
        coef=fitted.coef,
        intercept=fitted.intercept,
        thresholds=torch.from_numpy(thresholds),
        sites=activations.sites,
        best=best,
        aggregation=config.aggregation,
        label=checked.label,
        method=config.method,
        calibration=facts,
        read=config.read,
        heads=fitted.heads,
        **named,
    )
    if answers is not None:
        rows = splits.calibration
        threshold = watch_threshold(probe, activations, rows, labels[rows], answers, config.target_fpr)
        if threshold is not None:
            longest = max(len(answers.ids[row]) for row in rows.tolist())
            probe = replace(probe, watch_threshold=threshold, calibration={**facts, "longest_answer": longest})
    return _Frozen(probe, fitted, auroc(validation, labels[splits.validation]))


def _measure(
    frozen: _Frozen,
    activations: Activations,
    checked: CheckedPrompts,
    tokens: Tokens | None,
    answers: Answers | None,
    config: TrainConfig,
    backend: str,
) -> ProbeResult:
    """Phases 5 to 7."""
    probe, labels, splits = frozen.probe, checked.labels, checked.splits
    # 5. Read the test split.
    positive = labels[splits.test]
    bank = make_bank(frozen.fitted, probe.best, positive, config)
    scores, beside = activations.score_beside(splits.test, frozen.fitted, bank)
    every = LabelledScores(scores, positive, splits.groups[splits.test], config.n_bootstrap, config.seed)
    test = every.of(scores[:, probe.best])
    # 6. Controls.
    comparison = compare_harmless(checked)
    text = None if tokens is None else bag_of_tokens(tokens, splits.fit, labels, splits.test)
    nulls = test.take(bank.chosen).of(beside)
    controls = measure_controls(test, nulls, text, comparison, probe.threshold, config.n_shuffles)
    answered = None
    if answers is not None:
        controls["bag_of_answer_tokens"] = answer_text(answers, splits.fit, labels, splits.test, test)
        answered = measure_answers(probe, activations, checked, answers, test, comparison)
    # 7. Evaluate.
    drawn = draw_test(activations, checked, probe.best, test.scores, config)
    return ProbeResult(
        probe=probe,
        config=config,
        backend=backend,
        layers=measure_layers(probe.sites, every, frozen.validation_auroc, comparison),
        tpr=tuple(measure_tpr(test, fpr) for fpr in (0.01, 0.001)),
        n_positive=_prompts(test.groups[positive], drawn.data.triggered[positive]),
        n_negative=_prompts(test.groups[~positive], drawn.data.triggered[~positive]),
        detected=firing_rate(test.scores[positive], probe.threshold, test.groups[positive]),
        false_positives=false_positives(checked, test, probe.threshold),
        controls=controls,
        split_sizes={name: len(getattr(splits, name)) for name in PARTS},
        test=drawn.data,
        notes=(*checked.notes, *drawn.notes),
        answers=answered,
    )


def _prompts(groups: Int[np.ndarray, "row"], triggered: Bool[np.ndarray, "row"]) -> int:
    """How many prompts these rows are of: answers to one prompt, and copies of a text, share a group; so do twins, of which one is triggered."""
    return len(np.unique(np.stack([groups, triggered], 1), axis=0))


def train_on_model(
    model: HookedModel,
    prompts: Sequence[Prompt] | CheckedPrompts,
    site: str = "resid_post",
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    store: str | Path | None = None,
    keep: bool = True,
    token_budget: int | None = None,
) -> ProbeResult | None:
    """Extract activations and train a probe on them.

    Args:
        model: the model.
        prompts: the labelled prompts, or what `check_prompts` made of them.
        site: a kind of site, all of whose layers are probed, or one site such as `resid_post.3`.
        config: what to train; None means the defaults.
        name: what to call the model in the result.
        store: folder of the activation store; the default one where None.
        keep: keep activations in the store; otherwise stream them from the model whenever they are needed.
        token_budget: tokens in one forward pass.

    Returns:
        The result; None on every rank but the first, which have then extracted their shards.

    Raises:
        UserError: an unknown site, or prompts or activations that cannot be used.
    """
    config = config or TrainConfig()
    checked = prompts if isinstance(prompts, CheckedPrompts) else check_prompts(prompts, config)
    sites = (site,) if "." in site else model.sites(site)
    tokenized = model.tokenize(checked.prompts, answers=config.read != "prompt")
    read = Reading(model, checked.prompts, tokenized, tuple(sites), config, store, keep, token_budget)
    tokens = [prompt.prompt_ids for prompt in tokenized]
    checked = divided_by_tokens(checked, tokens, config, [prompt.ids for prompt in tokenized])
    source = read.source()
    before = None if config.read == "prompt" else _before_the_answer(read, checked)
    if rank() > 0:
        return None
    result = train_probe(
        source.batches,
        checked,
        sites,
        config,
        token_source=read.tokens(source).by_prompt,
        lengths=read.lengths(),
        tokens=tokens,
        answers=read.answers(),
        model=name or model.info.name,
        backend=model.backend,
        weights_sha256=model.info.weights_sha256,
        trained_on=provenance_of(model),
    )
    if before is not None:
        result = result.with_control("prompt_last_token", before)
    note = _far_tokens(model, tokenized, result)
    return replace(result, notes=(*result.notes, note)) if note else result


def _before_the_answer(read: Reading, checked: CheckedPrompts) -> Control | None:
    """A probe of the prompt's last token, where nothing of the answer is written yet, on the same prompts and labels; None on every
    rank but the first."""
    config = replace(read.config, read="prompt", aggregation="last", n_random_directions=1, n_shuffles=1)
    source = replace(read, config=config).source()
    if rank() > 0:
        return None
    result = train_probe(source.batches, checked, read.sites, config)
    harmless = None if result.harmless is None else result.harmless.auroc
    return result.as_control(
        best_site=result.best.site, triggered_but_harmless=None if harmless is None else to_json(harmless)
    )


def _far_tokens(model: HookedModel, tokenized: Sequence[TokenizedPrompt], result: ProbeResult) -> str | None:
    """As `probes.sinks.far_tokens`, of the first test prompts."""
    probe = result.probe
    if probe.aggregation not in ("mean", "max"):
        return None
    live = LiveActivations(model, tokenized, ExtractionSpec((probe.site,), "every", read=probe.read))
    note = far_tokens(live.by_prompt(result.test.rows[:SAMPLE].tolist()), probe, probe.aggregation)
    if note:
        say_once(note)
    return note
