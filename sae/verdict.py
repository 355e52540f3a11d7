"""What a training run says: the table of its autoencoders and a sentence on the best."""

from __future__ import annotations

from math import isnan

from sae.result import SaeResult, TrainedSae

SAE_HEAD = ("autoencoder", "L0", "FVU", "CE recovered", "never fired", "nearest cosine")
"""Columns of `sae_rows`."""


def sae_rows(result: SaeResult) -> list[tuple[str, ...]]:
    """The table: a row for each autoencoder."""
    return [
        (
            trained.recipe.name,
            f"{trained.reconstruction.l0:.1f}",
            f"{trained.reconstruction.fvu:.3f}",
            "–" if (recovered := _recovered(trained)) is None else f"{recovered:.1%}",
            f"{trained.reconstruction.never_fired:.1%}",
            f"{trained.nearest_cosine:.2f}",
        )
        for trained in result
    ]


def stability_lines(result: SaeResult) -> list[str]:
    """A sentence on each recipe that has several seeds."""
    return [
        f"{kind}: {agreement.shared:.1%} of latents shared between seeds, mean matched cosine {agreement.mean_cosine:.3f} "
        f"(chance {agreement.chance_cosine:.3f})"
        for kind, agreement in result.stability.items()
    ]


def sae_verdict(result: SaeResult) -> str:
    """The best autoencoder in a sentence."""
    best = result.best
    measured = best.reconstruction
    sentence = (
        f"{best.recipe.name} explains {1 - measured.fvu:.1%} of the variance of {result.site} with {measured.l0:.1f} "
        "latents a token"
    )
    if (recovered := _recovered(best)) is not None:
        sentence += f", and keeps {recovered:.1%} of what the site is worth to the next-token loss"
    return sentence + f" ({measured.rows:,} held-out tokens)."


def _recovered(trained: TrainedSae) -> float | None:
    """The share of the next-token loss that is recovered; None where it is not known."""
    entropy = trained.cross_entropy
    return None if entropy is None or isnan(entropy.recovered) else entropy.recovered
