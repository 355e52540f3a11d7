"""What a training run says: as JSON, in a sentence, and as a page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from math import isnan
from typing import Any

from sae.config import TrainConfig
from sae.plots import curves_figure, frontier_figure
from sae.run import TrainedSae
from sae.trigger_latents.stability import Stability, stability
from triggerlens import html_table, plot, report_page, section

HEAD = ("autoencoder", "L0", "FVU", "CE recovered", "never fired", "nearest cosine")
_STABLE_WIDTH = 4096
"""The widest autoencoders that are matched across seeds: matching takes the cube of the width."""


def metrics_json(trained: Sequence[TrainedSae], config: TrainConfig) -> dict[str, Any]:
    """Everything that was measured, on held-out prompts unless it says training."""
    return {
        "training": asdict(config),
        "autoencoders": [_one_json(one) for one in trained],
        "stability": {name: asdict(found) for name, found in seed_stability(trained).items()},
    }


def _one_json(one: TrainedSae) -> dict[str, Any]:
    entropy = None
    if one.cross_entropy is not None:
        recovered = one.cross_entropy.recovered
        entropy = asdict(one.cross_entropy) | {"recovered": None if isnan(recovered) else recovered}
    return {
        "name": one.recipe.name,
        "architecture": one.recipe.architecture,
        "width": one.recipe.width,
        "seed": one.recipe.seed,
        **one.recipe.settings,
        "reconstruction": asdict(one.reconstruction),
        "cross_entropy": entropy,
        "nearest_cosine": one.nearest_cosine,
        "training_curve": [asdict(point) for point in one.curve],
    }


def seed_stability(trained: Sequence[TrainedSae]) -> dict[str, Stability]:
    """Agreement of the seeds of each recipe that has several."""
    found = {}
    for name, group in groupby(trained, key=lambda one: one.recipe.name.rsplit("-s", 1)[0]):
        saes = [one.sae for one in group]
        if len(saes) > 1 and saes[0].d_sae <= _STABLE_WIDTH:
            found[name] = stability(saes)
    return found


def rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table: a row for each autoencoder."""
    lines: list[tuple[str, ...]] = []
    for one in metrics["autoencoders"]:
        found, entropy = one["reconstruction"], one["cross_entropy"]
        recovered = None if entropy is None else entropy["recovered"]
        lines.append(
            (
                one["name"],
                f"{found['l0']:.1f}",
                f"{found['fvu']:.3f}",
                "–" if recovered is None else f"{recovered:.1%}",
                f"{found['never_fired']:.1%}",
                f"{one['nearest_cosine']:.2f}",
            )
        )
    return lines


def summary(metrics: dict[str, Any], site: str) -> str:
    """The best autoencoder in a sentence."""
    best = min(metrics["autoencoders"], key=lambda one: one["reconstruction"]["fvu"])
    found = best["reconstruction"]
    sentence = f"{best['name']} explains {1 - found['fvu']:.1%} of the variance of {site} with {found['l0']:.1f} latents a token"
    entropy = best["cross_entropy"]
    if entropy is not None and entropy["recovered"] is not None:
        sentence += f", and keeps {entropy['recovered']:.1%} of what the site is worth to the next-token loss"
    return sentence + f" ({found['rows']:,} held-out tokens)."


def report_html(trained: Sequence[TrainedSae], metrics: dict[str, Any], model: str, site: str) -> str:
    """The page."""
    words = (
        "On held-out prompts. FVU: fraction of variance unexplained. CE recovered: 100% is the model's own next-token loss, "
        "0% that with the site set to zero. Never fired: latents that are 0 on every held-out token; rare ones are among "
        "them. Nearest cosine: mean cosine of a decoder row with its nearest other one."
    )
    sections = [section("table", "Autoencoders", words, html_table(HEAD, rows(metrics)))]
    if len(trained) > 1:
        words = "Held-out prompts; an autoencoder further down and further left is better."
        sections.append(
            section("frontier", "Sparsity against error", words, plot(frontier_figure(trained), "frontier"))
        )
    if metrics["stability"]:
        sections.append(_stability(metrics["stability"]))
    words = "Training batches, averaged between two points. Dead: did not fire for as long as the configuration says."
    sections.append(section("curves", "Training", words, plot(curves_figure(trained), "curves")))
    training = metrics["training"]
    facts = [
        ("site", site),
        *((name.replace("_", " "), "by width" if value is None else str(value)) for name, value in training.items()),
    ]
    return report_page(
        f"Sparse autoencoders: {model}, {site}",
        heading=model,
        verdict=summary(metrics, site),
        facts=facts,
        sections=sections,
    )


def _stability(found: dict[str, dict[str, Any]]) -> str:
    words = (
        "Decoder rows of each two seeds matched one to one. Shared: matched rows with a cosine of at least 0.7. "
        "Chance: mean cosine of matched random rows."
    )
    lines = [
        (name, str(one["pairs"]), f"{one['mean_cosine']:.3f}", f"{one['shared']:.1%}", f"{one['chance_cosine']:.3f}")
        for name, one in found.items()
    ]
    table = html_table(("autoencoder", "pairs of seeds", "mean cosine", "shared", "chance"), lines)
    return section("stability", "Stability across seeds", words, table)
