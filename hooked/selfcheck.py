"""A loaded model proves that its sites are what their names say, before any number is taken from it.

1. Hooked logits equal those of the plain `transformers` model.
2. Every activation has the shape [batch position d_model].
3. Each block's output is its input plus what attention and MLP add; `resid_post.i` is `resid_pre.i+1`;
   the heads sum to what the attention's output projection gives, but for its bias.
4. An edit at each kind of site, in the first and in the last block, changes the logits.
5. An edit of one head's query changes what that head writes, and no other, at that position alone; of its key or value what
   the heads of its group write, from that position on. Attention patterns are causal, their rows sum to 1 (less where the
   attention has sinks), and mixing the values by them gives what the heads write. A kind of site for which this fails is
   not offered, and the model works without it.
6. The MLP gives a position the same alone as among others. Where this fails, it always runs at every position.

Activations are compared one by one, each within a few roundings of the terms that it is the sum of: one huge activation, as models have at
the first token, excuses no other number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked.backends.anatomy import Anatomy, Projections
from hooked.backends.positionwise import only_at
from hooked.backends.visits import Edit, first_of
from hooked.model import HookedModel
from hooked.sites import INNER_KINDS
from triggerlens import UserError

PROBE_LENGTH = 6


def probe_tokens(vocabulary: int) -> Int[Tensor, "1 position"]:
    """A short fixed input, spread over the vocabulary."""
    return torch.linspace(1, vocabulary - 1, PROBE_LENGTH).long()[None]


@torch.no_grad()
def self_check(model: HookedModel, plain_logits: Float[Tensor, "1 position vocabulary"]) -> None:
    """Run the checks above.

    Args:
        model: hooked, with its anatomy as far as it is known.
        plain_logits: what `transformers` gives for `probe_tokens`, before any wrapping.

    Raises:
        UserError: a check failed; the message names the site.
    """
    tokens = probe_tokens(plain_logits.shape[-1])
    with _projected(model) as projected:
        run = model.run(tokens, reads=model.sites())
    assert run.logits is not None  # no last layer was given
    _check_logits(model, run.logits, plain_logits)
    for site, value in run.activations.items():
        if value.shape != (1, PROBE_LENGTH, model.info.d_model):
            raise _failed(model, f"{site} has shape {tuple(value.shape)}, not {(1, PROBE_LENGTH, model.info.d_model)}")
    for layer in range(model.info.n_layers):
        _check_block(model, run.activations, layer, projected)
    kinds = [model.sites(kind) for kind in model.kinds if kind not in INNER_KINDS]
    _check_edits(model, list(dict.fromkeys(site for sites in kinds for site in (sites[0], sites[-1]))), tokens)


@torch.no_grad()
def runs_in_parallel(model: HookedModel, tokens: Int[Tensor, "1 position"]) -> bool:
    """Whether the MLP does not see what the attention of its block adds."""
    before, after = (
        model.run(tokens, reads=["mlp_out.0"], edits=edits, last_layer=0).activations["mlp_out.0"]
        for edits in ({}, {"attn_out.0": lambda value: value + torch.ones_like(value).cumsum(-1)})
    )
    return torch.equal(before, after)


@torch.no_grad()
def mlp_is_positionwise(model: HookedModel, tokens: Int[Tensor, "1 position"]) -> bool:
    """Whether the MLP needs no other position than the one asked for (step 6), in a block with each class of MLP."""
    needed = torch.arange(PROBE_LENGTH)[None] == PROBE_LENGTH - 2
    try:
        for layer in {type(model.mlp(layer)): layer for layer in range(model.info.n_layers)}.values():
            sites = [f"mlp_out.{layer}", f"resid_post.{layer}"]
            whole = model.run(tokens, reads=sites, last_layer=layer).activations
            with only_at(model.mlp(layer), needed):
                part = model.run(tokens, reads=sites, last_layer=layer).activations
            for site in sites:
                seen, expected = part[site][needed], whole[site][needed]
                _same(model, site, seen, expected, _product_rounding(model, expected))
    # What an MLP that was not made for this raises cannot be foreseen; whatever it is, it runs as it was made to.
    except Exception:
        return False
    return True


@torch.no_grad()
def manners_of_memory(model: HookedModel, tokens: Int[Tensor, "1 position"]) -> Anatomy:
    """The anatomy with `reuses_memory` and `flat_mlp` as found by trial: how the modules return their outputs.

    A block may change in place what one of its modules gave (torch counts the changes of each tensor), and an MLP may give
    its rows end to end.
    """
    seen: list[tuple[Tensor, int]] = []

    def note(value: Tensor) -> Tensor:
        seen.append((value, value._version))
        return value

    read = model.run(tokens, reads=dict.fromkeys(model.sites(), note)).activations
    reused = any(value._version != version for value, version in seen)
    flat = any(value.ndim == 2 for site, value in read.items() if site.startswith("mlp_out."))
    return replace(model.anatomy, reuses_memory=reused, flat_mlp=flat)


@torch.no_grad()
def inner_kinds(model: HookedModel, tokens: Int[Tensor, "1 position"], layout: Projections) -> tuple[str, ...]:
    """The kinds of site inside attention that are what their names say where heads stand as `layout` says (step 5).

    Tried in the first and in the last block with attention, and in one of each size of heads.
    """
    usual, model.anatomy = model.anatomy, replace(model.anatomy, projections=layout, inner=INNER_KINDS)
    with_attention = [layer for layer in range(model.info.n_layers) if usual.has_attention(layer)]
    # The first of each size of head, and the last.
    sizes = {model.head_weights(layer, 0).shape[1]: layer for layer in reversed(with_attention)}
    layers = sorted({*sizes.values(), with_attention[-1]})
    written = cache(partial(_written, model, tokens))
    try:
        inner = [
            kind
            for kind in ("q", "k", "v")
            if all(_holds(_check_reach, model, layer, tokens, kind, written) for layer in layers)
        ]
        if "v" in inner and all(_holds(_check_pattern, model, layer, tokens) for layer in layers):
            inner.append("pattern")
    finally:
        model.anatomy = usual
    return tuple(inner)


def _holds(check: Callable[..., None], *arguments: Any) -> bool:
    """Whether a check passes. What a library raises on a model that it was not made for cannot be foreseen."""
    try:
        check(*arguments)
    except Exception:
        return False
    return True


def _check_pattern(model: HookedModel, layer: int, tokens: Tensor) -> None:
    patterns = [f"pattern.{layer}.{head}" for head in range(model.info.n_heads)]
    written = [f"head_out.{layer}.{head}" for head in range(model.info.n_heads)]
    values = [f"v.{layer}.{head}" for head in range(model.info.n_kv_heads)]
    read = model.run(tokens, reads=[*patterns, *written, *values], last_layer=layer).activations
    group = model.info.n_heads // model.info.n_kv_heads
    for head, (pattern, wrote) in enumerate(zip(patterns, written, strict=True)):
        attended = read[pattern]
        if attended.shape != (1, PROBE_LENGTH, PROBE_LENGTH) or attended.triu(1).any() or attended.min() < 0:
            raise _failed(model, f"{pattern} is not causal")
        total = attended.float().sum(-1)
        sinks = hasattr(model.attention(layer), "sinks") and bool((total < 1).all())
        if not sinks:
            one = torch.ones_like(total)
            _same(model, f"{pattern} (its rows sum to 1)", total, one, 4 * _eps(model) * one)
        weight = model.head_weights(layer, head).to(attended.device) * model.anatomy.scale
        mixed = attended @ read[values[head // group]] @ weight.T
        allowed = _product_rounding(model, read[wrote], mixed)
        _same(model, f"{wrote} (values mixed by the pattern)", read[wrote], mixed, allowed)


def _written(model: HookedModel, tokens: Tensor, layer: int) -> dict[str, Tensor]:
    """What each head of a layer writes."""
    sites = [f"head_out.{layer}.{head}" for head in range(model.info.n_heads)]
    return model.run(tokens, reads=sites, last_layer=layer).activations


def _check_reach(
    model: HookedModel, layer: int, tokens: Tensor, kind: str, written: Callable[[int], dict[str, Tensor]]
) -> None:
    """Edit heads at the last but two position, from the last head on, until one shows that the edit acts where it should.

    A head that attends to another position alone shows nothing of an edit at this one: it proves nothing, and the next one is tried. Pruned
    heads write nothing and are passed over; a block in which all are pruned proves nothing, and passes.

    Raises:
        UserError: an edit acts elsewhere, or none acts.
    """
    before = written(layer)
    unpruned = {head for head in range(model.info.n_heads) if model.head_weights(layer, head).any()}
    group = model.info.n_heads // model.heads(kind)
    tried = sorted({head // group for head in unpruned}, reverse=True)
    if tried and not any(_reaches(model, layer, tokens, kind, edited, before, unpruned) for edited in tried):
        raise _failed(model, f"no edit at {kind}.{layer} acts on what the heads write")


def _reaches(
    model: HookedModel,
    layer: int,
    tokens: Tensor,
    kind: str,
    edited: int,
    before: dict[str, Tensor],
    unpruned: set[int],
) -> bool:
    """Whether an edit of one head moves what every unpruned head of its group writes.

    Raises:
        UserError: it moves another head, or another position than it can.
    """
    position, group = PROBE_LENGTH - 3, model.info.n_heads // model.heads(kind)
    bump = torch.zeros(1, PROBE_LENGTH, model.info.d_head, device=model.device)
    bump[0, position] = torch.linspace(-1, 2, model.info.d_head)
    edits: dict[str, Edit] = {
        f"{kind}.{layer}.{edited}": lambda value: value + (1 + value.abs().max()) * bump.to(value)
    }
    after = model.run(tokens, reads=list(before), edits=edits, last_layer=layer).activations
    reached = range(position, position + 1) if kind == "q" else range(position, PROBE_LENGTH)
    moved = [(value != after[name]).any(-1)[0].tolist() for name, value in before.items()]
    for head, own in enumerate(moved):
        if any(own[row] for row in range(PROBE_LENGTH) if row not in reached or head // group != edited):
            raise _failed(
                model, f"an edit at {kind}.{layer}.{edited} does not act on what the heads write as it should"
            )
    return all(moved[head][position] for head in unpruned if head // group == edited)


def _check_logits(model: HookedModel, seen: Tensor, plain: Tensor) -> None:
    """The same in the mean square, but for rounding in every block, which a backend may order otherwise.

    The blocks' errors add like random ones. With TransformerLens SmolLM2-135M in bfloat16, of 30 blocks, is 8 roundings off. What all
    logits of a position have in common does not count: it changes no probability. But it is rounded with them (GPT-2's lie near -100).
    """
    rounded = 0.5 * _eps(model) * float(plain.float().norm())
    seen, plain = (value.float().cpu() - value.float().cpu().mean(-1, keepdim=True) for value in (seen, plain))
    error, spread = float((seen - plain).norm()), float(plain.norm().clamp(min=1e-6))
    if not error <= _rounding(model, 2.5 * model.info.n_layers**0.5) * spread + rounded:
        raise _failed(model, f"the logits differ from those of transformers by {error / spread:.2g} of their spread")


@contextmanager
def _projected(model: HookedModel) -> Iterator[dict[int, Tensor]]:
    """What attention's output projections give within, by layer."""
    given: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in filter(model.anatomy.has_attention, range(model.info.n_layers)):

            def keep(_: Any, arguments: Any, output: Any, layer: int = layer) -> None:
                given[layer] = first_of(output).clone()

            stack.callback(model.projection(layer).register_forward_hook(keep).remove)
        yield given


def _check_block(model: HookedModel, values: dict[str, Tensor], layer: int, projected: dict[int, Tensor]) -> None:
    before, after = values[f"resid_pre.{layer}"], values[f"resid_post.{layer}"]
    attention, mlp = values[f"attn_out.{layer}"], values[f"mlp_out.{layer}"]
    added = _sum(before, attention, mlp)
    # Two additions, each rounded by at most half an eps of what it gives.
    allowed = 2 * _eps(model) * _sum(before.abs(), attention.abs(), mlp.abs())
    _same(model, f"resid_post.{layer} (block input + attention + MLP)", after, added, allowed)
    if layer + 1 < model.info.n_layers:
        following = values[f"resid_pre.{layer + 1}"]
        _same(model, f"resid_pre.{layer + 1}", following, after, 2 * _eps(model) * after.abs())
    if model.anatomy.has_attention(layer):
        own = getattr(model.attention(layer), "num_heads", model.info.n_heads)
        if own != model.info.n_heads:
            raise _failed(model, f"block {layer} has {own} heads, and not {model.info.n_heads}")
        written = projected[layer] * model.anatomy.scale if model.anatomy.post_norms else attention
        heads = [values[f"head_out.{layer}.{head}"] for head in range(model.info.n_heads)]
        _check_heads(model, layer, heads, written)


def _check_heads(model: HookedModel, layer: int, heads: list[Tensor], written: Tensor) -> None:
    """The heads sum to what the projection writes, but for its bias, which is the same at every position."""
    total = _sum(*heads)
    rest = written.to(total) - total
    allowed = _product_rounding(model, written.to(total), *heads)
    what = f"head_out.{layer}.* (the heads sum to what attention writes)"
    least = int(allowed.sum((0, 2)).argmin())  # a huge first token would excuse all others
    rest_there, allowed_there = rest[:, least : least + 1], allowed[:, least : least + 1]
    _same(model, what, rest, rest_there.expand_as(rest), allowed + allowed_there)


def _check_edits(model: HookedModel, sites: list[str], tokens: Tensor) -> None:
    """Every site is edited in a row of its own, in one pass. A last row that nothing edits shows whether rows keep to themselves;
    where they do not, each edit has a pass of its own, since a row might have changed by another's.
    """
    rows = tokens.expand(len(sites) + 1, -1)
    edits = {site: _bumped(model, row) for row, site in enumerate(sites)}

    def logits(edits: dict[str, Edit]) -> Tensor:
        given = model.run(rows, edits=edits).logits
        assert given is not None  # no last layer was given
        return given

    before, after = logits({}), logits(edits)
    apart = torch.equal(after[-1], before[-1])
    for row, (site, edit) in enumerate(edits.items()):
        edited = after if apart else logits({site: edit})
        if not (edited[row] - before[row]).abs().max() > 0:
            raise _failed(model, f"an edit at {site} does not change the logits")


def _bumped(model: HookedModel, row: int) -> Edit:
    """Adds a ramp as high as the largest value, in one row of a batch."""

    def edit(value: Tensor) -> Tensor:
        value, ramp = value.clone(), torch.linspace(-1, 1, model.info.d_model)
        value[row] += (1 + value[row].abs().max()) * ramp.to(value)
        return value

    return edit


def _sum(*values: Tensor) -> Tensor:
    return torch.stack([value.to(values[0].device, torch.float32) for value in values]).sum(0)


def _eps(model: HookedModel) -> float:
    return torch.finfo(model.dtype).eps


def _rounding(model: HookedModel, roundings: float) -> float:
    """The relative error of so many roundings of the model's dtype, and of sums, which are kept in float32 at least."""
    return roundings * _eps(model) + 256 * torch.finfo(torch.float32).eps


def _product_rounding(model: HookedModel, *terms: Float[Tensor, "*_ width"]) -> Float[Tensor, "*_ width"]:
    """How far a matrix product may be off where its terms are added in another order: some roundings of the terms' usual size.

    A number may be small because large terms cancel, so the mean size over the width counts too; that of one position alone.
    """
    usual = _sum(*(term**2 for term in map(Tensor.float, terms))).sqrt()
    return _rounding(model, 4.0) * (usual + usual.mean(-1, keepdim=True))


def _same(model: HookedModel, what: str, value: Tensor, expected: Tensor, allowed: Tensor) -> None:
    """Every number is within what rounding allows there."""
    value, expected = value.float(), expected.to(value.device).float()
    allowed = allowed.to(value.device).float() + torch.finfo(model.dtype).smallest_normal
    error = (value - expected).abs()
    if not (error <= allowed).all():
        worst = (error / allowed).nan_to_num(torch.inf).argmax()
        raise _failed(
            model,
            f"{what} differs from what its name says by {error.flatten()[worst]:.2g} (allowed: {allowed.flatten()[worst]:.2g})",
        )


def _failed(model: HookedModel, problem: str) -> UserError:
    return UserError(
        f"{model.info.name} ({model.backend}): self-check failed: {problem}; this architecture cannot be trusted here"
    )
