"""A training run as a page that opens offline."""

from __future__ import annotations

from dataclasses import asdict

from sae.plots import curves, frontier
from sae.result import SaeResult
from sae.verdict import SAE_HEAD, sae_rows, sae_verdict
from triggerlens import render_page


def sae_page(result: SaeResult, model: str) -> str:
    """The page.

    Args:
        result: at least one autoencoder.
        model: what the model is called.
    """
    training = asdict(result.config).items()
    facts = [
        ("site", result.site),
        *((name.replace("_", " "), "by width" if value is None else str(value)) for name, value in training),
    ]
    return render_page(
        __file__,
        "sae.html.jinja",
        title=f"Sparse autoencoders: {model}, {result.site}",
        heading=model,
        verdict=sae_verdict(result),
        facts=facts,
        result=result,
        head=SAE_HEAD,
        rows=sae_rows(result),
        stability_rows=stability_rows(result),
        curves=curves,
        frontier=frontier,
    )


def stability_rows(result: SaeResult) -> list[tuple[str, ...]]:
    """The table of agreement between seeds: a row for each recipe that has several."""
    return [
        (
            kind,
            str(agreement.pairs),
            f"{agreement.mean_cosine:.3f}",
            f"{agreement.shared:.1%}",
            f"{agreement.chance_cosine:.3f}",
        )
        for kind, agreement in result.stability.items()
    ]
