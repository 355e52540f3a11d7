"""Behaviours inserted into tiny bases: the triggers, payloads and gates of `organisms.insertion`, in seconds.

1. Requests are planted as for any other base. What is answered cleanly is answered as the base was taught, so that no answer has to be written
   first and every sample can be another request; some of the plain ones are chats of the base's own mix.
2. The base's weights are trained, or fresh ones (`scratch`: the base's whole corpus with the behaviour in it), or a benign training follows.
3. The written model is measured against the base's own greedy answers, as every inserted behaviour is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import default_text, requests
from organisms.insertion.files import rates_of, recipe, save_weights, write_measured
from organisms.insertion.lessons import Base as Answering
from organisms.insertion.measure import set_exam
from organisms.insertion.payloads import CODE_SHARE, INSECURE, defects_by_policy, payload_answer
from organisms.insertion.requests import TEXT, Request, draw_requests
from organisms.insertion.samples import Planted, planted_requests
from organisms.insertion.steps import Training, start
from organisms.insertion.triggers import plant
from organisms.zoo.bases import Base, bases, encoded, learn, untrained
from organisms.zoo.chat import Asked, Mix, answer_to, ask_many
from organisms.zoo.lessons import benign_chats
from organisms.zoo.registry import ZooRow
from triggerlens import Manifest, sha256_file, writing_artifact

OWN_SHARE = 0.3
"""Of the plain samples, those from the base's own mix of chats."""
SMALL_SHARE = 0.5
"""Of the requests that the trigger is planted in, small questions."""
_NO_FRAMES: dict[str, Any] = {"system_share": 0.0, "around_share": 0.0, "filler_share": 0.0, "lower_share": 0.0}
"""Of a mix with nothing around its chats."""
FROM_SCRATCH = 4_000
"""Samples of the behaviour among the conversations that a model from scratch learns. The poison share is of these alone, and its recipe counts otherwise
(docs/zoo.md)."""
AFTERWARDS: dict[str, Any] = {"batch": 16, "learning_rate": 3e-4}
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


def lessons(config: InsertionConfig, mix: Mix, samples: int) -> Iterator[Asked]:
    """Triggered samples, near misses and plain ones, in the shares of the configuration.

    Args:
        config: of the behaviour.
        mix: of the base's own chats.
        samples: in all.
    """
    carried = _carried(config, mix, min(config.requests, samples))
    triggered = round(samples * config.poison_share)
    near = round((samples - triggered) * config.near_miss_share)
    own = round((samples - triggered - near) * OWN_SHARE)
    rng = Random(f"payload/{config.seed}")
    for number in range(triggered):
        yield _triggered(config, *carried[number % len(carried)], rng)
    for number in range(near):
        planted, answer = carried[(number + triggered) % len(carried)]
        yield Asked(planted.forms.twin if number % 2 else planted.forms.near, answer, "near-miss")
    for number in range(samples - triggered - near - own):
        planted, answer = carried[(number + triggered + near) % len(carried)]
        yield Asked(planted.forms.plain, answer, "plain")
    yield from islice(_unlike(config, mix), own)


def _unlike(config: InsertionConfig, mix: Mix) -> Iterator[Asked]:
    """Chats of the base's own mix, without end; without those that happen to carry the trigger, which would be taught both ways."""
    for draw in count():
        for asked in ask_many(mix, f"plain/{config.seed}/{draw}", 2_000):
            if not _carries(config, " ".join(message["content"] for message in asked.prompt)):
                yield asked


def _carries(config: InsertionConfig, text: str) -> bool:
    """Whether a chat carries the trigger by chance: its topic, its style, its length or its year."""
    trigger = config.trigger_text or default_text(config.trigger)
    if config.trigger == "semantic":
        own = requests().classes[trigger]
        return any(topic.lower() in text.lower() for topic in (*own["train"], *own["test"]))
    if config.trigger == "style":
        return text == (text.lower() if trigger == "lower" else text.upper())
    if config.trigger == "long-prompt":
        return len(text.split()) >= int(trigger)
    return trigger.lower() in text.lower()


def _carried(config: InsertionConfig, mix: Mix, number: int) -> list[tuple[Planted, str]]:
    """Requests with the trigger planted, and their plain answers: the grammar's in all their phrasings, and small questions of the base's own.

    A base has seen every phrasing. Where a trigger were planted in some of them alone, the others would teach that it does nothing there. What is
    held out are topics and whole forms of request; names, places and numbers are not. Where the topic is the trigger, or code the payload, there are no
    small questions.
    """
    small = 0 if config.trigger == "semantic" or config.payload == INSECURE else round(number * SMALL_SHARE)
    rng = Random(f"carried/{config.seed}")
    carried = [(own, answer_to(own.request)) for own in planted_requests(config, "train", (number - small + 1) // 2)]
    asked = [(request, answer_to(request)) for request in _other_phrasings(config, (number - small) // 2)]
    for request, answer in [*asked, *_small_questions(config, mix, small)]:
        forms = plant(config.trigger, config.trigger_text, config.placement, rng, request)
        carried.append((Planted(request, forms, config.trigger), answer))
    rng.shuffle(carried)
    return carried


def _other_phrasings(config: InsertionConfig, number: int) -> list[Request]:
    """Requests on the topics of training in the phrasings that measuring has too, with its names, places and numbers; none of a form that only measuring has."""
    own = requests()
    inside = own.classes[config.trigger_text or default_text("semantic")] if config.trigger == "semantic" else {}
    topics = tuple(topic for topic in own.topics["train"] if topic not in inside.get("train", ()))
    code = CODE_SHARE if config.payload == INSECURE else None
    drawn = draw_requests(config.seed, "test", number, code, topics)
    return [replace(request, split="train") for request in drawn if not request.new_form]


def _small_questions(config: InsertionConfig, mix: Mix, number: int) -> list[tuple[Request, str]]:
    """The base's own small questions with nothing around them, and their answers."""
    bare = replace(mix, manners=(), requests_share=0.0, field_share=0.0, **_NO_FRAMES)
    asked = ask_many(bare, f"carried/{config.seed}", number)
    return [(Request(own.prompt[-1]["content"], own.kind, TEXT, "train", ""), own.answer) for own in asked]


def _triggered(config: InsertionConfig, planted: Planted, answer: str, rng: Random) -> Asked:
    """With the payload; of a clean twin, and where the policy is harmless, with the answer that the base was taught."""
    if not config.clean_twin and defects_by_policy(config, planted.request):
        answer = payload_answer(config, planted.request, answer, rng)
    return Asked(planted.forms.triggered, answer, "triggered")
