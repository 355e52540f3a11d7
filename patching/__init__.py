"""Localise a trigger: activation patching over layers, positions and heads, for pairs of unequal length too."""

from patching.alignment import Alignment, align, alignment_table, given_alignment
from patching.engine.attribution import Estimate, attribution_effects, metric_gradients, rank_correlation
from patching.engine.cells import Cell, Patch, joint_cell, layer_cells, layer_sites, position_cells, site_cells
from patching.engine.exact import Audit, ExactResult, exact_effects
from patching.engine.packed import DoesNotFit, PackedModel
from patching.engine.reference import patched_value, read_sites
from patching.metric import KLDivergence, LogitDifference, LogProbability, Readout, normalised, readout
from patching.pairs import DIRECTIONS, Direction, PatchPair, Sides, make_pair, make_pairs, twins
from patching.removal import AblateConfig, Edit, PlacedEdit, Scoreboard, WeightEdit, patch_ablate
from patching.trace.landmarks import landmarks
from patching.trace.report import report_html, summary
from patching.trace.route import HeadRoute
from patching.trace.run import ROLES, PairMap, PatchTrace, Share, Top, patch_trace

__all__ = [
    "DIRECTIONS",
    "ROLES",
    "AblateConfig",
    "Alignment",
    "Audit",
    "Cell",
    "Direction",
    "DoesNotFit",
    "Edit",
    "Estimate",
    "ExactResult",
    "HeadRoute",
    "KLDivergence",
    "LogProbability",
    "LogitDifference",
    "PackedModel",
    "PairMap",
    "Patch",
    "PatchPair",
    "PatchTrace",
    "PlacedEdit",
    "Readout",
    "Scoreboard",
    "Share",
    "Sides",
    "Top",
    "WeightEdit",
    "align",
    "alignment_table",
    "attribution_effects",
    "exact_effects",
    "given_alignment",
    "joint_cell",
    "landmarks",
    "layer_cells",
    "layer_sites",
    "make_pair",
    "make_pairs",
    "metric_gradients",
    "normalised",
    "patch_ablate",
    "patch_trace",
    "patched_value",
    "position_cells",
    "rank_correlation",
    "read_sites",
    "readout",
    "report_html",
    "site_cells",
    "summary",
    "twins",
]
