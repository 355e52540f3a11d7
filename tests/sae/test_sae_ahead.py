"""Activations that workers compute ahead of the training are those that are computed when asked for, in the same order."""

from importlib import util
from itertools import islice

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_prompts import labelled_prompts

from hooked import load_model
from sae import AheadSource, ModelSource, SideBySide, TopK, TrainConfig, train_sae
from sae.stream import ShuffledBatches
from triggerlens import ExecutorConfig, UserError

SITE = "resid_post.1"
needs_ray = [pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray"), pytest.mark.slow]
EVERYWHERE = [
    pytest.param(ExecutorConfig(), id="serial"),
    pytest.param(ExecutorConfig(jobs=2), id="processes", marks=pytest.mark.slow),
    pytest.param(ExecutorConfig(executor="ray", jobs=2), id="ray", marks=needs_ray),
]


@pytest.fixture
def live(tmp_path):
    """A source of seven blocks or so, computed in one thread, as workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = load_model(str(tiny_checkpoint(tmp_path / "m")), device="cpu")
    yield ModelSource(model, labelled_prompts(pairs=20, harmless=0), SITE, block_rows=150)
    torch.set_num_threads(threads)


def taken(source, count):
    """The first batches of a stream; more than one pass of them."""
    stream = ShuffledBatches(source, 64, seed=0)
    batches = [next(stream).clone() for _ in range(count)]
    stream.close()
    return torch.stack(batches)


@pytest.mark.parametrize("executor", EVERYWHERE)
def test_batches_are_the_same_over_several_passes(live, executor, monkeypatch):
    rows = sum(len(live.block(number)) for number in range(len(live)))
    count = 2 * rows // 64
    assert len(live) > 4
    expected = taken(live, count)
    monkeypatch.setattr(live, "block", None)  # it is not this process's model that gives them
    assert torch.equal(taken(AheadSource([live], executor), count), expected)


@pytest.mark.parametrize("executor", EVERYWHERE)
def test_a_crosscoder_s_sources_are_ahead_side_by_side(live, executor):
    ahead = AheadSource([live, live], executor)
    assert ahead.widths == live.widths * 2
    assert torch.equal(taken(ahead, 12), taken(SideBySide([live, live]), 12))


@pytest.mark.parametrize("executor", EVERYWHERE)
def test_what_was_begun_without_workers_goes_on_with_them_to_the_same_weights(live, executor, tmp_path):
    class Stopped(Exception):
        pass

    def train(source, checkpoints, stop=None):
        def on_step(step):
            if step == stop:
                raise Stopped

        sae = TopK(live.widths[0], 32, k=4)
        config = TrainConfig(steps=20, batch=64, warmup=0.1, checkpoint_every=5, log_every=5)
        train_sae(source, sae, config, checkpoints=tmp_path / checkpoints, on_step=on_step)
        return sae.state_dict()

    whole = train(live, "whole")
    with pytest.raises(Stopped):
        train(live, "parts", stop=7)
    parts = train(AheadSource([live], executor), "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_no_more_is_computed_than_is_asked_for(live, monkeypatch):
    asked = []
    monkeypatch.setattr(live, "prompts_of", lambda number: asked.append(number) or ModelSource.prompts_of(live, number))
    order = AheadSource([live], ExecutorConfig()).in_order(iter([3, 0, 3, 1]))
    for block, number in zip(islice(order, 3), [3, 0, 3], strict=True):
        assert torch.equal(block, live.block(number))
    order.close()
    assert asked[0:4:2] == [3, 0]
    assert 1 not in asked


def test_a_live_model_is_refused(tmp_path):
    source = ModelSource(
        load_model(tiny_model("gpt2"), tokenizer=tiny_tokenizer(tmp_path)), labelled_prompts(pairs=4), SITE
    )
    with pytest.raises(UserError, match="a live model is not loaded again by workers"):
        AheadSource([source], ExecutorConfig(jobs=2))
