"""What a training run says: the table of its autoencoders and a sentence on the best."""

from __future__ import annotations

from math import isnan

from sae.evaluate import CrossEntropy
from sae.reconstruction import far_words
from sae.result import SaeResult, TrainedSae

FEWEST_TOKENS = 100
"""Held-out tokens that a sentence on reconstruction needs: those of a prompt are much alike."""
SAE_HEAD = ("autoencoder", "L0", "FVU", "FVU without far rows", "CE recovered", "never fired", "nearest cosine")
"""Columns of `sae_rows`."""


def sae_rows(result: SaeResult) -> list[tuple[str, ...]]:
    """The table: a row for each autoencoder."""
    return [
        (
            trained.recipe.name,
            f"{trained.reconstruction.l0:.1f}",
            f"{trained.reconstruction.fvu:.3f}",
            f"{trained.reconstruction.without_far.fvu:.3f}",
            "–" if (recovered := _recovered(trained.cross_entropy)) is None else f"{recovered:.1%}",
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
    if measured.rows < FEWEST_TOKENS:
        return f"What an autoencoder explains cannot be told: too few held-out tokens ({measured.rows}), at least {FEWEST_TOKENS} are needed."
    sentence = (
        f"{best.recipe.name} explains {1 - measured.fvu:.1%} of the variance of {result.site} with {measured.l0:.1f} "
        "latents a token"
    )
    if (recovered := _recovered(best.cross_entropy)) is not None:
        sentence += f", and keeps {recovered:.1%} of what the site is worth to the next-token loss"
    sentence += f" ({measured.rows:,} held-out tokens)."
    if measured.far.rows:
        sentence += f" But {far_words(measured)}{_without_far(best)}."
    return sentence


def _without_far(trained: TrainedSae) -> str:
    recovered = _recovered(trained.cross_entropy_without_far)
    return "" if recovered is None else f", and keeps {recovered:.1%} of what the site is worth there"


def _recovered(entropy: CrossEntropy | None) -> float | None:
    """The share of the next-token loss that is recovered; None where it is not known."""
    return None if entropy is None or isnan(entropy.recovered) else entropy.recovered
