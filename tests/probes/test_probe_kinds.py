"""A new kind of probe takes one file, and one line in the table of kinds."""

import json
import sys

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

from hooked import load_model, read_prompts
from probes import LinearProbe, TrainConfig, metrics_json, train_on_model, train_probe
from probes.classifiers import METHODS
from triggerlens import UserError

KIND = '''
from probes.classifiers.base import LinearClassifier, as_layers


class MedianDifferenceProbe(LinearClassifier):
    """coef = median(positive) - median(negative)."""

    def fit(self, x, y):
        x, y = as_layers(x).double(), y.bool()
        positive, negative = x[y].median(0).values, x[~y].median(0).values
        self.coef_ = positive - negative
        self.intercept_ = -((positive + negative) / 2 * self.coef_).sum(-1)
        return self
'''
FAST = {"n_bootstrap": 50, "n_random_directions": 20, "n_shuffles": 3}


@pytest.fixture
def median_difference(tmp_path, monkeypatch):
    (tmp_path / "median_difference.py").write_text(KIND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "median-difference", "median_difference:MedianDifferenceProbe")
    yield "median-difference"
    sys.modules.pop("median_difference", None)


@pytest.mark.parametrize("aggregation", ["last", "max"])
def test_it_is_trained_and_refitted_on_shuffled_labels_as_any_other(world, median_difference, aggregation):
    here = world(behaviour=6.0)
    config = TrainConfig(method=median_difference, aggregation=aggregation, **FAST)
    sites = [f"resid_post.{layer}" for layer in range(3)]
    result = train_probe(here.source, here.prompts, sites, config, token_source=here.token_source, tokens=here.tokens)
    rows = result.test.rows
    assert (result.probe.method, result.best.site) == (median_difference, "resid_post.2")
    assert float(result.probe.direction[0]) > 0.8
    assert result.best.auroc.value > 0.99
    assert 0.2 < result.controls["shuffled_labels"].auroc.value < 0.8
    if aggregation == "last":
        torch.testing.assert_close(
            result.probe(here.x[rows, 2]), torch.from_numpy(result.test.scores), rtol=1e-6, atol=1e-6
        )


def test_it_is_trained_on_a_model_and_named_by_the_command(tmp_path, monkeypatch, capsys, median_difference):
    from commands.probe_train import main

    checkpoint, path = tiny_checkpoint(tmp_path / "model"), prompt_file(tmp_path / "prompts.jsonl")
    config = TrainConfig(method=median_difference)
    result = train_on_model(load_model(checkpoint), read_prompts(path), config=config, keep=False)
    arguments = [checkpoint, path, "--method", median_difference, "--out", tmp_path / "out", "--json"]
    monkeypatch.setattr(sys, "argv", ["probe-train", *map(str, arguments)])
    main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["probe"] == LinearProbe.load(tmp_path / "out").method == median_difference
    assert printed["test"]["auroc"] == pytest.approx(metrics_json(result)["test"]["auroc"], abs=1e-6)


def test_an_unknown_kind_is_refused_with_the_names_of_all():
    with pytest.raises(UserError, match=r"'forest': must be one of logistic, mean-difference, lda"):
        TrainConfig(method="forest")
