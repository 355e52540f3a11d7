"""The logistic probe: scikit-learn's optimum, at every layer, in both spaces."""

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from probes import LogisticProbe
from probes.classifiers.logistic import objective


def problem(prompts, width, shift, layers=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(prompts) % 2
    spread = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    x = torch.randn(prompts, layers, width, generator=generator, dtype=torch.float64) * spread + 5
    x[:, :, 0] += shift * y[:, None] * torch.arange(1, layers + 1)
    return x, y


def sklearn_fit(x, y, C, weight=None):
    return LogisticRegression(C=C, tol=1e-10, max_iter=100_000, solver="newton-cholesky").fit(x, y, weight)


@pytest.mark.parametrize(("prompts", "width"), [(40, 60), (90, 60), (300, 12)], ids=["n<d", "d<n<2d", "n>2d"])
@pytest.mark.parametrize("shift", [0.3, 30.0], ids=["overlapping", "separable"])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_every_layer_is_at_sklearns_optimum(prompts, width, shift, C):
    x, y = problem(prompts, width, shift)
    ours = LogisticProbe(C).fit(x, y)
    for layer in range(x.shape[1]):
        theirs = sklearn_fit(x[:, layer].numpy(), y.numpy(), C)
        coef = torch.tensor(theirs.coef_[0])
        assert torch.linalg.vector_norm(ours.coef_[layer] - coef) < 1e-4 * torch.linalg.vector_norm(coef)
        assert float(ours.intercept_[layer]) == pytest.approx(theirs.intercept_[0], rel=1e-4, abs=1e-5)
        best = objective(x[:, layer : layer + 1], y, coef[None], torch.tensor(theirs.intercept_), C)
        mine = objective(x, y, ours.coef_, ours.intercept_, C)[layer]
        assert float(mine) <= float(best) * (1 + 1e-9)


@pytest.mark.parametrize(("prompts", "width"), [(40, 60), (300, 12)])
def test_gradient_is_zero_at_the_optimum(prompts, width):
    x, y = problem(prompts, width, 1.0)
    probe = LogisticProbe(0.7).fit(x, y)
    coef, intercept = probe.coef_.clone().requires_grad_(), probe.intercept_.clone().requires_grad_()
    scores = torch.einsum("nld,ld->nl", x, coef) + intercept
    loss = torch.nn.functional.softplus(-(2 * y - 1)[:, None] * scores).sum() * 0.7 + coef.square().sum() / 2
    by_coef, by_intercept = torch.autograd.grad(loss, [coef, intercept])
    assert float(by_coef.abs().max()) < 1e-5
    assert float(by_intercept.abs().max()) < 1e-5
    assert float(probe.gradient_norm_.max()) < 1e-7


@pytest.mark.parametrize(("prompts", "width"), [(40, 60), (300, 12)])
def test_sample_weights_count_rows(prompts, width):
    x, y = problem(prompts, width, 1.0)
    weight = (torch.arange(prompts) % 3).double()
    weighted = LogisticProbe().fit(x, y, weight)
    repeated = LogisticProbe().fit(x.repeat_interleave(weight.long(), 0), y.repeat_interleave(weight.long()))
    torch.testing.assert_close(weighted.coef_, repeated.coef_, rtol=1e-5, atol=1e-7)


def test_shift_moves_the_intercept_alone_and_rotation_turns_the_weights():
    x, y = problem(50, 20, 1.0)
    turn = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    probe, moved = LogisticProbe().fit(x, y), LogisticProbe().fit(x @ turn + 100.0, y)
    torch.testing.assert_close(moved.coef_, probe.coef_ @ turn, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        moved.decision_function(x @ turn + 100.0), probe.decision_function(x), rtol=1e-6, atol=1e-6
    )


def test_flipped_labels_negate_the_probe():
    x, y = problem(50, 20, 1.0)
    probe, flipped = LogisticProbe().fit(x, y), LogisticProbe().fit(x, 1 - y)
    torch.testing.assert_close(flipped.coef_, -probe.coef_, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(flipped.intercept_, -probe.intercept_, rtol=1e-6, atol=1e-6)


def test_layers_fitted_together_or_one_by_one_agree_and_may_have_their_own_labels():
    x, y = problem(40, 60, 1.0, layers=3)
    together = LogisticProbe(memory=1 << 30).fit(x, y)
    alone = LogisticProbe(memory=1).fit(x, y)
    torch.testing.assert_close(together.coef_, alone.coef_, rtol=1e-5, atol=1e-7)
    own = torch.stack([y, 1 - y, y.roll(1)], dim=1)
    mixed = LogisticProbe().fit(x, own)
    torch.testing.assert_close(mixed.coef_[1], -together.coef_[1], rtol=1e-5, atol=1e-7)


def test_a_matrix_is_one_layer():
    x, y = problem(40, 10, 1.0)
    probe = LogisticProbe().fit(x[:, 0], y)
    assert probe.decision_function(x[:, 0]).shape == (40,)
    probability = probe.predict_proba(x[:, 0])
    torch.testing.assert_close(probability.sum(-1), torch.ones(40, dtype=torch.float64))
    assert bool((probe.predict(x[:, 0]) == (probability[:, 1] > 0.5)).all())


def test_a_layer_that_does_not_vary_gives_a_constant_probe():
    x, y = problem(40, 10, 1.0)
    x[:, 0] = 3.0
    probe = LogisticProbe().fit(x, y)
    assert float(probe.coef_[0].abs().max()) == 0
    assert float(probe.coef_[1].abs().max()) > 0


def test_says_so_when_it_has_not_converged():
    x, y = problem(40, 60, 1.0)
    with pytest.warns(ConvergenceWarning, match="layers \\[0, 1\\] not converged"):
        LogisticProbe(max_iter=1).fit(x, y)


@pytest.mark.parametrize(("y", "message"), [(torch.zeros(40), "one class"), (torch.arange(40), "0 or 1")])
def test_refuses_unusable_labels(y, message):
    x, _ = problem(40, 10, 1.0)
    with pytest.raises(ValueError, match=message):
        LogisticProbe().fit(x, y)
