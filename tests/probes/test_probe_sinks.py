"""Where a few tokens or a few prompts decide what a probe reads, it is said."""

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import load_model
from probes import LinearProbe, TrainConfig, metrics_json, probe_page, train_on_model
from probes.sinks import far_prompts, far_tokens

D = 8
QUICK = {"n_bootstrap": 50, "n_random_directions": 5, "n_shuffles": 1}


def probe(how):
    direction = torch.nn.functional.normalize(torch.ones(1, D, dtype=torch.float64), dim=1)
    return LinearProbe(
        direction, torch.zeros(1).double(), torch.zeros(1), ("resid_post.1",), 0, how, "triggered", "logistic"
    )


def rows(sink, prompts=10):
    """Prompts of different lengths, whose first token is a sink of this size."""
    generator = torch.Generator().manual_seed(0)
    for number in range(prompts):
        x = torch.randn(5 + 3 * number, 1, D, generator=generator)
        x[0] = sink * torch.nn.functional.normalize(torch.ones(D), dim=0) if sink else x[0]
        yield number, x


def test_a_mean_over_sinks_is_told_with_their_share_of_its_variance():
    note = far_tokens(rows(1000.0), probe("mean"), "mean")
    assert note.startswith("10 of the 185 tokens of 10 prompts are over 8 times the median norm at resid_post.1")
    assert "in 10 prompts the first token" in note
    assert "they make 100% of the variance between prompts of the mean" in note, "it is the prompt's length"
    assert far_tokens(rows(0), probe("mean"), "mean") is None


def test_a_highest_score_that_is_a_sink_s_is_told():
    assert "in 10 of the prompts one of them has the highest score" in far_tokens(rows(1000.0), probe("max"), "max")
    assert "in 0 of the prompts" in far_tokens(rows(-1000.0), probe("max"), "max")
    assert far_tokens(rows(1000.0), probe("last"), "last") is None, "the last token alone is read"


@pytest.mark.parametrize(("far", "told"), [(0, False), (2, True), (60, False)])
def test_a_few_prompts_that_make_the_variance_are_told(far, told):
    x = torch.randn(100, D) + 5
    x[:far] += 300
    note = far_prompts(x, "resid_post.1")
    assert (note is not None) is told
    if told:
        assert note.startswith("2 of 100 test prompts lie over 8 times as far from the middle as the median one")
    assert far_prompts(torch.ones(10, D), "resid_post.1") is None


def test_a_model_with_a_sink_is_told_in_metrics_and_page(tmp_path, capsys):
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight[1] *= 300  # the first token's
    prompts = labelled_prompts(30, harmless=6)
    for how, expected in (("mean", True), ("last", False)):
        result = train_on_model(model, prompts, "resid_pre.0", TrainConfig(aggregation=how, **QUICK), keep=False)
        notes = [note for note in metrics_json(result)["notes"] if "attention sinks" in note]
        assert bool(notes) is expected
        assert all(note in capsys.readouterr().err for note in notes)
        assert ("attention sinks" in probe_page(result)) is expected
