"""A model's activations computed by workers beforehand: while one block is trained on, they compute the next ones.

1. In which order blocks are read is known beforehand (`ShuffledBatches`); each worker takes the next one.
2. Nothing is written: as many blocks are held here as there are workers, about, and more while one worker is far slower than the others. Each
   worker holds the model once.
3. What comes is what the model gives here, in the same order, so a run may go on with more workers, or without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Prompt, loaded_again
from sae.stream import ActivationSource, Blocks, ModelSource, SideBySide, beside, read_rows
from triggerlens import ExecutorConfig, Lost, UserError, run_held


class AheadSource:
    """The blocks of a `ModelSource`, or of those of a crosscoder's models side by side."""

    def __init__(self, sources: Sequence[ModelSource], executor: ExecutorConfig):
        """Plan it; workers begin when blocks are asked for in order.

        Args:
            sources: of the same prompts.
            executor: where blocks are computed.

        Raises:
            UserError: a model is a live one, which no worker can load; or as `SideBySide`.
        """
        self._begin = partial(
            _readers,
            [(loaded_again(own.model), own.site, own.skip_first, own.token_budget) for own in sources],
        )
        self._here: ActivationSource = sources[0] if len(sources) == 1 else SideBySide(sources)
        self._prompts_of, self.executor = sources[0].prompts_of, executor
        self.widths = self._here.widths

    def __len__(self) -> int:
        return len(self._here)

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """A block, computed here: what is read out of order is not computed ahead."""
        return self._here.block(number)

    def in_order(self, order: Iterator[int]) -> Blocks:
        """Block after block; one that comes before its turn is held until then.

        Raises:
            UserError: a worker cannot load the model, or a block's workers die.
        """
        early: dict[int, Tensor] = {}
        tasks = ((turn, self._prompts_of(number)) for turn, number in enumerate(order))
        with closing(run_held(self._begin, _read, tasks, self.executor)) as done:
            for turn in itertools.count():
                while turn not in early:
                    own = next(done)
                    if isinstance(own.result, Lost):
                        raise UserError(f"a block of activations was lost: {own.result.reason}")
                    early[own.task[0]] = own.result
                yield early.pop(turn)


Read = Callable[[Sequence[Prompt | str]], Float[Tensor, "row d_model"]]


def _readers(how: Sequence[tuple[Callable[[], HookedModel], str, int, int | None]]) -> list[Read]:
    """In a worker: of each model."""
    return [
        partial(read_rows, again(), site=site, skip_first=skip, token_budget=budget)
        for again, site, skip, budget in how
    ]


def _read(reads: Sequence[Read], task: tuple[int, Sequence[Prompt | str]]) -> Float[Tensor, "row d_in"]:
    return beside([read(task[1]) for read in reads])
