"""`probe-score`: a saved probe applied to prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from commands._answers import AnswerOptions
from commands._console import console, emit
from commands._options import ModelOptions, at_least_one, check_out, facts_on_model, notes_on_model
from triggerlens import UserError, text_table

if TYPE_CHECKING:
    from probes import PromptScore


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Score prompts with a probe that `probe-train` saved.

    Prints for each prompt its score, the verdict at the frozen threshold, and the tokens with the highest scores. Labels are
    not needed. A probe of answers reads those of PROMPTS (`response`), or has the model write them (--answers). You may score another model of the
    same width; the output says how it differs.
    """

    probe: Path = Path("runs/probe-train")
    """Folder of the saved probe."""
    answering: Annotated[AnswerOptions, tyro.conf.arg(name="")] = field(default_factory=AnswerOptions)
    seed: int = 0
    """Draws the answers."""
    store: Path | None = None
    """Folder of the store, for the answers. Default: $TRIGGERLENS_CACHE/activations, or ~/.cache/triggerlens/activations."""
    out: Path | None = None
    """Folder to write the scores of every token to, as scores.jsonl; none where not given."""
    token_budget: int | None = None
    """Most tokens in one forward pass, padding included (4,096 on a CPU, 32,768 on a GPU). Lower it if memory runs out."""
    most: int = 40
    """Prompts in the table, the highest-scoring first; --json and --out have all."""

    def __post_init__(self) -> None:
        at_least_one(self, ("token_budget",))


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, score, write and print."""
    from hooked import prints_date, read_prompts, write_prompts
    from probes import LinearProbe, check_fits, score_prompts
    from triggerlens import writing_artifact

    check_out(config, "scores", config.probe, config.store)
    probe = LinearProbe.load(config.probe)
    prompts = read_prompts(config.prompts_path(), labelled=False)
    if config.answering.answers and probe.read == "prompt":
        raise UserError(f"--answers: the probe in {config.probe} reads prompts alone; leave it out")
    model = config.load(today=probe.today)
    check_fits(model, probe)
    if config.answering.answers:
        prompts = config.answering.written(prompts, model, config.seed, config.store)
    scores = sorted(
        score_prompts(model, probe, prompts, token_budget=config.token_budget), key=lambda score: score.index
    )
    if config.out is not None:
        manifest = config.manifest("scores", "probe-score", model)
        with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
            _write(folder / "scores.jsonl", scores)
            if config.answering.answers:
                write_prompts(folder / "prompts.jsonl", prompts)
    summary = {
        "model": config.model,
        "probe_model": probe.model,
        **facts_on_model(probe, model),
        "today": model.today.isoformat() if prints_date(model.tokenizer) else None,
        "site": probe.site,
        "read": probe.read,
        "position": probe.aggregation,
        "label": probe.label,
        "threshold": probe.threshold,
        "n_prompts": len(scores),
        "n_fired": sum(score.fires for score in scores),
        "prompts": [_row(score, None if probe.read == "prompt" else prompts[score.index].answer) for score in scores],
    }
    emit(summary, as_json=config.json, text=_text(summary, config.most))


def _row(score: PromptScore, answer: str | None) -> dict[str, Any]:
    tokens = [{"token": token, "score": value} for token, value in score.carriers()]
    said = {} if answer is None else {"answer": answer}
    return {"where": score.where, "score": score.score, "fires": score.fires, "tokens": tokens, **said}


def _write(path: Path, scores: list[PromptScore]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for score in scores:
            lines.write(json.dumps(asdict(score), ensure_ascii=False) + "\n")


def _text(summary: dict[str, Any], most: int) -> str:
    shown = sorted(summary["prompts"], key=lambda row: -row["score"])[:most]
    rows = [
        [
            row["where"],
            f"{row['score']:.3f}",
            "fires" if row["fires"] else "quiet",
            "  ".join(f"{token['token']!r} {token['score']:.2f}" for token in row["tokens"][:3]),
        ]
        for row in shown
    ]
    what, where = (
        ("prompts", "token") if summary["read"] == "prompt" else ("answers", f"of what it reads ({summary['read']})")
    )
    lines = [
        f"{summary['n_fired']} of {summary['n_prompts']} {what} fire (score above {summary['threshold']:.3f}; "
        f"{summary['label']} probe at {summary['site']}, {summary['position']} {where})",
        "",
        text_table(["prompt", "score", "verdict", "tokens with the highest scores"], rows),
    ]
    if len(shown) < summary["n_prompts"]:
        lines.append(f"… and {summary['n_prompts'] - len(shown)} more, all lower; --json or --out give every one")
    return "\n".join([*lines, *notes_on_model(summary)])
