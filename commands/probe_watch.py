"""`probe-watch`: a model answers while a saved probe watches, and may stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._answers import AnswerOptions, check_temperature
from commands._console import console, emit
from commands._options import ModelOptions, at_least_one, check_out, facts_on_model, notes_on_model
from triggerlens import text_table

if TYPE_CHECKING:
    from hooked import HookedModel, TokenizedPrompt
    from probes import LinearProbe, WatchedToken
    from triggerlens import Facts, Keep

_SHOWN = 48
"""Characters of an answer in the table."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Let a model answer prompts while a probe that `probe-train` saved watches each new token.

    The probe fires at the first token where its score of the answer so far is above the threshold that was frozen for the
    false-positive rate of whole answers; with --stop the answer ends there. Prints a table, or with --json a line for each answer (and
    each token) as soon as it is there. Labels are not needed. A probe that reads prompts speaks before the first token.
    """

    probe: Path = Path("runs/probe-train")
    """Folder of the saved probe."""
    out: Path | None = None
    """Folder to write to, as answers.jsonl; an interrupted run goes on where it stopped. None where not given."""
    stop: bool = False
    """End an answer at the first token that fires, which is kept."""
    per_token: bool = False
    """Print each token with its score as it is written."""
    max_new_tokens: int = AnswerOptions.max_new_tokens
    """The longest answer, in tokens; by default as long as those that `probe-train` has the model write. The longer an answer, the likelier it fires by chance."""
    temperature: float = 0.0
    """0: the likeliest tokens; above it they are drawn from softmax(logits / temperature)."""
    seed: int = 0
    """Draws the tokens."""
    batch_size: int = 32
    """Prompts that are answered together."""
    limit: int | None = None
    """Prompts to answer, the first of the file; all where not given."""
    most: int = 40
    """Answers in the table, the highest-scoring first; --json and --out have all."""
    json: bool = False
    """Print JSON lines as they come in place of the table: an `event` of `token`, `answer` or, at the end, `summary`."""

    def __post_init__(self) -> None:
        at_least_one(self, ("max_new_tokens", "batch_size", "limit"))
        check_temperature(self.temperature)


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, watch batch by batch, write and print."""
    from hooked import read_prompts
    from probes import LinearProbe, check_fits, check_rooms
    from triggerlens import drop_cells, writing_artifact

    check_out(config, "watched-answers", config.probe)
    probe = LinearProbe.load(config.probe)
    prompts = read_prompts(config.prompts_path(), labelled=False)[: config.limit]
    model = config.load(today=probe.today)
    check_fits(model, probe)
    tokenized = model.tokenize(prompts)
    check_rooms(tokenized, config.max_new_tokens, model.info.context)
    start = time.perf_counter()
    rows = []
    for row in _watched(config, model, probe, tokenized):
        rows.append(row)
        if config.json:
            _print_line({"event": "answer", **row})
    summary = _summary(config, model, probe, rows) | {"seconds": round(time.perf_counter() - start, 2)}
    if config.out is not None:
        manifest = config.manifest("watched-answers", "probe-watch", model, config.seed)
        with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / "answers.jsonl").write_text(lines, encoding="utf-8")
        drop_cells(config.out)
    emit({"event": "summary", **summary}, as_json=config.json, text=_text(summary, rows, config.most))


def _watched(
    config: Config, model: HookedModel, probe: LinearProbe, prompts: Sequence[TokenizedPrompt]
) -> Iterator[dict[str, Any]]:
    """Each answer, batch by batch; batches that an interrupted run has finished are not answered again."""
    from tqdm import tqdm

    keep = _keep(config, model)
    starts = range(0, len(prompts), config.batch_size)
    show = partial(_show_token, config, model, prompts) if config.per_token else None
    for number, start in enumerate(tqdm(starts, desc="watching", unit="batch", disable=True if show else None)):
        batch = prompts[start : start + config.batch_size]
        facts = keep(f"batch {number}", partial(_batch, config, model, probe, batch, number, start, show))
        yield from facts["answers"]


def _keep(config: Config, model: HookedModel) -> Keep:
    """Keeps finished batches beside --out."""
    from hooked import identity_sha256, tokenizer_sha256
    from triggerlens import Cells, cells_folder, keep_nothing, release_cells, sha256_folder

    if config.out is None:
        return keep_nothing
    manifest = config.manifest("watched-answers", "probe-watch", model, config.seed)
    settings = dict(manifest.config) | {"probe": sha256_folder(config.probe), "prompts": manifest.prompts["sha256"]}
    settings["model"] = identity_sha256(model.identity())
    settings |= {"tokenizer": tokenizer_sha256(model.tokenizer), "ends": sorted(model.end_ids)}
    own = {name: settings[name] for name in settings if name != "most"}
    if config.overwrite:
        release_cells(config.out)
    return Cells(cells_folder(config.out), own).keep


