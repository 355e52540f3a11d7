"""What is patched: a *patch* is a site at some positions, a *cell* is a set of patches made together in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooked import HookedModel


@dataclass(frozen=True, slots=True)
class Patch:
    """One site, replaced at some positions of the patched run."""

    site: str
    """Name of the site, such as `resid_pre.3`."""
    positions: tuple[int, ...]
    """Positions of the patched run, from 0."""
    keys: tuple[int, ...] | None = None
    """Of a pattern: replace only the attention to these positions; all where None."""


Cell = tuple[Patch, ...]
"""Patches made together."""


def position_cells(sites: Sequence[str], positions: Sequence[int]) -> list[Cell]:
    """Cells that patch one site at one position each.

    Args:
        sites: names of sites, such as `resid_pre.3` or `head_out.3.1`.
        positions: of the patched run, from 0.

    Returns:
        Sites × positions cells: all positions of the first site first.
    """
    return [(Patch(site, (position,)),) for site in sites for position in positions]


def site_cells(sites: Sequence[str], positions: Sequence[int]) -> list[Cell]:
    """Cells that patch one site each, at all of the positions at once; arguments as of `position_cells`."""
    return [(Patch(site, tuple(positions)),) for site in sites]


def layer_cells(model: HookedModel, kind: str, layers: Sequence[int], positions: Sequence[int]) -> list[Cell]:
    """Cells that patch one layer at one position each; all heads of the layer together where the kind is of a single head.

    Args:
        model: the model.
        kind: of the site, such as `resid_pre` or `head_out`.
        layers: from 0.
        positions: of the patched run, from 0.

    Returns:
        Layers × positions cells: all positions of the first layer first.

    Raises:
        UserError: the model lacks the kind or a layer.
    """
    return [joint_cell(layer_sites(model, kind, [layer]), [position]) for layer in layers for position in positions]


def joint_cell(sites: Sequence[str], positions: Sequence[int]) -> Cell:
    """One cell that patches all sites at all positions in one run; arguments as of `position_cells`."""
    return tuple(Patch(site, tuple(positions)) for site in sites)


def layer_sites(model: HookedModel, kind: str, layers: Sequence[int]) -> list[str]:
    """The site of one kind at each layer, or, for the kinds of a single head, all heads of each layer.

    Raises:
        UserError: the model lacks the kind or a layer.
    """
    model.sites(kind)
    heads = [f".{head}" for head in range(model.heads(kind))] or [""]
    sites = [f"{kind}.{layer}{head}" for layer in layers for head in heads]
    model.check_sites(sites)
    return sites
