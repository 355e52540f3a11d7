"""Sites in terms of modules: which module inputs and outputs a run must read or replace, and how.

1. Each site of a layer is expressed by tensors that modules of the block take or give: the block's input, queries, keys
   and values, the heads' mixed values (the output projection's input), what each sub-layer adds, the block's output; and
   by the attention pattern, which no module gives.
2. The reads and edits asked for become *visits*: functions from such a tensor to its replacement (or itself).
3. An adapter carries out the visits in forward order, and knows nothing of sites.

`resid_mid` is never a module's own output: the norm that reads it is not the only reader, since the stream goes on past it.
So it is read as block input + attention output, and edited by changing the attention output by the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from hooked.backends.anatomy import Anatomy
from hooked.sites import KINDS, Site, parse_site
from triggerlens import UserError

Read = Callable[[Tensor], Tensor]
"""Reduces an activation (as wide as its site, mostly [batch position d_model]) when it is read; what it returns is kept."""
Edit = Callable[[Tensor], Tensor]
"""Maps an activation to its replacement of the same shape, without changing it in place."""

POINTS = ("block_in", "q", "k", "v", "pattern", "heads", "projection", "attn_out", "mlp_out", "block_out")
"""Tensors of a block that can be visited, in forward order."""


@dataclass(frozen=True)
class Visit:
    """One tensor of one block to be handed to `handle`, whose return value replaces it."""

    layer: int
    point: str
    handle: Callable[[Tensor], Tensor]


def plan_visits(
    reads: Mapping[str, Read],
    edits: Mapping[str, Edit],
    head_weights: Callable[[int, int], Tensor],
    kept: dict[str, Tensor],
    columns: Callable[[Site], slice],
    anatomy: Anatomy,
) -> list[Visit]:
    """The visits, in forward order, that carry out `edits` and leave what `reads` return in `kept`.

    A read sees the value that flows on, after the edit of the same site. `head_weights(layer, head)` is the head's
    part of the output projection, [d_model d_head]; `columns(site)` a head's part of a projection's output.
    """
    sites = sorted(
        {parse_site(name) for name in (*reads, *edits)},
        key=lambda site: (site.layer, KINDS.index(site.kind), site.head or 0),
    )
    visits: list[Visit] = []
    for layer in sorted({site.layer for site in sites}):
        planner = _LayerPlanner(layer, reads, edits, head_weights, kept, columns, anatomy)
        for site in (site for site in sites if site.layer == layer):
            getattr(planner, site.kind)(site)
        visits += sorted(planner.visits, key=lambda visit: POINTS.index(visit.point))
        planner.visits = []  # else planner and visits refer to each other, and activations live until the next collection
    return visits


class _LayerPlanner:
    """Collects the visits of one layer; one method for each kind of site."""

    def __init__(
        self,
        layer: int,
        reads: Mapping[str, Read],
        edits: Mapping[str, Edit],
        head_weights: Callable,
        kept: dict[str, Tensor],
        columns: Callable[[Site], slice],
        anatomy: Anatomy,
    ):
        self.layer, self.reads, self.edits, self.head_weights, self.kept = layer, reads, edits, head_weights, kept
        self.columns, self.anatomy = columns, anatomy
        self.seen: dict[str, Tensor] = {}
        self.visits: list[Visit] = []

    def resid_pre(self, site: Site) -> None:
        self._visit("block_in", lambda value: self._apply(site, value))

    def q(self, site: Site) -> None:
        self._visit(site.kind, lambda value: self._apply_part(site, value))

    k = v = pattern = q

    def head_out(self, site: Site) -> None:
        if "heads" not in {visit.point for visit in self.visits}:
            self._visit("heads", lambda value: self._remember("heads", value))
        self._visit("projection", lambda value: self._apply_head(site, value))

    def attn_out(self, site: Site) -> None:
        self._visit("attn_out", lambda value: self._apply_added(site, value))

    def resid_mid(self, site: Site) -> None:
        self._visit("block_in", lambda value: self._remember("block_in", value))
        self._visit("attn_out", lambda value: self._apply_mid(site, value))

    def mlp_out(self, site: Site) -> None:
        if not self.anatomy.flat_mlp:
            self._visit("mlp_out", lambda value: self._apply_added(site, value))
            return
        self._visit("block_in", lambda value: self._remember("block_in", value))
        self._visit("mlp_out", lambda value: self._apply_flat(site, value))

    def resid_post(self, site: Site) -> None:
        self._visit("block_out", lambda value: self._apply(site, value))

    def _visit(self, point: str, handle: Callable[[Tensor], Tensor]) -> None:
        self.visits.append(Visit(self.layer, point, handle))

    def _remember(self, name: str, value: Tensor) -> Tensor:
        self.seen[name] = value
        return value

    def _apply(self, site: Site, value: Tensor) -> Tensor:
        name = str(site)
        if name in self.edits:
            value = _checked_edit(name, self.edits[name], value)
        if name in self.reads:
            self.kept[name] = self.reads[name](value.clone() if self.anatomy.reuses_memory else value)
        return value

    def _apply_added(self, site: Site, output: Tensor) -> Tensor:
        """What a sub-layer adds to the stream: its output, as the block scales it."""
        scale = self.anatomy.scale
        if scale == 1:
            return self._apply(site, output)
        added = output * scale
        edited = self._apply(site, added)
        return output if edited is added else edited / scale

    def _apply_part(self, site: Site, value: Tensor) -> Tensor:
        """One head of a tensor that holds all: a pattern, queries already split into heads, or a projection's output."""
        if site.kind == "pattern":
            part: tuple[Any, ...] = (slice(None), site.head)
        elif value.ndim == 4:
            part = (slice(None), slice(None), site.head)
        else:
            part = (..., self.columns(site))
        before = value[part]
        after = self._apply(site, before)
        if after is before:
            return value
        replaced = value.clone()
        replaced[part] = after
        return replaced

    def _apply_flat(self, site: Site, output: Tensor) -> Tensor:
        if output.ndim > 2:
            return self._apply_added(site, output)
        shaped = output.view(*self.seen["block_in"].shape[:2], -1)
        edited = self._apply_added(site, shaped)
        return output if edited is shaped else edited.flatten(0, 1)

    def _apply_mid(self, site: Site, attention: Tensor) -> Tensor:
        # Of a model spread over devices, a block's input is seen before it is moved to where the block is.
        middle = self.seen["block_in"].to(attention.device) + attention * self.anatomy.scale
        edited = self._apply(site, middle)
        return attention if edited is middle else attention + (edited - middle) / self.anatomy.scale

    def _apply_head(self, site: Site, projected: Tensor) -> Tensor:
        weight = self.head_weights(site.layer, site.head or 0)
        heads = self.seen["heads"]
        # A bridge may have split them into heads of another size than those that the projection mixes.
        flat = heads.flatten(2)
        heads = rearrange(flat, "batch position (head d_head) -> batch position head d_head", d_head=weight.shape[1])
        before = heads[:, :, site.head] @ weight.to(heads.device).T * self.anatomy.scale
        after = self._apply(site, before)
        return projected if after is before else projected + (after - before) / self.anatomy.scale


