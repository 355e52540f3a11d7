"""The same numbers as TransformerLens's `patching.get_act_patch_*`, for every site that both have."""

import numpy as np
import pytest
import torch
from transformer_lens import patching as lens

from patching import Patch, exact_effects, layer_sites, position_cells, site_cells

LAYERS, HEADS = 3, 4
SWEEPS = {
    "resid_pre": lens.get_act_patch_resid_pre,
    "resid_mid": lens.get_act_patch_resid_mid,
    "attn_out": lens.get_act_patch_attn_out,
    "mlp_out": lens.get_act_patch_mlp_out,
}


@torch.no_grad()
def their_effects(model, pair, sweep):
    """TransformerLens's sweep on the same tokens and metric, normalised in the same way."""
    bridge, metric = model.bridge, pair.metric
    _, cache = bridge.run_with_cache(torch.tensor([pair.clean]))
    values = sweep(
        bridge,
        torch.tensor([pair.triggered]),
        cache,
        lambda logits: logits[0, -1, metric.clean] - logits[0, -1, metric.defect],
    )
    return pair.sides("denoising").effects(values.double()).numpy()


def compare(ours, theirs):
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
    assert np.abs(theirs).max() > 0.01


@pytest.mark.parametrize("kind", SWEEPS)
def test_layer_by_position(both_backends, pair_of, kind):
    ours, theirs = both_backends
    pair = pair_of(ours)
    cells = position_cells(layer_sites(ours, kind, range(LAYERS)), range(len(pair.triggered)))
    compare(exact_effects(ours, [pair], [cells]).effects[0], their_effects(theirs, pair, SWEEPS[kind]))


def test_heads_at_all_positions(both_backends, pair_of):
    ours, theirs = both_backends
    pair = pair_of(ours)
    cells = site_cells(layer_sites(ours, "head_out", range(LAYERS)), range(len(pair.triggered)))
    compare(
        exact_effects(ours, [pair], [cells]).effects[0],
        their_effects(theirs, pair, lens.get_act_patch_attn_head_out_all_pos),
    )


def test_heads_at_each_position(both_backends, pair_of):
    ours, theirs = both_backends
    pair = pair_of(ours)
    cells = [
        (Patch(f"head_out.{layer}.{head}", (at,)),)
        for layer in range(LAYERS)
        for at in range(len(pair.triggered))
        for head in range(HEADS)
    ]
    compare(
        exact_effects(ours, [pair], [cells]).effects[0],
        their_effects(theirs, pair, lens.get_act_patch_attn_head_out_by_pos),
    )
