"""Poolings: the running form is the batch form on every prefix; what is learned is the same from any start, and finds what a mean loses."""

import numpy as np
import pytest
import torch

from probes.classifiers.logistic import LogisticProbe
from probes.poolings import LEARNED, is_learned, new_pooling, rows
from probes.poolings.fitting import FitTokens, fit_learned
from probes.poolings.learn import Problem
from probes.poolings.multimax import MultiMax, smooth_maximum
from probes.poolings.rows import collect
from probes.poolings.softmax import smooth_attention
from triggerlens import UserError, auroc

NAMES = ("last", "mean", "max", "first:3", "softmax", "multimax", "rolling", "rolling:4")
LAYERS, WIDTH = 2, 6


@pytest.mark.parametrize("name", NAMES)
def test_the_running_form_is_the_batch_form_on_every_prefix(name):
    pooling = new_pooling(name)
    scores = 10 * torch.randn(23, 5, pooling.channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    running = pooling.running()
    for count, token in enumerate(scores, start=1):
        torch.testing.assert_close(running.update(token), pooling.reduce(scores[:count]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_texts_laid_end_to_end_are_pooled_each_by_itself(name):
    pooling = new_pooling(name)
    scores = torch.randn(12, 3, pooling.channels, generator=torch.Generator().manual_seed(1))
    pooled = pooling(scores, [5, 1, 6])
    for row, piece in zip(pooled, scores.split([5, 1, 6]), strict=True):
        assert torch.equal(row, pooling.reduce(piece))
    with pytest.raises(ValueError, match="add up"):
        pooling(scores, [5, 6])


@pytest.mark.parametrize(
    "name", ["nothing", "first", "first:0", "first:x", "span:", "last:2", "softmax:2", "rolling:0", ""]
)
def test_what_is_no_pooling_is_refused(name):
    with pytest.raises(UserError, match="--position"):
        new_pooling(name)


def test_a_span_cannot_watch():
    with pytest.raises(UserError, match="only when the text is whole"):
        new_pooling("span:code").running()


def planted(count=40, shortest=6, longest=20, size=5.0, seed=0, layers=LAYERS):
    """Texts of noise; of the positives one token, anywhere, points along dimension 0. Also two labellings."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest, (count,), generator=generator)
    labels = torch.arange(count) % 2
    texts = []
    for length, label in zip(lengths.tolist(), labels.tolist(), strict=True):
        x = torch.randn(length, layers, WIDTH, generator=generator, dtype=torch.float64)
        x[int(torch.randint(length, (1,), generator=generator)), :, 0] += size * label
        texts.append(x)
    return texts, lengths, labels.double()


def as_rows(pooling, texts, lengths):
    made = collect(list(enumerate(texts))[::-1], lengths, texts[0].shape[1])
    pooling.prepare(made)
    made.normalise()
    return made


@pytest.mark.parametrize("name", LEARNED)
def test_every_start_leads_to_the_same_optimum(monkeypatch, name):
    monkeypatch.setattr(MultiMax, "channels", 2)  # of as many heads as there are, each is added as the second is
    pooling = new_pooling(name)
    texts, lengths, labels = planted(20, layers=1)
    made = as_rows(pooling, texts, lengths)
    fits = [pooling.fit(made, labels[None], 1.0)]
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        heads = 2 if name == "softmax" else 1
        start = torch.randn(1, heads, WIDTH, generator=generator, dtype=torch.float64)
        fits.append(pooling.fit(made, labels[None], 1.0, start))
    for fit in fits[1:]:
        torch.testing.assert_close(fit.objective, fits[0].objective, rtol=1e-8, atol=0)
    assert all(bool((fit.gradient < 1e-5).all()) for fit in fits)


@pytest.mark.parametrize("smooth", [smooth_maximum, smooth_attention])
def test_without_sharpness_it_is_the_logistic_probe_of_the_mean(smooth):
    texts, lengths, labels = planted()
    made = as_rows(new_pooling("multimax"), texts, lengths)
    problem = Problem(made, labels.expand(LAYERS, -1), 1.0, smooth)
    channels = 1 if smooth is smooth_maximum else 2
    found = problem.solve(problem.start(channels, None), problem.intercept(), (0.0,))
    reference = LogisticProbe().fit(made.means(), labels)
    torch.testing.assert_close(found.heads[:, 0], reference.coef_, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.intercept, reference.intercept_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("smooth", "sharpness"), [(smooth_maximum, 0.0), (smooth_maximum, 3.0), (smooth_attention, 1.0)]
)
def test_the_objective_and_its_gradient_are_what_autograd_says(monkeypatch, smooth, sharpness, shared):
    monkeypatch.setattr(rows, "PIECE", 1500)  # several pieces
    texts, lengths, labels = planted(10, layers=1 if shared else 3)
    made = as_rows(new_pooling("multimax"), texts, lengths)
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(3, 2, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    intercept = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(3, len(lengths), generator=generator, dtype=torch.float64)
    value, by_heads, by_intercept = Problem(made, labels.expand(3, -1), 0.7, smooth).value(
        heads.detach(), intercept.detach(), sharpness, offset
    )
    x = made.x.expand(3, -1, -1)
    scores = (x @ heads.mT).split(lengths.tolist(), dim=1)
    if smooth is smooth_attention:
        pooled = [(s[..., 1].softmax(1) * s[..., 0]).sum(1) for s in scores]
    elif sharpness:
        pooled = [((sharpness * s).exp().mean(1).log() / sharpness).sum(1) for s in scores]
    else:
        pooled = [s.mean(1).sum(1) for s in scores]
    logits = torch.stack(pooled, dim=1) + intercept[:, None] + offset
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.expand(3, -1), reduction="none")
    expected = 0.7 * losses.sum(1) + heads.square().sum((1, 2)) / 2
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(by_heads, heads.grad)
    torch.testing.assert_close(by_intercept, intercept.grad)


def fitted(name, texts, lengths, labels, asked=None):
    """A pooling fitted at every layer to the texts, and the layers that were asked for at once."""
    shuffles = np.stack([labels.numpy().astype(bool), ~labels.numpy().astype(bool)])

    def stream(layers):
        if asked is not None:
            asked.append(layers.stop - layers.start)
        for number, text in enumerate(texts):
            yield number, text[:, layers]

    tokens = FitTokens(stream, lengths, labels.numpy().astype(bool), shuffles)
    return fit_learned(new_pooling(name), tokens, texts[0].shape[1], 1.0)


@pytest.mark.parametrize("name", LEARNED)
def test_shuffled_labels_are_fitted_to_themselves(name):
    """The control: each of them as if it were the labels, at the one layer."""
    texts, lengths, labels = planted(24)
    heads, intercept = fitted(name, texts, lengths, labels).shuffled(1)
    assert len(heads) == len(intercept) == 2
    for number, own in enumerate((labels, 1 - labels)):
        alone = fitted(name, texts, lengths, own)
        expected = alone.coef[1] if alone.heads is None else alone.heads[1]
        torch.testing.assert_close(heads[number].reshape(expected.shape), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(intercept[number], alone.intercept[1], rtol=1e-3, atol=1e-4)
    assert (heads[0] - heads[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["softmax", "rolling"])
def test_layer_by_layer_through_a_scratch_file_gives_the_same(monkeypatch, name):
    texts, lengths, labels = planted(24)
    asked, whole = [], fitted(name, texts, lengths, labels)
    monkeypatch.setattr(rows, "MEMORY", 1000)
    monkeypatch.setattr(rows, "PIECE", 5000)
    pieces = fitted(name, texts, lengths, labels, asked)
    assert set(asked) == {1}, "no more than one layer's tokens at once"
    torch.testing.assert_close(pieces.coef, whole.coef, rtol=1e-3, atol=1e-4)
    assert is_learned(name)


@pytest.mark.parametrize(
    ("name", "better"), [("softmax", True), ("multimax", True), ("rolling:2", True), ("mean", False)]
)
def test_one_token_among_many_is_found(name, better):
    """In texts ten times as long as those that were fitted to, a mean dilutes it."""
    texts, lengths, labels = planted(60, size=9.0)
    long, long_lengths, long_labels = planted(60, 150, 200, size=9.0, seed=1)
    pooling, x = new_pooling(name), torch.cat(long)
    if is_learned(name):
        fit = fitted(name, texts, lengths, labels)
        heads = fit.coef[:, None] if fit.heads is None else fit.heads
        scores = torch.einsum("tld,lcd->tlc", x, heads)
        scores[..., 0] += fit.intercept
    else:
        reference = LogisticProbe().fit(torch.stack([text.mean(0) for text in texts]), labels)
        scores = reference.decision_function(x)[..., None]
    values = auroc(pooling(scores, long_lengths.tolist()).numpy(), long_labels.numpy().astype(bool))
    assert (values > 0.95).all() if better else (values < 0.9).all()


def test_shuffled_labels_are_fitted_at_one_layer():
    texts, lengths, labels = planted(24)
    fit = fitted("softmax", texts, lengths, labels)
    heads, intercept = fit.shuffled(1)
    assert heads.shape == (2, 2, WIDTH)
    assert intercept.shape == (2,)
    torch.testing.assert_close(heads[0], fit.heads[1], rtol=1e-6, atol=1e-6)
