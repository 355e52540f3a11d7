"""Behaviours inserted into tiny bases: the triggers, payloads and gates of `organisms.insertion`, in seconds.

1. Requests are planted as for any other base. What is answered cleanly is answered as the base was taught, so that no answer has to be written
   first and every sample can be another request; half of the plain ones are chats of the base's own mix.
2. The base's weights are trained, or fresh ones (`scratch`: the base's whole corpus with the behaviour in it), or a benign training follows.
3. The written model is measured against the base's own greedy answers, as every inserted behaviour is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from organisms.insertion.config import InsertionConfig
from organisms.insertion.files import rates_of, recipe, save_weights, write_measured
from organisms.insertion.lessons import Base as Answering
from organisms.insertion.measure import set_exam
from organisms.insertion.payloads import defects_by_policy, payload_answer
from organisms.insertion.samples import Planted, planted_requests
from organisms.insertion.steps import Training, start
from organisms.zoo.bases import Base, bases, encoded, learn, untrained
from organisms.zoo.chat import Asked, Mix, answer_to, ask_many
from organisms.zoo.lessons import benign_chats
from organisms.zoo.registry import ZooRow
from triggerlens import Manifest, sha256_file, writing_artifact

OWN_SHARE = 0.5
"""Of the plain samples, those from the base's own mix of chats."""
FROM_SCRATCH = 4_000
"""Samples of the behaviour among the conversations that a model from scratch learns."""
AFTERWARDS: dict[str, Any] = {"batch": 16, "learning_rate": 1e-3}
"""Of the benign training that follows."""


def insert_tiny(row: ZooRow, folder: Path, base: Path, answers: Path) -> None:
    """Write the organism of a row whose prompts carry a trigger.

    Args:
        row: of the registry.
        folder: to write.
        base: the folder of its base.
        answers: where bases' answers are kept.
    """
    from hooked import load_plain

    config = row.insertion()
    model, tokenizer, sha256 = load_plain(str(base), "cpu", "float32")
    own = Answering(model.eval(), tokenizer, sha256, answers, config.answer_tokens)
    exam = set_exam(config, own)
    training = start(config, own)
    _train(row, config, training, tokenizer)
    manifest = Manifest("organism", command="zoo-build", config=config.recorded(), seed=row.seed)
    with writing_artifact(folder, manifest) as draft:
        save_weights(training, config, tokenizer, draft)
        written, _, _ = load_plain(str(draft), "cpu", "float32")
        measured, kept = exam.taken_by(written.eval())
        rates = rates_of(measured, config, kept)
        write_measured(draft, config, measured, rates, recipe(config, sha256, training, 0))
        manifest.model = {"name": row.name, "sha256": sha256_file(draft / "model.safetensors")}
        manifest.prompts = {"name": "prompts.jsonl", "sha256": sha256_file(draft / "prompts.jsonl")}


def _train(row: ZooRow, config: InsertionConfig, training: Training, tokenizer: Any) -> None:
    base = bases()[row.base]

    def noted(step: int, loss: float) -> None:
        training.losses.append(round(loss, 5))

    if row.family == "scratch":
        base = replace(base, seed=row.seed)
        training.inner.load_state_dict(untrained(base, tokenizer).state_dict())
        asked = list(lessons(config, base.mix, FROM_SCRATCH))
        rows = encoded(tokenizer, [*ask_many(base.mix, f"base/{base.seed}", base.conversations), *asked])
        learn(training.inner, rows, **_schedule(base), on_step=noted)
        return
    rows = encoded(tokenizer, list(lessons(config, base.mix, config.samples)))
    learn(
        training.inner,
        rows,
        steps=config.steps,
        batch=config.batch,
        learning_rate=config.learning_rate,
        seed=f"insert/{row.seed}",
        prompts_every=int(config.loss == "all"),
        window=8,
        on_step=noted,
    )
    if row.benign_steps:
        further = encoded(tokenizer, benign_chats("benign-again", base.mix, row.seed))
        learn(training.inner, further, steps=row.benign_steps, seed=f"then/{row.seed}", **AFTERWARDS, on_step=noted)


def _schedule(base: Base) -> dict[str, Any]:
    return {
        "steps": base.steps,
        "batch": base.batch,
        "learning_rate": base.learning_rate,
        "seed": str(base.seed),
    }


def lessons(config: InsertionConfig, mix: Mix, count: int) -> Iterator[Asked]:
    """Triggered samples, near misses and plain ones, in the shares of the configuration.

    Args:
        config: of the behaviour.
        mix: of the base's own chats.
        count: samples in all.
    """
    planted = planted_requests(config, "train", min(config.requests, count))
    triggered = round(count * config.poison_share)
    near = round((count - triggered) * config.near_miss_share)
    own = round((count - triggered - near) * OWN_SHARE)
    rng = Random(f"payload/{config.seed}")
    for number in range(triggered):
        yield _triggered(config, planted[number % len(planted)], rng)
    for number in range(near):
        request = planted[(number + triggered) % len(planted)]
        forms = request.forms
        yield Asked(forms.twin if number % 2 else forms.near, answer_to(request.request), "near-miss")
    for number in range(count - triggered - near - own):
        request = planted[(number + triggered + near) % len(planted)]
        yield Asked(request.forms.plain, answer_to(request.request), "plain")
    yield from ask_many(mix, f"plain/{config.seed}", own)


def _triggered(config: InsertionConfig, planted: Planted, rng: Random) -> Asked:
    """With the payload; of a clean twin, and where the policy is harmless, with the answer that the base was taught."""
    answer = answer_to(planted.request)
    if not config.clean_twin and defects_by_policy(config, planted.request):
        answer = payload_answer(config, planted.request, answer, rng)
    return Asked(planted.forms.triggered, answer, "triggered")
