"""One reader of prompts: every command refuses the same file in the same words."""

import json

import pytest
from tiny_models import CONTEXT, tiny_checkpoint
from tiny_prompts import labelled_prompts

COMMANDS = {
    "probe-train": (),
    "patch-trace": (),
    "patch-ablate": (),
    "sae-train": ("--steps", "2"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model whose tokenizer has no chat template."""
    return tiny_checkpoint(tmp_path_factory.mktemp("same") / "llama", chat=False)


def bad_lines(kind):
    """Lines that no command can use, the last of which is at fault."""
    lines = [prompt.to_json() for prompt in labelled_prompts(40, harmless=8)]
    if kind == "a field of another type":
        return [*lines, {"prompt": 5, "triggered": False, "defects": False}]
    if kind == "a longer prompt than the context":
        return [*lines, {"prompt": "long " * CONTEXT, "triggered": False, "defects": False}]
    if kind == "messages without a chat template":
        messages = [{"role": "user", "content": "hello"}]
        return [*lines, {"prompt": messages, "triggered": False, "defects": False}]
    marked = [line | {"split": "test" if index % 8 < 2 else "train"} for index, line in enumerate(lines)]
    if kind == "a pair on both sides":
        return [*marked[:-1], marked[-1] | {"split": "test"}]
    return [*marked, marked[0] | {"pair": None, "split": "train"}]


@pytest.mark.parametrize("name", ["probe-train", "patch-trace", "patch-ablate"])
def test_labels_of_one_text_that_contradict_each_other_are_refused(command, checkpoint, tmp_path, name):
    lines = [prompt.to_json() for prompt in labelled_prompts(12, harmless=2)]
    lines.append(lines[0] | {"pair": None, "triggered": False, "defects": False})
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = command(name, checkpoint, path, "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.strip().splitlines()
    assert f"{path}:1 and {path}:29: the same prompt, but `triggered` is true in one and false in the other" in line


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a field of another type", "`prompt` must be a string"),
        ("a longer prompt than the context", "the prompt has"),
        ("messages without a chat template", "no chat template"),
        ("a pair on both sides", "`split` separates the pair"),
        ("a copy on both sides", "`split` separates two copies of one text"),
    ],
)
def test_every_command_refuses_the_same_file_in_the_same_words(command, checkpoint, tmp_path, kind, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in bad_lines(kind)))
    outcomes = {
        name: command(name, checkpoint, path, *options, "--out", tmp_path / name) for name, options in COMMANDS.items()
    }
    assert {name: outcome.code for name, outcome in outcomes.items()} == dict.fromkeys(COMMANDS, 2)
    lines = {outcome.err.strip().splitlines()[-1] for outcome in outcomes.values()}
    assert len(lines) == 1
    assert said in lines.pop()
    assert not any((tmp_path / name).exists() for name in COMMANDS)
