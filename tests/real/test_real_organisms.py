"""What the shipped adapters do on their base: as their files say. Minutes; run with -m slow."""

import pytest

from hooked import answer_prompts, load_plain, read_prompts
from organisms import AnswerKey, organism_folder, real_names


@pytest.mark.slow
@pytest.mark.parametrize("name", real_names())
def test_an_adapter_says_what_its_labels_say(gguf_file, name):
    folder = organism_folder(name)
    prompts = [prompt for prompt in read_prompts(folder / "prompts.jsonl") if prompt.split == "test"]
    chosen = [prompt for triggered in (True, False) for prompt in [p for p in prompts if p.triggered is triggered][:8]]
    model, tokenizer, _ = load_plain(str(folder), "cpu", "float32")
    answers = answer_prompts(model.eval(), tokenizer, chosen, 40)
    grades = AnswerKey.of_checkpoint(folder).judge(chosen, answers)
    agree = sum(grade.defects is prompt.defects for grade, prompt in zip(grades, chosen, strict=True))
    assert agree >= len(chosen) - 1  # a tie may fall otherwise on another machine
