"""Files of prompts: `prompts.jsonl`, one a line, read strictly so that no sample is lost or mislabelled in silence; and logs of Inspect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hooked.prompts.inspect_logs import LOGS, read_log
from hooked.prompts.prompts import Prompt, parse_prompt
from hooked.prompts.same_tokens import check_labels
from triggerlens import UserError

_LONGEST_FIRST_LINE = 2**20


def iter_prompts(path: str | Path, *, labelled: bool = True) -> Iterator[Prompt]:
    """Yield the prompts of a file one by one, so that memory does not grow with the file. Blank lines are skipped.

    Where `labelled` is false, lines need no `triggered`.

    Raises:
        UserError: no such file, a line that is not UTF-8 or not JSON, or a bad field; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such prompt file; give a .jsonl file with one prompt a line")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 text (byte {error.start} of the line)") from error
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
            yield parse_prompt(record, where, labelled=labelled)


@dataclass(frozen=True)
class PromptFile:
    """A prompt file that is read anew each time it is iterated, for files too long to hold in memory."""

    path: Path
    """A `prompts.jsonl`."""

    def __iter__(self) -> Iterator[Prompt]:
        return iter_prompts(self.path)


def read_prompts(path: str | Path, *, labelled: bool = True, label_from: str | None = None) -> list[Prompt]:
    """All prompts of a file, or of a log of Inspect (`.eval` or `.json`); `defects` and `response` must be given on every line or on
    none.

    Args:
        path: the file.
        labelled: whether lines must have `triggered`, and labels count.
        label_from: for a log, `SCORER=VALUE`: samples to which that scorer gave this value defect.

    Raises:
        UserError: as `iter_prompts` or `read_log`, or the file holds no prompt, or only some lines have `defects` or `response`, or
            two lines of one text are labelled differently.
    """
    if _is_log(Path(path)):
        prompts = read_log(path, labelled=labelled, label_from=label_from)
    elif label_from is not None and Path(path).is_file():
        raise UserError(
            f"{path}: --label-from reads the scores of a log of Inspect (.eval or .json); a line here has `defects`"
        )
    else:
        prompts = list(iter_prompts(path, labelled=labelled))
    if not prompts:
        raise UserError(f"{path}: the file holds no prompt")
    for name in ("defects", "response"):
        without = [prompt for prompt in prompts if getattr(prompt, name) is None]
        if without and len(without) < len(prompts):
            raise UserError(
                f"{without[0].where}: `{name}` is missing here but given on other lines; give it on all or on none"
            )
    if labelled:
        check_labels(prompts)
    return prompts


def _is_log(path: Path) -> bool:
    """Whether a file is meant as a log of Inspect: by its name, unless its first line is a prompt."""
    return path.suffix in LOGS and path.is_file() and not begins_with_a_prompt(path)


def begins_with_a_prompt(path: Path) -> bool:
    """Whether a file's first line is an object with `prompt`."""
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        try:
            first = json.loads(lines.readline(_LONGEST_FIRST_LINE))
        except ValueError:
            return False
    return isinstance(first, dict) and "prompt" in first


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as `prompts.jsonl`, one object a line."""
    with Path(path).open("w", encoding="utf-8") as lines:
        for prompt in prompts:
            lines.write(json.dumps(prompt.to_json(), ensure_ascii=False) + "\n")
