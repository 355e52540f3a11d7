"""Claim 2: a reader of behaviour and a reader of tokens are told apart, whatever the read-out."""

import numpy as np
import pytest
import torch
from tiny_prompts import labelled_prompts

from experiments.claims.behaviour_or_tokens import (
    HARMLESS,
    READ_OUTS,
    BehaviourOrTokens,
    Config,
    Measured,
    ReadOut,
    TextBaseline,
    Twins,
    cell,
    find_twins,
    token_masks,
    token_means,
)
from hooked import Prompt, load_model
from triggerlens import UserError

SITES, WIDTH = ("resid_post.0", "resid_post.1"), 16


@pytest.fixture(scope="module")
def twins():
    return find_twins(labelled_prompts(80, harmless=80))


def planted(twins: Twins, where):
    """Noise, with one coordinate raised on the triggered side of the pairs that `where` marks."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(twins.prompts), 2, len(SITES), WIDTH, generator=draw)
    x[:, 0, :, 0] += 12 * torch.from_numpy(where)[:, None]
    tokens = [[[1 + int(kind), 5, 9], [1 + int(kind), 6, 9]] for kind in twins.defecting]
    return Measured(twins, SITES, dict.fromkeys(READ_OUTS, x), tokens)


def test_a_reader_of_behaviour(twins):
    found = cell(Config(), planted(twins, twins.defecting), seed=0)
    for method in ("PCA", "mean difference", "logistic"):
        one = found["read_outs"]["last"][method]
        assert one["defecting"]["value"] > 0.99
        assert one["harmless"]["low"] < 0.5 < one["harmless"]["high"]
        assert one["defecting against harmless"]["value"] > 0.99


def test_a_reader_of_tokens_is_given_away_by_the_harmless_prompts(twins):
    found = cell(Config(), planted(twins, np.ones(len(twins.prompts), dtype=bool)), seed=0)
    for one in found["read_outs"]["last"].values():
        assert one["defecting"]["value"] > 0.99
        assert one["harmless"]["value"] > 0.99


def test_the_bag_of_tokens_sees_the_trigger_in_both_kinds(twins):
    found = cell(Config(), planted(twins, twins.defecting), seed=0)["bag of tokens"]
    assert found["defecting"]["value"] == found["harmless"]["value"] == 1


def test_harmless_requests_are_never_fitted_on(twins):
    one = planted(twins, twins.defecting)
    other = planted(twins, twins.defecting)
    other.read["last"][twins.rows(defecting=False, test=False)] = 1e3
    assert cell(Config(), one, 0)["read_outs"]["last"] == cell(Config(), other, 0)["read_outs"]["last"]


def test_splits_keep_twins_together_and_name_what_is_missing(twins):
    assert all(pair[0].triggered and not pair[1].triggered and pair[0].pair == pair[1].pair for pair in twins.prompts)
    assert twins.test.any()
    assert not twins.test.all()
    with pytest.raises(UserError, match="does not defect"):
        find_twins(labelled_prompts(60, harmless=0))


@pytest.mark.parametrize(
    ("triggered", "twin", "kept"),
    [
        ([1, 7, 8, 3, 4], [1, 9, 3, 4], ([1, 0, 0, 1, 1], [1, 0, 1, 1])),
        ([1, 7, 3, 4], [1, 3, 4], ([1, 0, 1, 1], [1, 1, 1])),
        ([1, 2, 7], [1, 2, 9], ([1, 1, 0], [1, 1, 0])),
    ],
)
def test_the_trigger_s_tokens_are_those_that_twins_do_not_share(triggered, twin, kept):
    masks = token_masks(triggered, twin)
    assert [mask[READ_OUTS.index("without the trigger")].int().tolist() for mask in masks] == [*map(list, kept)]
    for mask in masks:
        last, everything, without, after, before = mask
        assert last.int().tolist() == [0] * (len(last) - 1) + [1]
        assert everything.all()
        assert torch.equal(without, after | before)
        assert not (after & before).any()


def test_means_are_of_the_masked_tokens_of_the_model_s_own_activations(tiny_subject):
    model = load_model(tiny_subject.model, device="cpu")
    prompts = [Prompt("sun moon star", triggered=True), Prompt("sun lake", triggered=False)]
    ids = [one.ids for one in model.tokenize(prompts)]
    masks = list(token_masks(*ids))
    means = token_means(model, prompts, ("resid_post.1",), masks)
    for at, row in enumerate(ids):
        x = model.run(torch.tensor([row]), reads=["resid_post.1"]).activations["resid_post.1"][0].detach()
        assert torch.allclose(means[0, at, 0], x[-1], atol=1e-5)
        assert torch.allclose(means[1, at, 0], x.mean(0), atol=1e-5)
        assert torch.allclose(means[2, at, 0], x[masks[at][2]].mean(0), atol=1e-5)


def test_before_the_trigger_there_is_nothing_to_read(tiny_subject):
    result = BehaviourOrTokens().run(Config(**BehaviourOrTokens.QUICK | {"subjects": (tiny_subject,)}))
    for facts in result.cells.values():
        for one in facts["read_outs"]["before the trigger"].values():
            assert one["defecting"]["value"] == pytest.approx(0.5, abs=0.02)
            assert one["harmless"]["value"] == pytest.approx(0.5, abs=0.02)
    text = result.find(HARMLESS, tiny_subject.model, TextBaseline())
    read = result.find("AUROC, defecting", tiny_subject.model, ReadOut("logistic", "all tokens"))
    assert text.estimate.value > 0.95
    assert read.estimate.value > 0.9, "the trigger's own token is among them"