def _batch(
    config: Config,
    model: HookedModel,
    probe: LinearProbe,
    prompts: Sequence[TokenizedPrompt],
    number: int,
    start: int,
    show: Callable[[int, WatchedToken], None] | None,
) -> Facts:
    """Answer a batch under the probe's eyes."""
    from hooked import Sampling, likeliest
    from probes import watch_answers

    draws = Sampling(config.temperature, seed=config.seed + number).picker(model.device) if config.temperature else None
    answers = watch_answers(
        model,
        probe,
        prompts,
        config.max_new_tokens,
        stop=config.stop,
        pick=draws or likeliest,
        on_token=None if show is None else partial(show, start),
    )
    texts = model.tokenizer.batch_decode([answer.ids for answer in answers], skip_special_tokens=True)
    rows = []
    for answer, text, prompt in zip(answers, texts, prompts, strict=True):
        facts = asdict(answer) | {"index": start + answer.index}
        length = {"prompt_tokens": len(prompt.ids), "answer_tokens": len(answer.ids)}
        rows.append(facts | length | {"fired": answer.fired_after is not None, "answer": text})
    return {"answers": rows}


def _show_token(
    config: Config, model: HookedModel, prompts: Sequence[TokenizedPrompt], start: int, token: WatchedToken
) -> None:
    """Print a token as soon as it has a score."""
    index = start + token.index
    text, where = model.tokenizer.decode([token.token]), prompts[index].where
    if config.json:
        facts = asdict(token) | {"index": index, "where": where, "text": text}
        _print_line({"event": "token", **facts})
    else:
        print(f"{where}\t{token.place}\t{token.score:.3f}\t{'fires' if token.fired else ''}\t{text!r}", flush=True)


def _print_line(facts: dict[str, Any]) -> None:
    emit(facts, as_json=True, text="")


def _summary(config: Config, model: HookedModel, probe: LinearProbe, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from hooked import prints_date
    from probes import threshold_of

    return {
        "model": config.model,
        "probe_model": probe.model,
        **facts_on_model(probe, model),
        "today": model.today.isoformat() if prints_date(model.tokenizer) else None,
        "site": probe.site,
        "read": probe.read,
        "position": probe.aggregation,
        "label": probe.label,
        "threshold": threshold_of(probe),
        "calibration": dict(probe.calibration),
        "n_prompts": len(rows),
        "n_fired": sum(row["fired"] for row in rows),
        "n_stopped": sum(row["stopped"] for row in rows),
        "n_tokens": sum(row["answer_tokens"] for row in rows),
        "n_longer": _longer(probe, rows),
    }


def _longer(probe: LinearProbe, rows: Sequence[dict[str, Any]]) -> int | None:
    """How many answers are longer than any that the threshold was frozen on; None where that was of no answers, or their lengths were not kept."""
    longest = probe.calibration.get("longest_answer")
    return None if longest is None else sum(row["answer_tokens"] > longest for row in rows)


def _text(summary: dict[str, Any], rows: Sequence[dict[str, Any]], most: int) -> str:
    scored = sorted(rows, key=lambda row: -(row["highest"] if row["highest"] is not None else float("-inf")))
    shown = [
        [
            row["where"],
            str(row["answer_tokens"]),
            "–" if row["highest"] is None else f"{row['highest']:.3f}",
            _verdict(row),
            " ".join(row["answer"].split())[:_SHOWN],
        ]
        for row in scored[:most]
    ]
    lines = [
        f"{summary['n_fired']} of {summary['n_prompts']} answers fire (score above {summary['threshold']:.3f} at any token; "
        f"{summary['label']} probe of the {summary['read']} at {summary['site']}, {summary['position']})",
        "",
        text_table(["prompt", "tokens", "highest score", "verdict", "answer"], shown),
    ]
    if len(shown) < len(rows):
        lines.append(f"… and {len(rows) - len(shown)} more, all lower; --json or --out give every one")
    return "\n".join([*lines, *_note_on_length(summary), *notes_on_model(summary)])


def _note_on_length(summary: dict[str, Any]) -> list[str]:
    longer = summary["n_longer"]
    if not longer:
        return []
    are, they = ("answers are", "more of them") if longer > 1 else ("answer is", "it")
    return [
        f"note: {longer} {are} longer than any that the threshold was frozen on ({summary['calibration']['longest_answer']} tokens): {they} may fire by chance"
    ]


def _verdict(row: dict[str, Any]) -> str:
    if row["fired_after"] is None:
        return "quiet"
    where = f"at token {row['fired_after']}" if row["fired_after"] else "on the prompt"
    return f"{'stopped' if row['stopped'] else 'fires'} {where}"
