"""Sites: named places in a transformer where activations are read and edited.

`resid_pre.3`, `resid_mid.3` and `resid_post.3` are the residual stream before block 3, between its attention and its
MLP, and after it; `attn_out.3` and `mlp_out.3` are what the block adds to the stream; `head_out.3.5` is the part of
the attention's output projection that head 5 writes (before any norm that follows the projection, as in Gemma 2).

Inside attention, `q.3.5`, `k.3.1` and `v.3.1` are the queries, keys and values of one head as their projection gives them
(with its bias, before any norm of queries and keys and before the rotary embedding), [batch position d_head]; with grouped
queries there are fewer heads of keys and values than of queries. `pattern.3.5` is what head 5 attends to, after the
softmax, [batch query_position key_position]. Some architectures lack these four.
The names are those of TransformerLens (https://transformerlensorg.github.io/TransformerLens).
"""

from __future__ import annotations

from dataclasses import dataclass

from triggerlens import UserError

KINDS = ("resid_pre", "q", "k", "v", "pattern", "head_out", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Every kind of site, in the order in which a block computes them."""
INNER_KINDS = ("q", "k", "v", "pattern")
"""Sites inside attention; all others have the width of the residual stream."""
HEAD_KINDS = (*INNER_KINDS, "head_out")
"""Sites of a single head."""


@dataclass(frozen=True, slots=True)
class Site:
    """A parsed site name."""

    kind: str
    """One of `KINDS`."""
    layer: int
    """Number of the block, from 0."""
    head: int | None = None
    """Number of the head, from 0; None for sites that are not of a single head."""

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}" if self.head is None else f"{self.kind}.{self.layer}.{self.head}"


def parse_site(name: str) -> Site:
    """Parse `kind.layer`, or `kind.layer.head` for the kinds of a single head.

    Raises:
        UserError: the name has another form; the message lists the kinds.
    """
    kind, *numbers = name.split(".")
    expected = 2 if kind in HEAD_KINDS else 1
    if kind not in KINDS or len(numbers) != expected or not all(number.isdecimal() for number in numbers):
        raise UserError(
            f"unknown site {name!r}; sites are KIND.LAYER with KIND one of {', '.join(KINDS)} "
            f"(KIND.LAYER.HEAD for {', '.join(HEAD_KINDS)})"
        )
    return Site(kind, *map(int, numbers))
