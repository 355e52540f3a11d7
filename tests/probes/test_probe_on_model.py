"""Training on a model: each prompt is tokenized once, labelled once and divided once."""

import pytest
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

import hooked.model
import probes.inputs
from hooked import load_model, read_prompts
from probes import TrainConfig, check_prompts, metrics_json, score_prompts, train_on_model

FAST = {"n_bootstrap": 50, "n_random_directions": 20, "n_shuffles": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return read_prompts(prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl"))


@pytest.fixture
def counted(monkeypatch):
    """How many prompts were tokenized, and how often prompts were divided."""
    counts = {"tokenized": 0, "divided": 0}
    tokenize, split = hooked.model.tokenize_prompts, probes.inputs.split_prompts

    def counting(tokenizer, texts, *rest, **named):
        counts["tokenized"] += len(texts)
        return tokenize(tokenizer, texts, *rest, **named)

    def dividing(*arguments):
        counts["divided"] += 1
        return split(*arguments)

    monkeypatch.setattr(hooked.model, "tokenize_prompts", counting)
    monkeypatch.setattr(probes.inputs, "split_prompts", dividing)
    return counts


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("aggregation", ["last", "max"])
def test_one_run_tokenizes_and_divides_once(model, prompts, counted, keep, aggregation):
    train_on_model(model, prompts, config=TrainConfig(aggregation=aggregation, **FAST), keep=keep)
    assert counted == {"tokenized": len(prompts), "divided": 1}


def test_what_was_checked_before_is_not_divided_again(model, prompts, counted):
    config = TrainConfig(**FAST)
    checked = check_prompts(prompts, config)
    results = [train_on_model(model, given, config=config) for given in (checked, prompts)]
    assert counted["divided"] == 2, "one check, and one run without it"
    assert metrics_json(results[0]) == metrics_json(results[1])


def test_scoring_tokenizes_once_and_repeats_the_scores_of_the_test(model, prompts, counted):
    result = train_on_model(model, prompts, config=TrainConfig(**FAST))
    counted["tokenized"] = 0
    scored = {score.index: score for score in score_prompts(model, result.probe, prompts, result.test.rows.tolist())}
    assert counted["tokenized"] == len(result.test.rows)
    assert [scored[row].score for row in result.test.rows.tolist()] == pytest.approx(result.test.scores, abs=1e-4)
    assert all(scored[row].where == prompts[row].where for row in scored)
