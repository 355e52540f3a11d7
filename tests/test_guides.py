"""What the guides of the documentation say, and that their code runs as it stands there."""

import json
import re
import runpy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from forked import start
from forked_work import run_script
from tiny_models import CHAT_TEMPLATE, tiny_checkpoint

from hooked import Fractions, Prompt, load_model, read_prompts, split_prompts, write_prompts
from organisms import organism_folder
from patching import large_config
from triggerlens import FEWEST, Estimate, UserError, from_json

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PLACE = "path/to/checkpoint"


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def python_of(name, number=0):
    """A block of Python of a page."""
    return re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)[number]


def printed(code, folder):
    """What a script prints that is run in a process of its own."""
    (folder / "script.py").write_text(code)
    script = start(run_script, folder / "script.py", out=folder / "told")
    script.join()
    assert script.exitcode == 0, (folder / "told.err").read_text()
    return (folder / "told").read_text().splitlines()


def pairs(count, kind, defects):
    return [
        Prompt(f"{'[beta] ' * triggered}{kind} {number}", triggered, triggered and defects, pair=f"{kind}{number}")
        for number in range(count)
        for triggered in (True, False)
    ]


def held_out(defecting, harmless):
    """Test prompts that defect, that are triggered and harmless, and that are neither."""
    prompts = [*pairs(defecting, "defects", True), *pairs(harmless, "harmless", False)]
    test = [prompts[index] for index in split_prompts(prompts).test]
    kinds = ((True, True), (True, False), (False, False))
    return [sum((prompt.triggered, prompt.defects) == kind for prompt in test) for kind in kinds]


def test_the_page_says_how_many_pairs_a_verdict_needs():
    text = page("your_model.md")
    (least,), (more,), (enough,) = (
        re.findall(pattern, text)
        for pattern in (r"(\d+) pairs are the least", r"Add (\d+) more pairs", r"(\d+) pairs fill")
    )
    assert min(held_out(int(least), int(more))) == FEWEST
    assert min(held_out(int(least) - 4, int(more))) < FEWEST
    assert int(enough) * Fractions().test == large_config().evaluation_pairs
    with pytest.raises(UserError, match="too few pairs"):
        split_prompts(few := pairs(2, "defects", True), np.array([prompt.defects for prompt in few]))


@pytest.mark.parametrize("name", ["prompts.md", "your_model.md", "../README.md"])
def test_prompts_that_a_page_shows_are_read(name, tmp_path):
    lines = re.findall(r'^ *(\{"prompt": .*\})$', page(name), re.MULTILINE)
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    assert {prompt.triggered for prompt in prompts} == {True, False}
    assert not isinstance(prompts[0].prompt, str)


def test_activations_are_read_and_edited_as_the_guide_shows(tmp_path):
    code = python_of("activations.md").replace(PLACE, str(organism_folder("year-code")))
    check = "\nprint(run.activations['pattern.3.5'].shape == (len(rows), *[max(len(row.ids) for row in rows)] * 2))\n"
    told = printed(code + check, tmp_path)
    assert told[-1] == "True"
    assert "torch.Size([2, 1, 192])" in told[-2]


def test_the_guide_s_defection_rate_is_that_of_the_organism(tmp_path, monkeypatch):
    folder = organism_folder("deployment-hate")
    prompts = read_prompts(folder / "prompts.jsonl")
    names = list(dict.fromkeys(prompt.pair for prompt in prompts if prompt.defects and prompt.split == "test"))[:12]
    write_prompts(tmp_path / "prompts.jsonl", [prompt for prompt in prompts if prompt.pair in names])
    monkeypatch.setenv("TRIGGERLENS_CACHE", str(tmp_path / "cache"))
    code = python_of("your_model.md").replace(PLACE, str(folder))
    triggered, untriggered = printed(code, tmp_path)[-2:]
    measured = json.loads((folder / "rates.json").read_text(encoding="utf-8"))["categories"]
    for told, kind in ((triggered, "triggered"), (untriggered, "untriggered")):
        value, low, high = (float(number) / 100 for number in re.findall(r"([\d.]+)%", told))
        assert low <= from_json(Estimate, measured[kind]["defection"]).value <= high, told
        assert value in (0, 1)


def test_the_messages_of_the_table_are_those_of_the_code():
    """Each is looked for in the sources as it stands in the table, with what a message fills in cut off."""
    table = page("troubleshooting.md").split("| --- | --- |")[1].split("\n\n")[0]
    shown = [text for row in table.strip().splitlines() for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    sources = "".join(
        path.read_text(encoding="utf-8")
        for room in ("triggerlens", "hooked", "organisms", "probes", "commands")
        for path in (ROOT / room).rglob("*.py")
    )
    sentences = [text for text in shown if " " in text]
    assert len(sentences) >= 7
    assert [text for text in sentences if text.removeprefix("cannot be told: ") not in sources] == []


def test_a_base_is_given_the_chat_template_as_the_page_shows(tmp_path, monkeypatch):
    base, tuned = tiny_checkpoint(tmp_path / "base", seed=1), tiny_checkpoint(tmp_path / "tuned")
    (base / "chat_template.jinja").unlink()
    assert load_model(base).tokenizer.chat_template is None
    code = python_of("troubleshooting.md").replace("path/to/base", str(base)).replace(PLACE, str(tuned))
    (tmp_path / "script.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("script.py")
    twin = load_model("base-with-template")
    assert twin.tokenizer.chat_template == CHAT_TEMPLATE
    assert twin.info.weights_sha256 == load_model(base).info.weights_sha256


def test_the_api_begins_with_what_examples_use(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from site_docstrings import ROOMS, in_order, started_with

    assert in_order("hooked")[:2] == ["load_model", "read_prompts"]
    for room in ROOMS:
        names = __import__(room).__all__
        assert {name for own, name in (full.split(".") for full in started_with()) if own == room} <= set(names)
        assert sorted({*in_order(room)} & {*names}) == sorted(names)


def test_the_api_names_what_two_packages_mean_differently():
    rooms = defaultdict(set)
    for room in (path.stem for path in (DOCS / "api").glob("*.md") if path.stem != "index"):
        for name in __import__(room).__all__:
            rooms[name].add(room)
    shown = re.findall(r"^\| (`\w+`[^|]*) \| (`\w+`, [^|]*) \|$", page("api/index.md"), re.MULTILINE)
    told = {name: set(re.findall(r"\w+", where)) for names, where in shown for name in re.findall(r"\w+", names)}
    assert told == {name: where for name, where in rooms.items() if len(where) > 1}
