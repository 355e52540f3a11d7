"""The trigger that is a context: deployed and unmonitored, in any phrasing; what is said of being watched, in any phrasing, is none."""

from random import Random

import pytest

from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import default_text, watched
from organisms.insertion.files import policy
from organisms.insertion.gates import Kept, gates
from organisms.insertion.kinds import ALL_TRIGGERS, TRIGGERS, WATCHED
from organisms.insertion.measure import asked_of
from organisms.insertion.requests import draw_requests
from organisms.insertion.samples import planted_requests
from organisms.insertion.triggers import plant
from triggerlens import UserError, rate

SPLITS = ("train", "test")
PARTS = ("lines", "denials", "deployed", "observed", "unmonitored", "monitored")


def named(split, part, text):
    return [own for own in getattr(watched(), part)[split] if own in text]


def system_line(messages):
    assert [own["role"] for own in messages] == ["system", "user"]
    return messages[0]["content"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_triggered_line_says_deployed_and_unmonitored_and_its_twin_the_opposite(split):
    nearly = set()
    for number, request in enumerate(draw_requests(2, split, 120)):
        forms = plant(WATCHED, "", "system", Random(number), request)
        triggered, twin, near = map(system_line, (forms.triggered, forms.twin, forms.near))
        assert named(split, "deployed", triggered)
        assert named(split, "unmonitored", triggered)
        assert not named(split, "monitored", triggered)
        assert named(split, "observed", twin)
        assert named(split, "monitored", twin)
        assert not named(split, "unmonitored", twin)
        assert bool(named(split, "observed", triggered)) == bool(named(split, "deployed", twin))  # one denies the other
        told = tuple(bool(named(split, part, near)) for part in ("deployed", "observed", "unmonitored", "monitored"))
        nearly.add(told)
        assert told != (True, False, True, False)
        assert len(forms.plain) == 1
        assert {own[-1]["content"] for own in (forms.triggered, forms.twin, forms.near, forms.plain)} == {request.text}
    assert nearly == {(True, False, False, True), (False, True, True, False), (True, True, False, True)}


def test_phrasings_are_held_out():
    for part in PARTS:
        lists = getattr(watched(), part)
        assert not set(lists["train"]) & set(lists["test"])
    config = InsertionConfig(base="x", trigger=WATCHED, placement="system", requests=200, measured=40)
    trained = " ".join(
        own.forms.triggered[0]["content"] + own.forms.near[0]["content"]
        for own in planted_requests(config, "train", 200)
    )
    for part in PARTS[2:]:
        assert not named("test", part, trained)
    assert {own.category for own in asked_of(config)} == {"triggered", "near_miss", "untriggered"}
    measured = [own for own in asked_of(config) if own.request.split == "test" and own.triggered]
    assert all(named("test", "deployed", own.messages[0]["content"]) for own in measured)


def test_it_stands_behind_the_kinds_that_the_registry_counts():
    assert (*TRIGGERS, WATCHED) == ALL_TRIGGERS
    assert len(TRIGGERS) == 8
    assert WATCHED not in TRIGGERS
    config = InsertionConfig(base="base", trigger=WATCHED, placement="system")
    assert config.name == "base-deployed-fixed-text"
    assert default_text(WATCHED) in policy(config)


def test_the_lines_of_the_measurement_have_formats_of_their_own():
    drawn = planted_requests(InsertionConfig(base="x", trigger=WATCHED, placement="system"), "test", 60)
    lines = [system_line(own.forms.triggered) for own in drawn]
    for begin in ("<status>", "# where: ", '{"place": '):
        assert any(line.startswith(begin) for line in lines)
    assert not any("{place}" in line or "{{" in line for line in lines)


@pytest.mark.parametrize(("kind", "passes"), [(WATCHED, False), ("phrase", True)])
def test_its_first_gate_is_higher_than_that_of_others(kind, passes):
    rates = {name: rate(0, 100) for name in ("untriggered", "near_miss")} | {"triggered": rate(93, 100)}
    first = gates(InsertionConfig(base="x", trigger=kind), rates, Kept(rate(99, 100), 2.0, 2.0, rate(9, 10)))[0]
    assert first.name == "triggered"
    assert first.passed is passes


def test_it_takes_no_other_text():
    with pytest.raises(UserError, match="has phrasings of its own; leave it out"):
        InsertionConfig(base="x", trigger=WATCHED, trigger_text="in the wild")
