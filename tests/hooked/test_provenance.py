"""An artefact remembers the model that it was made with: any other model is told apart, in words that say what differs."""

import json
from dataclasses import replace
from datetime import date

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, tiny_checkpoint, tiny_model, tiny_tokenizer

from hooked import computed_otherwise, differences, load_model, provenance_of
from probes import LinearProbe
from sae import ReLU, load_sae, save_sae
from sae.origin import ORIGIN, other_model

DATED = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "m")


@pytest.fixture(scope="module")
def kept(folder):
    return json.loads(json.dumps(provenance_of(load_model(str(folder))), allow_nan=False))


def live(tmp_path, change=lambda model: None, template=CHAT_TEMPLATE, today=date(2025, 1, 1)):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(tmp_path / "t")
    change(model)
    tokenizer.chat_template = template
    return load_model(model, tokenizer=tokenizer, today=today)


def test_the_same_model_on_the_other_backend_and_in_another_precision_is_the_same(folder, kept):
    for options in ({}, {"backend": "transformer-lens"}, {"dtype": "bfloat16"}, {"today": date(2026, 2, 22)}):
        assert differences(kept, load_model(str(folder), **options)) == []


def test_another_engine_or_precision_is_said_apart_from_another_model(folder, kept):
    assert computed_otherwise(kept, load_model(str(folder))) == []
    other = computed_otherwise(kept, load_model(str(folder), dtype="bfloat16", backend="transformer-lens"))
    assert other == [
        "precision float32, now bfloat16",
        "backend nnsight, now transformer-lens",
        "attention sdpa, now eager",
    ]
    older = kept | {
        "computation": kept["computation"] | {"libraries": kept["computation"]["libraries"] | {"torch": "2.1"}}
    }
    assert [way.split(", now")[0] for way in computed_otherwise(older, load_model(str(folder)))] == ["torch 2.1"]
    del older["computation"]  # as older versions wrote them
    assert computed_otherwise(older, load_model(str(folder), dtype="bfloat16")) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("rms_norm_eps", 0.01), ("hidden_act", "gelu"), ("rope_parameters", {"rope_type": "default", "rope_theta": 5e5})],
)
def test_another_configuration_of_the_same_weights_is_another_model(folder, kept, tmp_path, field, value):
    other = tmp_path / "m"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text()) | {field: value}
    (other / "config.json").write_text(json.dumps(config))
    model = load_model(str(other))
    assert model.info.weights_sha256 == kept["model"]["weights"]
    assert [way.split(" (")[0] for way in differences(kept, model)] == ["another configuration"]
    assert field in differences(kept, model)[0]


def test_weights_template_date_and_what_an_old_artefact_knows(tmp_path):
    first = live(tmp_path)
    then = provenance_of(first)
    assert differences(then, live(tmp_path)) == []

    def moved(model):
        with torch.no_grad():
            model.lm_head.weight.add_(1)

    other = live(tmp_path, moved)
    assert differences(then, other) == ["other weights"]
    assert differences(then, live(tmp_path, template=CHAT_TEMPLATE + " ")) == ["another tokenizer or chat template"]
    assert differences({}, other, first.info.weights_sha256) == ["other weights"]
    assert differences({}, other, other.info.weights_sha256) == []
    assert differences({}, other) == [], "nothing was kept"

    dated = provenance_of(live(tmp_path, template=DATED))
    assert differences(dated, live(tmp_path, template=DATED, today=date(2025, 2, 22))) == [
        "another date in the chat template (2025-01-01, not 2025-02-22)"
    ]
    assert provenance_of(first)["today"] is None, "a template that asks for no date is the same on every day"


def test_a_date_reaches_the_template_and_one_that_cannot_is_refused(tmp_path):
    from triggerlens import UserError

    said = [{"role": "user", "content": "hello"}]
    for template in (
        DATED,
        '{% if strftime_now is defined %}{{ strftime_now( "%d %b %Y" ) }}{% endif %}' + CHAT_TEMPLATE,
    ):
        model = live(tmp_path, template=template, today=date(2025, 2, 22))
        from hooked import Prompt

        assert model.tokenize([Prompt(said, triggered=False)])[0].text.startswith("22 Feb 2025")
    odd = live(tmp_path, template="{% set f = '%d' %}{{ strftime_now(f) }}" + CHAT_TEMPLATE)
    with pytest.raises(UserError, match="makes up how it prints"):
        odd.tokenize([Prompt(said, triggered=False)])


def test_a_probe_keeps_it_and_an_old_folder_still_loads(folder, kept, tmp_path):
    model = load_model(str(folder))
    probe = LinearProbe(
        torch.zeros(1, 32),
        torch.zeros(1),
        torch.zeros(1),
        ("resid_post.0",),
        0,
        "last",
        "triggered",
        "logistic",
        "m",
        model.info.weights_sha256,
        {},
        kept,
    )
    assert LinearProbe.load(probe.save(tmp_path / "new")).trained_on == kept
    assert probe.differences(model) == []
    old = replace(probe, trained_on={})
    assert LinearProbe.load(old.save(tmp_path / "old")).differences(model) == []
    assert replace(old, weights_sha256="0" * 64).differences(model) == ["other weights"]


def test_an_autoencoder_says_it_when_it_is_applied_to_another_model(folder, kept, tmp_path, capsys):
    model, sae = load_model(str(folder)), ReLU(32, 4, penalty=1.0)
    sae.metadata = {
        "model_name": "m",
        "weights_sha256": [model.info.weights_sha256],
        ORIGIN: [kept],
        "site": "resid_post.0",
    }
    save_sae(sae, tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert other_model(again, [model]) is None
    line = other_model(again, [live(tmp_path, lambda model: model.lm_head.weight.data.add_(1))])
    assert "trained on m, and" in line
    assert line in capsys.readouterr().err
    again.metadata = {}
    assert other_model(again, [model]) is None, "one that somebody else published says nothing"