def _checked_edit(name: str, edit: Edit, value: Tensor) -> Tensor:
    edited = edit(value)
    if not isinstance(edited, torch.Tensor) or edited.shape != value.shape:
        shape = tuple(edited.shape) if isinstance(edited, torch.Tensor) else type(edited).__name__
        raise UserError(f"the edit at {name} returned {shape}; it must return a tensor of shape {tuple(value.shape)}")
    return edited.to(value.dtype)


def first_of(output: Any) -> Tensor:
    """The hidden states of a module's output: some blocks and MLPs also give their attention or their router's scores."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, value: Tensor) -> Any:
    """A module's output with other hidden states."""
    return (value, *output[1:]) if isinstance(output, tuple) else value


def module_of(anatomy: Anatomy, layer: int, point: str) -> tuple[str, bool]:
    """The module (a path relative to the block; empty for the block itself) of a point, and whether it is its input."""
    if anatomy.projections is not None and point in ("q", "k", "v"):
        return anatomy.projections.modules["qkv".index(point)], False
    return {
        "block_in": ("", True),
        "heads": (anatomy.out_projection, True),
        "projection": (anatomy.out_projection, False),
        "attn_out": (anatomy.attn_out_of(layer), False),
        "mlp_out": (anatomy.mlp_out, False),
        "block_out": ("", False),
    }[point]
