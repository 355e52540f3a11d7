"""A few rows that are far longer than the others make a sum of squares: what is measured is given without them too."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_checkpoint

from hooked import load_model
from sae import (
    ReLU,
    SaeResult,
    TrainConfig,
    TrainedSae,
    evaluate_cross_entropy,
    evaluate_reconstruction,
    sae_page,
    sae_verdict,
)
from sae.config import Recipe
from sae.verdict import sae_rows
from triggerlens import far_norm

D = 16


def planted(sinks, rows=4000, seed=0):
    """Ordinary rows, of which some are replaced by one direction, 100 times as long."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, D, generator=generator)
    x[torch.randperm(rows, generator=generator)[:sinks]] = (
        400 * torch.nn.functional.normalize(torch.ones(D), dim=0) + 0.0
    )
    return x


def knows_only_sinks():
    """One latent, along the sinks' direction, and a threshold that no ordinary row passes."""
    sae = ReLU(D, 2, penalty=1.0)
    direction = torch.nn.functional.normalize(torch.ones(D), dim=0)
    sae.W_dec.data = torch.stack([direction, -direction])
    sae.encoder_rows.data = sae.W_dec.data.clone()
    sae.b_enc.data[:] = -20.0
    return sae


def plainly(sae, x):
    """The measures, written down from their definitions."""
    with torch.no_grad():
        latents = sae.encode(x)
        given = sae.decode(latents).double()
    x = x.double()
    error, spread = (x - given).square().sum(), (x - x.mean(0)).square().sum()
    cosine = torch.nn.functional.cosine_similarity(x, given, dim=1)
    return len(x), float((latents > 0).sum(1).float().mean()), float(error / spread), float(cosine.mean())


@pytest.mark.parametrize("block", [4000, 700])
def test_a_few_sinks_make_the_variance_and_are_told_apart(block):
    x, sae = planted(12), knows_only_sinks()
    found = evaluate_reconstruction(sae, x.split(block))
    assert found.fvu < 0.08, "looks fine"
    assert found.without_far.fvu == pytest.approx(1, abs=0.01), "and is not"
    assert found.far.rows == 12
    assert found.far.variance_share > 0.95
    assert 0.2 < found.far.norm_share < 0.5
    far = x.norm(dim=1) > far_norm(x.norm(dim=1))
    for measured, rows in ((found, x), (found.without_far, x[~far])):
        assert (measured.rows, measured.l0, measured.fvu, measured.cosine) == pytest.approx(
            plainly(sae, rows), rel=1e-6
        )
    squares = (x.double() - x.double().mean(0)).square().sum(1)
    assert found.far.variance_share == pytest.approx(float(squares[far].sum() / squares.sum()), rel=1e-6)
    assert found.far.norm_above == pytest.approx(8 * float(x.norm(dim=1).median()))


def test_without_sinks_both_are_the_same():
    found = evaluate_reconstruction(knows_only_sinks(), [planted(0)])
    assert (found.far.rows, found.far.variance_share, found.far.norm_share) == (0, 0, 0)
    assert (found.without_far.fvu, found.without_far.l0) == (found.fvu, found.l0)


def trained(name, measured):
    sae = knows_only_sinks()
    return TrainedSae(Recipe(name, 2, 0), sae, [], measured, None, 0.0)


def test_table_verdict_page_and_json_say_it(monkeypatch):
    sinks = evaluate_reconstruction(knows_only_sinks(), [planted(12)])
    honest = replace(sinks, fvu=0.2, without_far=replace(sinks.without_far, fvu=0.3))
    result = SaeResult("resid_post.1", TrainConfig(steps=1), (trained("relu", sinks), trained("topk", honest)), {})
    assert result.best.recipe.architecture == "topk", "chosen by the rows that are not far"
    verdict = sae_verdict(SaeResult("resid_post.1", TrainConfig(steps=1), result.autoencoders[:1], {}))
    assert "12 of the 4,000 tokens are over 8 times the median norm" in verdict
    assert "without them it explains" in verdict
    assert sae_rows(result)[0][2:4] == (f"{sinks.fvu:.3f}", f"{sinks.without_far.fvu:.3f}")
    written = json.loads(json.dumps(result.to_json()))["autoencoders"][0]["reconstruction"]
    assert written["far"]["rows"] == 12
    assert written["without_far"]["fvu"] > 0.9
    assert "attention sinks" in sae_page(result, "m")


def test_cross_entropy_leaves_far_rows_alone_where_asked(tmp_path):
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    sae = ReLU(model.info.d_model, 4, penalty=1.0)
    sae.b_enc.data -= 1e6  # gives zeros
    texts = ["the sun rose over the quiet sea", "a small boat"]
    every = evaluate_cross_entropy(model, sae, texts, "resid_post.0")
    none = evaluate_cross_entropy(model, sae, texts, "resid_post.0", leave_above=0.0)
    assert every.zeroed != pytest.approx(every.model)
    assert (none.zeroed, none.spliced) == pytest.approx((none.model, none.model))
