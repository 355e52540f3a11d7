"""Logs of Inspect (`inspect-ai`), `.eval` and `.json`: each sample's conversation as a prompt with the model's last answer, its scores as labels.

1. The messages before the assistant's last are the prompt, and what it said there is the response.
2. `triggered`, `defects`, `pair`, `split` and `dataset` are taken from a sample's metadata where it has them; `dataset` is else the
   task's name. Scores, id and epoch are kept as unknown keys are.
3. A label can be a score: `SCORER=VALUE`, or `SCORER.KEY=VALUE` of one that gives several.
4. Samples that ended in an error, have no answer in text, or were not scored by that scorer are left out, counted and said.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooked.prompts.prompts import Prompt, parse_prompt
from triggerlens import UserError, say_once

LOGS = (".eval", ".json")
"""How the name of a log ends."""
_BEGIN = re.compile(rb'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:')
"""How the JSON of a log begins."""
_TAKEN = ("triggered", "defects", "pair", "split", "dataset")
"""Fields of a prompt that a sample's metadata may hold."""


def begins_as_log(path: Path) -> bool:
    """Whether a file is a log of Inspect by what is in it: an archive by its name, or JSON that begins as those do. Other JSON may be any text."""
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        return path.suffix == ".eval" or (path.suffix == ".json" and _BEGIN.match(lines.read(256)) is not None)


def read_log(path: str | Path, *, labelled: bool = True, label_from: str | None = None) -> list[Prompt]:
    """The samples of a log that can be read, as prompts with responses.

    Args:
        path: of the log.
        labelled: whether a label is needed.
        label_from: `SCORER=VALUE`: a sample to which that scorer gave this value defects, one with another value does not.

    Raises:
        UserError: there is no such log, it cannot be read, no sample of it can be used, or it does not say what it should label by.
    """
    log = _opened(Path(path))
    rule = None if label_from is None else _Rule.parse(label_from)
    samples = log.samples or []
    several = any(sample.epoch > 1 for sample in samples)
    read = _Samples(f"{path}", several, log.eval.task, rule)
    prompts = list(read.prompts(samples))
    if rule is not None:
        rule.check(str(path), samples)
    read.tell(len(samples))
    if not prompts:
        raise UserError(f"{path}: none of its {len(samples)} samples has an answer that can be read")
    if labelled:
        _check_labelled(str(path), samples, rule)
    return prompts


