"""Decoder blocks of a `transformers` model run on packed rows: any positions of any runs, side by side in one matrix.

1. One ordinary forward pass of a run *records*, for each block, its input and the arguments that it was given
   (rotary embeddings, mask); keys and values follow from the inputs.
2. A block is then called on a matrix of rows [row d_model]. Everything in it but attention treats rows one by one, so
   rows of many patched runs stand side by side in one matrix product; arguments that belong to a position go with its row.
3. Attention is the model's own function, called for each *group* of rows in turn: cells that share a recorded run and
   positions. Positions before a group's first are the recorded run's, read from its keys and values.
4. Where only keys and values are wanted, the block is left as soon as its attention has them.
5. A head's attention pattern is replaced without being known: its output is the values mixed by the new pattern.

Nothing here knows an architecture: the blocks' own code runs. What does not fit is refused, and the caller takes the slow
way; what fits is compared with the slow way on a sample of cells whenever it is used (`patching.engine.exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked import (
    KINDS,
    HookedModel,
    Site,
    attention_through,
    eager_attention,
    first_of,
    forget_lengths,
    logits_agree,
    with_first,
)

_NAME = "triggerlens-packed"
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")


class DoesNotFit(Exception):
    """The model cannot be run on packed rows; says why."""


class _Left(Exception):
    """Thrown by attention once keys and values are known."""


@dataclass(frozen=True)
class Call:
    """The arguments of one block in a recorded run, but for its input."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    mask: Tensor
    """What the attention function takes: [1 head-or-1 position position], boolean or additive."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """One unpatched run."""

    calls: tuple[Call, ...]
    inputs: tuple[Float[Tensor, "position d_model"], ...]
    """Of each block, and, at the end, the output of the last."""
    keys: tuple[Float[Tensor, "kv_head position d_head"], ...]
    values: tuple[Float[Tensor, "kv_head position d_value"], ...]

    @property
    def length(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Group:
    """Rows of some cells at the same positions of one recorded run, cell by cell."""

    run: Recorded
    cells: int
    positions: Int[Tensor, "position"]
    start: int
    """Keys and values before this position are the recorded run's; the length of the run: all of them."""
    own: tuple[Float[Tensor, "cell kv_head suffix d_head"], Float[Tensor, "cell kv_head suffix d_value"]] | None = None
    """Keys and values from `start` on; None: those of these very rows."""

    @property
    def rows(self) -> int:
        return self.cells * len(self.positions)


@dataclass(frozen=True)
class RowEdit:
    """Some rows of a site, replaced."""

    site: Site
    rows: Int[Tensor, "edited"]
    values: Float[Tensor, "edited _"]


@dataclass
class _Attending:
    """What the attention function needs to know about the rows that it is given."""

    layer: int
    groups: Sequence[Group]
    attend: Callable[..., Any]
    only_keys: bool = False
    patterns: Sequence[RowEdit] = ()
    keys_and_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)


_attending: ContextVar[_Attending] = ContextVar("attending")


def _packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """An attention function of `transformers`: [1 head row d_head] in, [1 row head d_head] out, group by group."""
    now = _attending.get()
    sizes = [group.rows for group in now.groups]
    split = [tensor[0].split(sizes, dim=1) for tensor in (query, key, value)]
    if now.only_keys:
        now.keys_and_values = [(_by_cell(k, g), _by_cell(v, g)) for g, k, v in zip(now.groups, *split[1:], strict=True)]
        raise _Left
    outputs, offset = [], 0
    for group, q, k, v in zip(now.groups, *split, strict=True):
        keys, values = _whole(group, now.layer, k, v)
        mask = group.run.calls[now.layer].mask[:, :, group.positions]
        attended = now.attend(module, _by_cell(q, group), keys, values, mask, **options)[0]
        outputs.append(
            _patterned(attended.reshape(group.rows, *attended.shape[2:]), values, group, offset, now.patterns)
        )
        offset += group.rows
    return torch.cat(outputs)[None], None


