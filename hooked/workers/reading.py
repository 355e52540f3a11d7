"""Activations read by workers, each of which holds the model once: processes of this machine, or actors of a Ray cluster.

1. Prompts are tokenized and cut into windows here, by the same rule as in one process, and windows are sent to workers as token ids.
2. A worker loads the model when it begins, and refuses to go on where it would not compute what this process's model does.
3. What it does with a window's activations is done where they are: a shard is written, or they are reduced to something small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from hooked.extraction import ActivationBatch, ExtractionSpec, Window, cut_windows, read_window
from hooked.identity import identity_sha256
from hooked.model import HookedModel
from hooked.prompts.prompts import Prompt
from hooked.prompts.tokens import TokenizedPrompt
from triggerlens import Done, ExecutorConfig, Lost, UserError, run_held

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Reader:
    """What a worker holds."""

    model: HookedModel
    spec: ExtractionSpec
    token_budget: int | None


def reduce_activations(
    model: HookedModel,
    prompts: Iterable[Prompt | str | TokenizedPrompt],
    spec: ExtractionSpec,
    reduce: Callable[[ActivationBatch], Result],
    executor: ExecutorConfig,
    *,
    token_budget: int | None = None,
    total: int | None = None,
) -> Iterator[Result]:
    """What a function makes of each window's activations, in the order of the windows; only that leaves the workers.

    Args:
        model: one that was loaded by a name that the workers see too.
        prompts: as `stream_activations`.
        spec: what to read.
        reduce: takes the activations of a window, prompts in the order of the input; must be importable by its name in another process.
        executor: where it is done.
        token_budget: tokens a forward pass, padding included; a default for the device where None.
        total: number of prompts, for the progress bar.

    Raises:
        UserError: as `stream_activations`; or the model cannot be loaded again, or gives something else there; or a window was lost.
    """
    waiting: dict[int, Result] = {}
    following = 0
    for number, result in by_windows(
        model, prompts, spec, partial(_apply, reduce), executor, token_budget=token_budget, total=total
    ):
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def by_windows(
    model: HookedModel,
    prompts: Iterable[Prompt | str | TokenizedPrompt],
    spec: ExtractionSpec,
    use: Callable[[int, Callable[[], ActivationBatch]], Result],
    executor: ExecutorConfig,
    *,
    token_budget: int | None = None,
    total: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """The number of each window with what a function makes of it, as they are done.

    Args:
        use: takes a window's number and a function that gives its activations, which it need not call.

    Raises:
        UserError: as `reduce_activations`.
    """
    model.check_sites(spec.sites)
    begin = partial(_begin, loaded_again(model), spec, token_budget)
    sizes: dict[int, int] = {}
    windows = _counted(cut_windows(model, prompts, spec), sizes)
    with (
        closing(run_held(begin, partial(_use, use), windows, executor)) as done,
        tqdm(total=total, unit="prompt", desc="activations", disable=None) as bar,
    ):
        for own in done:
            bar.update(sizes.pop(own.task[0]))
            yield own.task[0], _result(own)


def _counted(windows: Iterable[Window], sizes: dict[int, int]) -> Iterator[tuple[int, Window]]:
    for number, window in enumerate(windows):
        sizes[number] = len(window)
        yield number, window


def _result(done: Done[tuple[int, Window], Any]) -> Any:
    if isinstance(done.result, Lost):
        number, window = done.task
        raise UserError(
            f"window {number} (prompts {window[0].index} to {window[-1].index}): {done.result.reason}; run again: finished windows are kept"
        )
    return done.result


def loaded_again(model: HookedModel) -> Callable[[], HookedModel]:
    """What gives this model in a worker, and can be sent there.

    Raises:
        UserError: it is a live one; or, in the worker, what was loaded there is another.
    """
    if model.again is None:
        raise UserError(
            f"{model.info.name}: a live model is not loaded again by workers; save it, and load it by its folder"
        )
    return partial(_again, model.again, identity_sha256(model.identity()))


def _again(again: Callable[[], HookedModel], identity: str) -> HookedModel:
    model = again()
    if identity_sha256(model.identity()) != identity:
        raise UserError(
            f"{model.info.name}: a worker's model is not this one (its weights, its kind of device, or versions of libraries); "
            "give the same --device, and install the same versions everywhere"
        )
    return model


def _begin(again: Callable[[], HookedModel], spec: ExtractionSpec, token_budget: int | None) -> _Reader:
    """In a worker."""
    return _Reader(again(), spec, token_budget)


def _use(use: Callable[[int, Callable[[], ActivationBatch]], Any], reader: _Reader, task: tuple[int, Window]) -> Any:
    number, window = task
    return use(number, partial(read_window, reader.model, window, reader.spec, reader.token_budget))


def _apply(reduce: Callable[[ActivationBatch], Any], number: int, read: Callable[[], ActivationBatch]) -> Any:
    return reduce(read())
