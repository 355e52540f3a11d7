"""The same numbers as TransformerLens's `patching.get_act_patch_*`, for every site that both have."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model
from transformer_lens import patching as lens

from hooked import load_model
from patching import Patch, exact_effects, layer_sites, position_cells, site_cells

LAYERS = range(3)
SWEEPS = {
    "resid_pre": lens.get_act_patch_resid_pre,
    "resid_mid": lens.get_act_patch_resid_mid,
    "attn_out": lens.get_act_patch_attn_out,
    "mlp_out": lens.get_act_patch_mlp_out,
}
AT_ALL_POSITIONS = {
    "head_out": lens.get_act_patch_attn_head_out_all_pos,
    "q": lens.get_act_patch_attn_head_q_all_pos,
    "k": lens.get_act_patch_attn_head_k_all_pos,
    "v": lens.get_act_patch_attn_head_v_all_pos,
    "pattern": lens.get_act_patch_attn_head_pattern_all_pos,
}
BY_POSITION = {
    "head_out": lens.get_act_patch_attn_head_out_by_pos,
    "q": lens.get_act_patch_attn_head_q_by_pos,
    "k": lens.get_act_patch_attn_head_k_by_pos,
    "v": lens.get_act_patch_attn_head_v_by_pos,
    "pattern": lens.get_act_patch_attn_head_pattern_by_pos,
}


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2"])
def sharp_backends(request, tokenizer):
    """One model through both backends; its attention is far from uniform, so that queries and keys matter."""
    plain = tiny_model(request.param)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "c_attn")) and parameter.ndim > 1:
                parameter.mul_(3)
    lens_model = load_model(copy.deepcopy(plain), tokenizer=tokenizer, backend="transformer-lens")
    return load_model(plain, tokenizer=tokenizer), lens_model


@torch.no_grad()
def their_effects(model, pair, sweep, **cells):
    """TransformerLens's sweep over some cells on the same tokens and metric, normalised in the same way."""
    bridge, metric = model.bridge, pair.metric
    _, cache = bridge.run_with_cache(torch.tensor([pair.clean]))
    values = sweep(
        bridge,
        torch.tensor([pair.triggered]),
        cache,
        lambda logits: logits[0, -1, metric.clean] - logits[0, -1, metric.defect],
        index_axis_names=None,
        index_df=pd.DataFrame(cells),
    )
    return pair.sides("denoising").effects(values.double()).numpy()


def rounding(effects):
    """How far effects may be off: 1e-4 of the largest, which is not itself rounding."""
    largest = np.abs(effects).max()
    assert largest > 0.01
    return 1e-4 * largest


@pytest.mark.parametrize("kind", SWEEPS)
def test_layer_by_position(sharp_backends, pair_of, kind):
    ours, theirs = sharp_backends
    pair = pair_of(ours, "far")
    positions = range(len(pair.triggered))
    result = exact_effects(ours, [pair], [position_cells(layer_sites(ours, kind, LAYERS), positions)])
    cells = [(layer, position) for layer in LAYERS for position in positions]
    expected = their_effects(theirs, pair, SWEEPS[kind], layer=[c[0] for c in cells], pos=[c[1] for c in cells])
    assert result.engine == "packed"
    np.testing.assert_allclose(result.effects[0], expected, atol=rounding(expected), rtol=0)


@pytest.mark.parametrize("kind", AT_ALL_POSITIONS)
def test_heads_at_all_positions(sharp_backends, pair_of, kind):
    ours, theirs = sharp_backends
    pair = pair_of(ours, "far")
    result = exact_effects(ours, [pair], [site_cells(layer_sites(ours, kind, LAYERS), range(len(pair.triggered)))])
    cells = [(layer, head) for layer in LAYERS for head in range(ours.heads(kind))]
    expected = their_effects(
        theirs, pair, AT_ALL_POSITIONS[kind], layer=[c[0] for c in cells], head=[c[1] for c in cells]
    )
    assert result.engine == "packed"
    np.testing.assert_allclose(result.effects[0], expected, atol=rounding(expected), rtol=0)


@pytest.mark.parametrize("kind", BY_POSITION)
def test_heads_at_each_position(sharp_backends, pair_of, kind):
    ours, theirs = sharp_backends
    pair = pair_of(ours, "far")
    order = ("layer", "head", "pos") if kind == "pattern" else ("layer", "pos", "head")
    rows = [
        {"layer": layer, "pos": position, "head": head}
        for layer in LAYERS
        for position in range(len(pair.triggered) - 1, 0, -5)
        for head in range(ours.heads(kind))
    ]
    cells = [(Patch(f"{kind}.{row['layer']}.{row['head']}", (row["pos"],)),) for row in rows]
    result = exact_effects(ours, [pair], [cells])
    expected = their_effects(theirs, pair, BY_POSITION[kind], **{name: [row[name] for row in rows] for name in order})
    assert result.engine == "packed"
    np.testing.assert_allclose(result.effects[0], expected, atol=rounding(expected), rtol=0)


def test_patterns_from_one_position_to_another(sharp_backends, pair_of):
    ours, theirs = sharp_backends
    pair = pair_of(ours, "far")
    last = len(pair.triggered) - 1
    rows = [
        {"layer": layer, "head": head, "dest": position, "src": key}
        for layer in LAYERS
        for head in range(ours.heads("pattern"))
        for position, key in ((last, last - 1), (last, 2), (last - 3, 1))
    ]
    cells = [(Patch(f"pattern.{r['layer']}.{r['head']}", (r["dest"],), keys=(r["src"],)),) for r in rows]
    result = exact_effects(ours, [pair], [cells])
    columns = {name: [row[name] for row in rows] for name in ("layer", "head", "dest", "src")}
    expected = their_effects(theirs, pair, lens.get_act_patch_attn_head_pattern_dest_src_pos, **columns)
    assert result.engine == "packed"
    np.testing.assert_allclose(result.effects[0], expected, atol=rounding(expected), rtol=0)
    both = (*cells[0], Patch("mlp_out.0", (last,)))
    assert exact_effects(ours, [pair], [[both]]).engine == "one at a time"
