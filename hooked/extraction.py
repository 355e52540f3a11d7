"""Activation extraction as a stream: memory does not grow with the number of prompts.

1. Prompts are tokenized in windows, and each window is sorted by length, so that a batch holds prompts of similar length.
2. A window is cut into batches under a budget of tokens, padding included.
3. Each batch is one forward pass that stops after the last layer asked for and keeps only the asked positions; the MLP of
   that layer runs at these alone (`hooked.backends.positionwise`).
4. Where memory runs out, the batch is halved and tried again, and later windows use the smaller budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked.model import HookedModel
from hooked.prompts.prompts import Prompt
from hooked.prompts.tokens import TokenizedPrompt, pad_right, span_positions
from hooked.sites import INNER_KINDS, parse_site
from triggerlens import UserError

WINDOW_PROMPTS = 1024
"""Prompts that are sorted by length together; also the most that one shard of a store holds."""
WINDOW_BYTES = 256 * 2**20
"""The most activations, in bytes, that a window keeps before they are handed on (a single prompt may need more)."""
_TOKEN_BUDGET = {"cpu": 4096, "cuda": 32768}
_PADDING = 1 / 32
"""The most padding in a batch, as a share of the budget: 72 prompts of 8 to 400 tokens make 9 batches with 13% padding, where
batches filled to the budget are 3 with 35%."""


Reading = Literal["prompt", "answer", "both", "onset"]
"""Whose tokens are read: the prompt's, those of the model's answer to it, both, or the answer's and the prompt's last before them."""


@dataclass(frozen=True)
class ExtractionSpec:
    """What to read."""

    sites: tuple[str, ...]
    """Names of sites of the residual stream's width (`resid_post.3`, `head_out.3.5`); they are the second axis of what is read."""
    position: str = "last"
    """Which of the tokens that are read: the `last`, the `mean` over all, `every` one, `first:N`, the mean over the first N (over all if
    there are fewer), or `span:NAME`, the mean over a span that each prompt's `spans` field names: a piece of its text, or
    `[start, end]` in characters. Of `answer` and `onset`, the span lies in the answer's text."""
    dtype: torch.dtype | None = None
    """What activations are kept in; as `kept` says where None."""
    read: Reading = "prompt"
    """`prompt`: the prompt's tokens; `answer`: those of the answer, after the whole prompt; `both`: all; `onset`: the answer's, and the
    prompt's last, where the model is about to begin."""

    def __post_init__(self) -> None:
        known = self.position in ("last", "mean", "every") or self.position.startswith("span:")
        if not known and not self.first:
            raise UserError(f"unknown position {self.position!r}; choose last, mean, every, first:N or span:NAME")
        if self.read not in get_args(Reading):
            raise UserError(f"read {self.read!r}: must be one of {', '.join(get_args(Reading))}")
        if not self.sites:
            raise UserError("no site was asked for")
        if inner := [name for name in self.sites if parse_site(name).kind in INNER_KINDS]:
            raise UserError(
                f"{inner[0]}: only sites of the residual stream's width are extracted; read it with model.run"
            )

    @property
    def answers(self) -> bool:
        """Whether prompts are taken with their answers."""
        return self.read != "prompt"

    @property
    def first(self) -> int:
        """The N of `first:N`; 0 of another position."""
        name, _, count = self.position.partition(":")
        return int(count) if name == "first" and count.isdecimal() else 0

    def kept(self, own: torch.dtype) -> torch.dtype:
        """What activations are kept in: as asked for, else a token's in the model's own dtype, which holds them exactly, and a mean over tokens in
        float32, as it is computed: rounded to bfloat16 it would no longer be what scoring the same tokens gives.

        Args:
            own: the model's dtype.
        """
        return self.dtype or (own if self.position in ("last", "every") else torch.float32)

    def tokens_of(self, prompt: TokenizedPrompt) -> range:
        """The positions of a prompt's tokens that are read, whichever of them the position then names."""
        start = prompt.answer or 0
        starts = {"answer": start, "onset": max(start - 1, 0)}
        return range(starts.get(self.read, 0), len(prompt.ids))


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of some prompts: one row a prompt, or one row a token where the position is `every`."""

    indices: Int[Tensor, "prompt"]
    """Which prompts, as counted in the input."""
    counts: Int[Tensor, "prompt"]
    """How many rows each of them has; its rows stand together, in the order of `indices`."""
    values: Float[Tensor, "row site d_model"]
    """On the CPU; sites in the order of the `ExtractionSpec`, which also says the dtype."""

    @property
    def rows(self) -> Int[Tensor, "row"]:
        """The prompt of each row."""
        return self.indices.repeat_interleave(self.counts)


@dataclass
class _Budget:
    """Tokens a batch, padding included; shrinks when memory runs out."""

    tokens: int


@dataclass(frozen=True)
class _Item:
    """A tokenized prompt on its way."""

    index: int
    tokens: TokenizedPrompt
    span: tuple[int, ...] = ()


Window = list[_Item]
"""Prompts that are read together."""


def stream_activations(
    model: HookedModel,
    prompts: Iterable[Prompt | str | TokenizedPrompt],
    spec: ExtractionSpec,
    *,
    token_budget: int | None = None,
    total: int | None = None,
    skip_window: Callable[[int], bool] = lambda _: False,
    whole_windows: bool = False,
) -> Iterator[ActivationBatch]:
    """Yield activations batch by batch, on the CPU. Prompts come in no particular order within a window.

    Args:
        model: the model to read.
        prompts: texts, chat messages, or what `model.tokenize` made of them.
        spec: what to read.
        token_budget: tokens a forward pass, padding included; a default for the device where None.
        total: number of prompts, for the progress bar (on stderr, where that is a terminal).
        skip_window: windows (by number) for which it returns true are tokenized but not run.
        whole_windows: yield each window as one batch in the order of the input.

    Raises:
        UserError: unknown site or position, a prompt that does not fit the context, NaN or infinite activations
            (names site and prompt), or a single prompt for which memory does not suffice.
    """
    model.check_sites(spec.sites)
    budget = _budget(model, token_budget)
    with tqdm(total=total, unit="prompt", desc="activations", disable=None) as bar:
        for number, window in enumerate(cut_windows(model, prompts, spec)):
            if skip_window(number):
                bar.update(len(window))
                continue
            done: list[ActivationBatch] = []
            for batch in _run_window(model, window, spec, budget):
                bar.update(len(batch.indices))
                if whole_windows:
                    done.append(batch)
                else:
                    yield batch
            if whole_windows:
                yield _in_input_order(done)


class LiveActivations:
    """Activations computed from the model whenever they are asked for; nothing is kept."""

    def __init__(
        self,
        model: HookedModel,
        prompts: Sequence[Prompt | TokenizedPrompt],
        spec: ExtractionSpec,
        token_budget: int | None = None,
    ):
        self.model, self.prompts, self.spec, self.token_budget = model, prompts, spec, token_budget

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Int[Tensor, "row"], Float[Tensor, "row site d_model"]]]:
        """The prompt of each row, and the rows in float32, for the prompts asked for.

        Raises:
            UserError: as `stream_activations`.
        """
        chosen = torch.as_tensor(list(indices))
        wanted = [self.prompts[index] for index in indices]
        for batch in stream_activations(
            self.model, wanted, self.spec, token_budget=self.token_budget, total=len(wanted)
        ):
            yield chosen[batch.rows], batch.values.float()

    def by_prompt(
        self, indices: Sequence[int], sites: slice = slice(None)
    ) -> Iterator[tuple[int, Float[Tensor, "row site d_model"]]]:
        """One prompt after another, in no particular order: its index, and its rows in float32 at the chosen sites.

        Raises:
            UserError: as `stream_activations`.
        """
        chosen = list(indices)
        wanted = [self.prompts[index] for index in chosen]
        spec = replace(self.spec, sites=self.spec.sites[sites])
        for batch in stream_activations(self.model, wanted, spec, token_budget=self.token_budget, total=len(wanted)):
            for index, rows in zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True):
                yield chosen[index], rows.float()


def read_window(
    model: HookedModel, window: Window, spec: ExtractionSpec, token_budget: int | None = None
) -> ActivationBatch:
    """The activations of a window, prompts in the order of the input.

    Raises:
        UserError: as `stream_activations`.
    """
    return _in_input_order(list(_run_window(model, window, spec, _budget(model, token_budget))))


def _budget(model: HookedModel, token_budget: int | None) -> _Budget:
    return _Budget(token_budget or _TOKEN_BUDGET.get(model.device.type, 4096))


def cut_windows(
    model: HookedModel, prompts: Iterable[Prompt | str | TokenizedPrompt], spec: ExtractionSpec
) -> Iterator[Window]:
    """Consecutive prompts, tokenized; bounded in number and in the bytes that their activations take."""
    row_bytes = len(spec.sites) * model.info.d_model * spec.kept(model.dtype).itemsize
    most_rows = max(1, WINDOW_BYTES // row_bytes)
    window: Window = []
    rows = 0
    for item in _items(model, prompts, spec):
        size = len(spec.tokens_of(item.tokens)) if spec.position == "every" else 1
        if window and (rows + size > most_rows or len(window) == WINDOW_PROMPTS):
            yield window
            window, rows = [], 0
        window.append(item)
        rows += size
    if window:
        yield window


def _items(
    model: HookedModel, prompts: Iterable[Prompt | str | TokenizedPrompt], spec: ExtractionSpec
) -> Iterator[_Item]:
    stream = iter(prompts)
    index = 0
    while chunk := list(islice(stream, WINDOW_PROMPTS)):
        for prompt, tokens in zip(chunk, tokenize_for(model, chunk, spec), strict=True):
            yield _Item(index, tokens, _span(model, prompt, tokens, spec))
            index += 1


def tokenize_for(
    model: HookedModel, prompts: Sequence[Prompt | str | TokenizedPrompt], spec: ExtractionSpec
) -> list[TokenizedPrompt]:
    """Prompts as `spec` reads them: without their answers where those are not read.

    Raises:
        UserError: as `HookedModel.tokenize`, or a prompt that was tokenized without an answer is to be read with it.
    """
    tokenized = model.tokenize(prompts, answers=spec.answers)
    if not spec.answers:
        return [prompt.without_answer() for prompt in tokenized]
    without = next((prompt for prompt in tokenized if prompt.answer is None), None)
    if without is not None:
        raise UserError(
            f"{without.where or repr(without.text[:40])}: was tokenized without an answer; tokenize it with answers=True"
        )
    return tokenized


def _span(
    model: HookedModel, prompt: Prompt | str | TokenizedPrompt, tokens: TokenizedPrompt, spec: ExtractionSpec
) -> tuple[int, ...]:
    if not spec.position.startswith("span:"):
        return ()
    name = spec.position.removeprefix("span:")
    spans = prompt.extra.get("spans") if isinstance(prompt, Prompt) else None
    if not isinstance(spans, dict) or name not in spans:
        raise UserError(
            f"{tokens.where or 'prompt'}: has no span {name!r}; add `spans`: {{{name!r}: piece of the text or [start, end]}}"
        )
    return tuple(span_positions(model.tokenizer, tokens, spans[name], answer=spec.read in ("answer", "onset")))


def _run_window(model: HookedModel, window: Window, spec: ExtractionSpec, budget: _Budget) -> Iterator[ActivationBatch]:
    """Each batch of a window; a batch for which memory does not suffice is halved."""
    waiting = deque(_pack(window, budget.tokens, model.padded_to))
    while waiting:
        items = waiting.popleft()
        batch = _try_batch(model, items, spec)
        if batch is None:
            if len(items) == 1:
                where = items[0].tokens.where or "a prompt"
                raise UserError(
                    f"{where}: memory does not suffice for this prompt alone ({len(items[0].tokens.ids)} tokens)"
                )
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(items) // 2
            waiting.extendleft([items[half:], items[:half]])
            budget.tokens = min(budget.tokens, max(1, half * len(items[0].tokens.ids)))
            continue
        yield batch


def _pack(window: Window, budget: int, padded_to: int | None = None) -> list[list[_Item]]:
    """Batches of similar length, longest first so that too large a batch fails at once; each within the budget.

    A batch ends early where its padding would cost more than another forward pass does, or where it would be wider than the model
    can be padded to (`hooked.batching`).
    """
    batches: list[list[_Item]] = []
    padding = 0
    for item in sorted(window, key=lambda item: (-len(item.tokens.ids), item.index)):
        longest = len(batches[-1][0].tokens.ids) if batches else 0
        lacking = longest - len(item.tokens.ids)
        full = not batches or (len(batches[-1]) + 1) * longest > budget
        too_wide = padded_to is not None and lacking > 0 and longest > padded_to
        if full or too_wide or padding + lacking > budget * _PADDING:
            batches.append([])
            padding = lacking = 0
        batches[-1].append(item)
        padding += lacking
    return batches


def _try_batch(model: HookedModel, items: list[_Item], spec: ExtractionSpec) -> ActivationBatch | None:
    """The activations of a batch, or None where memory ran out."""
    try:
        return _run_batch(model, items, spec)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        return None


@torch.no_grad()
def _run_batch(model: HookedModel, items: list[_Item], spec: ExtractionSpec) -> ActivationBatch:
    tokens = pad_right([item.tokens.ids for item in items], model.pad_id)
    needed = _needed(items, spec)
    read = _reader(needed, spec.position)
    last_layer = max(parse_site(site).layer for site in spec.sites)
    run = model.run(tokens, reads=dict.fromkeys(spec.sites, read), last_layer=last_layer, needed=needed)
    kept = [run.activations[site].to("cpu", spec.kept(model.dtype)) for site in spec.sites]
    batch = ActivationBatch(
        indices=torch.tensor([item.index for item in items]),
        counts=needed.sum(1) if spec.position == "every" else torch.ones(len(items), dtype=torch.long),
        values=torch.stack(kept, dim=1),
    )
    if not batch.values.isfinite().all():
        raise _not_finite(batch, items, spec)
    return batch


def _needed(items: list[_Item], spec: ExtractionSpec) -> Bool[Tensor, "prompt token"]:
    """The tokens that a position names."""
    read = [spec.tokens_of(item.tokens) for item in items]
    place = torch.arange(max(tokens.stop for tokens in read))
    if spec.position.startswith("span:"):
        return torch.stack([torch.isin(place, torch.tensor(item.span)) for item in items])
    starts = torch.tensor([tokens.start for tokens in read])[:, None]
    ends = torch.tensor([tokens.stop for tokens in read])[:, None]
    if spec.position == "last":
        return place == ends - 1
    if spec.first:
        ends = ends.minimum(starts + spec.first)
    return (place >= starts) & (place < ends)


def _reader(needed: Bool[Tensor, "prompt token"], position: str) -> Callable[[Tensor], Tensor]:
    """What turns a site's activation [prompt token d_model] into rows."""
    if position in ("last", "every"):
        rows, columns = needed.nonzero(as_tuple=True)
        return lambda value: value[rows.to(value.device), columns.to(value.device)]
    weights = needed / needed.sum(1, keepdim=True)
    # In float32 also for a bfloat16 model: a mean over many tokens would lose its last digits.
    return lambda value: torch.einsum("pt,ptd->pd", weights.to(value.device), value.float())


def _not_finite(batch: ActivationBatch, items: list[_Item], spec: ExtractionSpec) -> UserError:
    row, site = (~batch.values.isfinite()).any(-1).nonzero()[0].tolist()
    tokens = next(item.tokens for item in items if item.index == int(batch.rows[row]))
    where = tokens.where or repr(tokens.text[:40])
    return UserError(
        f"{where}: NaN or infinite activation at {spec.sites[site]}; try --dtype float32, or check the checkpoint's weights"
    )


def _in_input_order(batches: list[ActivationBatch]) -> ActivationBatch:
    """Several batches as one, prompts ascending."""
    indices = torch.cat([batch.indices for batch in batches])
    counts = torch.cat([batch.counts for batch in batches])
    values = torch.cat([batch.values for batch in batches])
    rows = torch.cat([batch.rows for batch in batches])
    order = indices.argsort()
    return ActivationBatch(indices[order], counts[order], values[rows.argsort(stable=True)])
