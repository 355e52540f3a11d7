"""Streamed moments, and the two probes that need nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes import LDAProbe, MeanDifferenceProbe, Moments


def rows(count=60, layers=2, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(count, generator=generator) < 0.4
    x = torch.randn(count, layers, width, generator=generator, dtype=torch.float64) + 1000
    x[:, :, 1] += 0.7 * x[:, :, 0]
    return x + y[:, None, None], y


def pieces(moments):
    return [torch.tensor(moments.count), moments.mean, moments.within, moments.fourth]


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 59), max_size=6), seed=st.integers(0, 3), ranks=st.integers(1, 3))
def test_any_batches_in_any_order_on_any_ranks_give_the_batch_moments(cuts, seed, ranks):
    x, y = rows()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    workers = [Moments(scatter=True) for _ in range(ranks)]
    for i, batch in enumerate(np.split(order.numpy(), sorted(cuts))):
        workers[i % ranks].update(x[batch], y[batch])
    merged = Moments(scatter=True)
    for worker in workers:
        merged.merge(worker)
    for got, wanted in zip(pieces(merged), pieces(Moments(scatter=True).update(x, y)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_the_definition():
    x, y = rows()
    moments = Moments(scatter=True).update(x[:17], y[:17]).update(x[17:], y[17:])
    centred = torch.cat([x[~y] - x[~y].mean(0), x[y] - x[y].mean(0)])
    torch.testing.assert_close(moments.mean, torch.stack([x[~y].mean(0), x[y].mean(0)]))
    torch.testing.assert_close(moments.within, torch.einsum("nli,nlj->lij", centred, centred) / 60)
    torch.testing.assert_close(moments.fourth, centred.square().sum(-1).square().sum(0))


def test_mean_difference_is_the_closed_form_and_splits_the_means():
    x, y = rows()
    probe = MeanDifferenceProbe().fit(x, y)
    torch.testing.assert_close(probe.coef_, x[y].mean(0) - x[~y].mean(0))
    middle = (x[y].mean(0) + x[~y].mean(0)) / 2
    torch.testing.assert_close(
        probe.decision_function(middle[None]), torch.zeros(1, 2, dtype=torch.float64), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.7, 1.0])
def test_lda_is_sklearns(shrinkage):
    x, y = rows()
    ours = LDAProbe(shrinkage).fit(x, y)
    for layer in range(2):
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x[:, layer].numpy(), y.numpy())
        np.testing.assert_allclose(ours.coef_[layer], theirs.coef_[0], rtol=1e-6)
        np.testing.assert_allclose(
            ours.decision_function(x)[:, layer], theirs.decision_function(x[:, layer].numpy()), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("width", [5, 80])
def test_auto_shrinkage_is_ledoit_wolf_of_the_within_class_deviations(width):
    x, y = rows(width=width)
    centred = torch.where(y[:, None, None], x - x[y].mean(0), x - x[~y].mean(0))
    probe = LDAProbe("auto").fit(x, y)
    wanted = [ledoit_wolf_shrinkage(centred[:, layer].numpy(), assume_centered=True) for layer in range(2)]
    np.testing.assert_allclose(probe.shrinkage_, wanted, rtol=1e-6)


def test_lda_whitens_where_the_mean_difference_cannot():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2 == 1
    x = torch.randn(400, 1, 2, generator=generator, dtype=torch.float64)
    x[:, 0, 1] = 10 * x[:, 0, 1]
    x[:, 0] += torch.tensor([2.0, 2.0], dtype=torch.float64) * y[:, None]
    cosine = torch.nn.functional.cosine_similarity
    wanted = torch.tensor([[1.0, 0.01]], dtype=torch.float64)
    assert float(cosine(LDAProbe(0.0).fit(x, y).coef_, wanted)) > 0.99
    assert float(cosine(MeanDifferenceProbe().fit(x, y).coef_, wanted)) < 0.9


def test_says_what_is_missing():
    x, _y = rows(count=6, width=10)
    with pytest.raises(ValueError, match="singular"):
        LDAProbe(0.0).fit(x, torch.arange(6) % 2)
    with pytest.raises(ValueError, match="scatter"):
        LDAProbe().fit_moments(Moments().update(x, torch.arange(6) % 2))
    with pytest.raises(ValueError, match="both classes"):
        Moments().update(x, torch.zeros(6)).mean  # noqa: B018
    with pytest.raises(ValueError, match="merge"):
        Moments().merge(Moments(scatter=True))