def _check_labelled(path: str, samples: Sequence[Any], rule: _Rule | None) -> None:
    """Raise UserError where the log has no label, or `triggered` for some samples alone."""
    told = [set(sample.metadata or {}) & {"triggered", "defects"} for sample in samples]
    without = next((sample for sample, own in zip(samples, told, strict=True) if "triggered" not in own), None)
    if without is not None and any("triggered" in own for own in told):
        raise UserError(
            f"{path}:sample {without.id}: its metadata lacks `triggered`, which other samples have; give it to all or to none"
        )
    if rule is None and not any(told):
        given = "; ".join(f"{name}: {_values(samples, name)}" for name in _scorers(samples))
        raise UserError(
            f"{path}: no sample says in its metadata whether it is `triggered` or `defects`; label by a score, --label-from SCORER=VALUE "
            f"({given or 'but the log has no scores'})"
        )


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such log")
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise UserError(
            f"{path}: logs of Inspect are read with inspect-ai; pip install 'triggerlens[inspect]'"
        ) from error
    try:
        return read_eval_log(str(path), resolve_attachments="core")
    except Exception as error:  # a damaged log may fail anywhere in a large library
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no log of Inspect that can be read: {reason or type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class _Rule:
    """What `SCORER=VALUE` asks for."""

    scorer: str
    key: str | None
    """Of a scorer that gives several values."""
    value: str

    @classmethod
    def parse(cls, text: str) -> _Rule:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UserError(f"--label-from {text}: must be SCORER=VALUE, such as match=I")
        scorer, _, key = name.partition(".")
        return cls(scorer, key or None, value)

    def found(self, sample: Any) -> str | None:
        """The value that the scorer gave, as text; None where it gave none."""
        score = (sample.scores or {}).get(self.scorer)
        if score is None:
            return None
        value = score.value
        if self.key is not None:
            value = value.get(self.key) if isinstance(value, dict) else None
        return _text(value)

    def label(self, sample: Any) -> bool | None:
        """Whether the sample defects; None where it was not scored."""
        found = self.found(sample)
        return None if found is None else found == (_text(_number(self.value)) or self.value)

    def check(self, path: str, samples: Sequence[Any]) -> None:
        """Raise UserError where the scorer is missing, or never gave the value."""
        values = Counter(found for sample in samples if (found := self.found(sample)) is not None)
        name = self.scorer if self.key is None else f"{self.scorer}.{self.key}"
        if not values:
            scorers = _scorers(samples)
            have = f"it has {', '.join(scorers)}" if scorers else "it has no scores"
            raise UserError(f"{path}: no sample has a score of {name!r}; {have}")
        if not any(self.label(sample) for sample in samples):
            raise UserError(f"{path}: {name} never gave {self.value!r}, but {_counted(values)}")


@dataclass(slots=True)
class _Samples:
    """Turns samples into prompts, and counts those that it leaves out."""

    path: str
    several: bool
    """Epochs."""
    task: str
    rule: _Rule | None
    failed: int = 0
    silent: int = 0
    unscored: int = 0
    reasoned: int = 0

    def prompts(self, samples: Sequence[Any]) -> Iterator[Prompt]:
        for sample in samples:
            label = self.rule.label(sample) if self.rule else None
            messages, answer = _conversation(sample)
            if sample.error is not None:
                self.failed += 1
            elif not messages or answer is None or not answer.text:
                self.silent += 1
            elif self.rule is not None and label is None:
                self.unscored += 1
            else:
                self.reasoned += any(getattr(part, "type", "") == "reasoning" for part in _parts(answer))
                yield self.prompt(sample, messages, answer.text, label)

    def prompt(self, sample: Any, messages: Sequence[Any], response: str, label: bool | None) -> Prompt:
        metadata = sample.metadata or {}
        scores = {name: score.value for name, score in (sample.scores or {}).items()}
        record = {"triggered": False, "dataset": self.task} | {key: metadata[key] for key in _TAKEN if key in metadata}
        record |= {"prompt": [_message(message) for message in messages], "response": response}
        record |= {"id": sample.id, "epoch": sample.epoch, "scores": scores}
        if label is not None:
            record["defects"] = label
        epoch = f", epoch {sample.epoch}" if self.several else ""
        return parse_prompt(record, f"{self.path}:sample {sample.id}{epoch}")

    def tell(self, total: int) -> None:
        for count, why in (
            (self.failed, "ended in an error"),
            (self.silent, "have no answer in text"),
            (self.unscored, f"were not scored by {self.rule.scorer if self.rule else ''}"),
        ):
            if count:
                say_once(f"{self.path}: {count} of {total} samples {why}, and are left out")
        if self.reasoned:
            say_once(
                f"{self.path}: {self.reasoned} answers came after reasoning, which the log keeps apart and is not read"
            )


def _conversation(sample: Any) -> tuple[Sequence[Any], Any]:
    """What came before the assistant's last message, and that message."""
    messages = list(sample.messages)
    if messages and messages[-1].role == "assistant":
        return messages[:-1], messages[-1]
    choices = sample.output.choices if sample.output is not None else []
    return messages, choices[0].message if choices else None


def _message(message: Any) -> dict[str, Any]:
    """A message as chat templates take it."""
    content = message.content
    if not isinstance(content, str):
        kinds = {part.type for part in content} - {"reasoning"}
        content = message.text if kinds <= {"text"} else [{"type": kind} for kind in sorted(kinds - {"text"})]
    out: dict[str, Any] = {"role": message.role, "content": content}
    if getattr(message, "tool_calls", None):
        out["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.function, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        out |= {"tool_call_id": message.tool_call_id, "name": message.function}
    return out


def _parts(message: Any) -> Sequence[Any]:
    return message.content if isinstance(message.content, list) else ()


def _scorers(samples: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for sample in samples for name in sample.scores or {}))


def _values(samples: Sequence[Any], scorer: str) -> str:
    scores = [(sample.scores or {}).get(scorer) for sample in samples]
    return _counted(Counter(text for score in scores if score is not None and (text := _text(score.value)) is not None))


def _counted(values: Counter[str]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in values.most_common(6))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Any) -> str | None:
    """A score's value as a person writes it, 1 and 1.0 alike; None if it is missing (NaN)."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, int | float) else value if isinstance(value, str) else json.dumps(value)