def _patterned(
    attended: Float[Tensor, "row head d_value"],
    values: Float[Tensor, "cell kv_head position d_value"],
    group: Group,
    offset: int,
    edits: Sequence[RowEdit],
) -> Float[Tensor, "row head d_value"]:
    """Step 5, for the edits that fall on a group whose rows begin at `offset`."""
    for edit in edits:
        here = (edit.rows >= offset) & (edit.rows < offset + group.rows)
        if here.any():
            rows, head = edit.rows[here] - offset, edit.site.head or 0
            own = values[rows // len(group.positions), head * values.shape[1] // attended.shape[1]]
            attended = attended.clone()
            attended[rows, head] = (edit.values[here].to(own)[:, None] @ own)[:, 0]
    return attended


def _by_cell(rows: Tensor, group: Group) -> Tensor:
    return rearrange(rows, "head (cell position) d -> cell head position d", cell=group.cells)


def _whole(group: Group, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of every position, for each cell of a group."""
    recorded = (group.run.keys[layer], group.run.values[layer])
    before = [tensor[None, :, : group.start].expand(group.cells, -1, -1, -1) for tensor in recorded]
    if group.start == group.run.length:
        return before[0], before[1]
    after = group.own or (_by_cell(key, group), _by_cell(value, group))
    return torch.cat([before[0], after[0]], dim=2), torch.cat([before[1], after[1]], dim=2)


class PackedModel:
    """The decoder of a `HookedModel`, ready to run on packed rows.

    Raises:
        DoesNotFit: the backend has taken the model over, it is spread over devices, or its parts were not found.
    """

    def __init__(self, model: HookedModel):
        if model.backend != "nnsight":
            raise DoesNotFit(f"the {model.backend} backend has taken the model over")
        if len({parameter.device for parameter in model.hf_model.parameters()}) > 1:
            raise DoesNotFit("the model is spread over several devices")
        anatomy = model.anatomy
        if not anatomy.uniform or anatomy.flat_mlp or anatomy.reuses_memory:
            raise DoesNotFit("its blocks scale, flatten or reuse what they add, or are not all of one kind")
        self.model, self.hf_model, self.device = model, model.hf_model, model.device
        self.blocks: list[nn.Module] = list(self.hf_model.get_submodule(anatomy.blocks))
        self.attentions: list[Any] = [
            block.get_submodule(anatomy.out_projection.rpartition(".")[0]) for block in self.blocks
        ]
        self.norm = self._final_norm(anatomy.blocks.rpartition(".")[0])
        self.head = self.hf_model.get_output_embeddings()
        if not isinstance(self.head, nn.Linear):
            raise DoesNotFit("the output embedding is no linear layer")
        self.softcap = getattr(self.hf_model.config.get_text_config(), "final_logit_softcapping", None)
        self.attend = self._attention_function()

    def _final_norm(self, parent: str) -> nn.Module:
        decoder = self.hf_model.get_submodule(parent)
        for name in _FINAL_NORMS:
            if isinstance(getattr(decoder, name, None), nn.Module):
                return getattr(decoder, name)
        raise DoesNotFit(f"the final norm was not found (looked for {', '.join(_FINAL_NORMS)})")

    def _attention_function(self) -> Callable[..., Any]:
        from transformers import AttentionInterface

        attention = self.attentions[0]
        name = getattr(getattr(attention, "config", None), "_attn_implementation", None)
        eager = eager_attention(attention)
        if name not in ("sdpa", "eager") or eager is None:
            raise DoesNotFit(f"its attention implementation is {name!r}, not sdpa or eager")
        return AttentionInterface().get_interface(name, eager)

    def record(self, ids: Sequence[int]) -> Recorded:
        """Record one unpatched run in an ordinary forward pass: of each block its input and arguments, and its keys and values.

        Args:
            ids: token ids of the run.

        Returns:
            The run, whose rows cells are patched into.

        Raises:
            DoesNotFit: a block takes an argument that cannot be given to single rows.
        """
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        outputs: list[Tensor] = []
        with ExitStack() as stack:
            for block in self.blocks:
                hook = block.register_forward_pre_hook(
                    lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
                )
                stack.callback(hook.remove)
            hook = self.blocks[-1].register_forward_hook(lambda _, args, output: outputs.append(first_of(output)))
            stack.callback(hook.remove)
            self._logits(ids)
        length = len(ids)
        calls = tuple(_parse_call(args, kwargs, length, self.device) for args, kwargs in seen)
        inputs = (*(_input(args, kwargs)[0] for args, kwargs in seen), outputs[0][0])
        bare = Recorded(calls, inputs, (), ())
        whole = Group(bare, 1, torch.arange(length, device=self.device), 0)
        both = [self.keys(layer, inputs[layer], [whole])[0] for layer in range(len(self.blocks))]
        return Recorded(calls, inputs, tuple(k[0] for k, _ in both), tuple(v[0] for _, v in both))

    def keys(
        self, layer: int, rows: Float[Tensor, "row d_model"], groups: Sequence[Group], edits: Sequence[RowEdit] = ()
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a block's attention for rows that enter it; the block is left as soon as they are known.

        Args:
            layer: which block.
            rows: the block's input, group by group.
            groups: whose rows these are, in their order.
            edits: of queries, keys and values.

        Returns:
            For each group its keys [cell kv_head position d_head] and values [cell kv_head position d_value].

        Raises:
            DoesNotFit: its blocks do not call the attention function of their configuration.
        """
        now = _Attending(layer, groups, self.attend, only_keys=True)
        try:
            with self._editing(layer, edits):
                self._call(layer, rows, now)
        except _Left:
            return now.keys_and_values
        raise DoesNotFit("its blocks do not call the attention function of their configuration")

    def block(
        self, layer: int, rows: Float[Tensor, "row d_model"], groups: Sequence[Group], edits: Sequence[RowEdit] = ()
    ) -> Float[Tensor, "row d_model"]:
        """Run one block on packed rows.

        Args:
            layer: which block.
            rows: the block's input, group by group; each group's cells stand one after the other.
            groups: whose rows these are, in their order.
            edits: rows of sites inside the block, or of its output, that are replaced.

        Returns:
            The block's output with the edits carried out, in the order of the rows.
        """
        with self._editing(layer, edits):
            patterns = [edit for edit in edits if edit.site.kind == "pattern"]
            output = self._call(layer, rows, _Attending(layer, groups, self.attend, patterns=patterns))
        return apply_edits(output, [edit for edit in edits if edit.site.kind == "resid_post"])

    def logits(
        self, rows: Float[Tensor, "cell tail d_model"], tokens: tuple[int, ...] | None
    ) -> Float[Tensor, "cell tail token"]:
        """Logits of some tokens of the vocabulary, or of all where None, from the last block's output."""
        weight, bias = self.head.weight, self.head.bias
        if tokens is not None:
            weight, bias = weight[list(tokens)], None if bias is None else bias[list(tokens)]
        logits = nn.functional.linear(self.norm(rows), weight, bias).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _logits(self, ids: Sequence[int]) -> Float[Tensor, "1 1 vocabulary"]:
        """Of an ordinary run, after the last token."""
        forget_lengths(self.hf_model, self.hf_model.config)
        return self.hf_model(torch.tensor([list(ids)], device=self.device), use_cache=False, logits_to_keep=1).logits

    def check(self, ids: Sequence[int], recorded: Recorded) -> None:
        """Compare the logits of an ordinary run with those of packed rows.

        Raises:
            DoesNotFit: they differ by more than rounding.
        """
        plain = self._logits(ids)
        start = recorded.length // 2
        group = Group(recorded, 1, torch.arange(start, recorded.length, device=self.device), start)
        rows = recorded.inputs[0][start:]
        for layer in range(len(self.blocks)):
            rows = self.block(layer, rows, [group])
        seen, expected = self.logits(rows[None, -1:], None)[0, 0], plain[0, -1].float()
        if not logits_agree(seen, expected, self.model.dtype):
            error = float((seen - expected).abs().max())
            raise DoesNotFit(f"its logits on packed rows differ by {error:.2g} from an ordinary run's")

    def _call(self, layer: int, rows: Tensor, now: _Attending) -> Tensor:
        arguments, keywords = _for_rows(layer, now.groups)
        token = _attending.set(now)
        try:
            with attention_through([self.attentions[layer].config], _NAME, _packed_attention):
                return first_of(self.blocks[layer](rows[None], *arguments, **keywords))[0]
        finally:
            _attending.reset(token)

    @contextmanager
    def _editing(self, layer: int, edits: Sequence[RowEdit]) -> Iterator[None]:
        """Carry out edits inside a block, in forward order."""
        block, anatomy = self.blocks[layer], self.model.anatomy
        seen: list[Tensor] = []
        projections = anatomy.projections.modules if anatomy.projections else ("", "", "")
        handlers = {
            **{kind: (module, self._edit_part) for kind, module in zip("qkv", projections, strict=True)},
            "head_out": (anatomy.out_projection, self._edit_head),
            "attn_out": (anatomy.attn_out, lambda edit, inputs, output: _replaced(output, edit, edit.values)),
            "resid_mid": (
                anatomy.attn_out,
                lambda edit, inputs, output: _replaced(output, edit, edit.values - seen[0][edit.rows]),
            ),
            "mlp_out": (anatomy.mlp_out, lambda edit, inputs, output: _replaced(output, edit, edit.values)),
        }
        with ExitStack() as stack:
            if edits:
                remember = block.register_forward_pre_hook(
                    lambda _, args, kwargs: seen.append(_input(args, kwargs)[0]), with_kwargs=True
                )
                stack.callback(remember.remove)
            for edit in sorted(edits, key=lambda edit: KINDS.index(edit.site.kind)):
                if edit.site.kind in handlers:
                    module, handle = handlers[edit.site.kind]
                    hook = block.get_submodule(module).register_forward_hook(
                        lambda _, args, output, edit=edit, handle=handle: with_first(
                            output, handle(edit, args[0][0], first_of(output))
                        )
                    )
                    stack.callback(hook.remove)
            yield

    def _edit_part(self, edit: RowEdit, inputs: Tensor, output: Tensor) -> Tensor:
        """Replace one head's columns of what gives queries, keys or values."""
        replaced = output.clone()
        replaced[0, edit.rows, self.model.columns(edit.site)] = edit.values.to(output.dtype)
        return replaced

    def _edit_head(self, edit: RowEdit, inputs: Tensor, output: Tensor) -> Tensor:
        """Add what the head's replacement adds to the projection's output over its own value."""
        head = edit.site.head or 0
        weight = self.model.head_weights(edit.site.layer, head)
        size = weight.shape[1]
        before = inputs[edit.rows, head * size : (head + 1) * size] @ weight.T
        return output.index_add(1, edit.rows, (edit.values - before)[None].to(output.dtype))


def apply_edits(rows: Float[Tensor, "row d_model"], edits: Sequence[RowEdit]) -> Float[Tensor, "row d_model"]:
    """Replace some rows of the residual stream."""
    for edit in edits:
        rows = rows.index_copy(0, edit.rows, edit.values.to(rows.dtype))
    return rows


def _replaced(output: Tensor, edit: RowEdit, values: Tensor) -> Tensor:
    return output.index_copy(1, edit.rows, values[None].to(output.dtype))


def _input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    return arguments[0] if arguments else keywords["hidden_states"]


def _parse_call(arguments: tuple[Any, ...], keywords: dict[str, Any], length: int, device: torch.device) -> Call:
    """Take the mask out of a block's arguments, and check that the others can be given to single rows."""
    keywords = {name: value for name, value in keywords.items() if name != "hidden_states"}
    rest = arguments[1:]
    masks = [value for value in (*rest, *keywords.values()) if _is_mask(value)]
    for value in (*rest, *keywords.values()):
        _check_argument(value, length)
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    cleared = tuple(None if _is_mask(value) else value for value in rest)
    named = {name: None if _is_mask(value) else value for name, value in keywords.items()}
    return Call(cleared, named, masks[0] if masks else causal)


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _check_argument(value: Any, length: int) -> None:
    if isinstance(value, tuple):
        for part in value:
            _check_argument(part, length)
    elif isinstance(value, Tensor):
        if not _is_mask(value) and (value.shape[:1] if value.ndim == 1 else value.shape[1:2]) != (length,):
            raise DoesNotFit(f"its blocks take a tensor of shape {tuple(value.shape)} whose meaning is unknown")
    elif not isinstance(value, bool | int | float | str | None):
        raise DoesNotFit(f"its blocks take a {type(value).__name__}")


def _for_rows(layer: int, groups: Sequence[Group]) -> tuple[list[Any], dict[str, Any]]:
    """The recorded arguments of a block, for the positions of these rows."""
    calls, places = [], []
    for run, mine in groupby(groups, key=lambda group: group.run):
        calls.append(run.calls[layer])
        places.append(torch.cat([group.positions.repeat(group.cells) for group in mine]))

    def gathered(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, tuple):
            return tuple(gathered(part) for part in zip(*values, strict=True))
        if not isinstance(first, Tensor):
            return first
        axis = 0 if first.ndim == 1 else 1
        return torch.cat([value.index_select(axis, rows) for value, rows in zip(values, places, strict=True)], dim=axis)

    arguments = [gathered(parts) for parts in zip(*(call.arguments for call in calls), strict=True)]
    return arguments, {name: gathered([call.keywords[name] for call in calls]) for name in calls[0].keywords}
