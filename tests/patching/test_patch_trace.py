"""Traces: maps, roles, shares, files and figures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hooked import UserError
from patching import ROLES, PatchTrace, patch_trace, report_html, summary


@pytest.fixture(scope="module")
def trace(llama, pair_of):
    return patch_trace(llama, [pair_of(llama)])


def test_maps_have_a_cell_for_each_layer_and_token_and_head(trace):
    pair = trace.pairs[0]
    assert trace.effect.shape == (3, len(trace.tokens)) == pair.effect.shape
    assert trace.heads.shape == (3, 4)
    assert trace.engine == "packed"
    assert trace.ran + trace.skipped == 3 * len(trace.tokens) + 12
    assert trace.cells_per_second > 0
    assert "".join(trace.tokens).endswith("2024. Please answer now.")


def test_the_last_layer_restores_at_the_last_token_alone(llama, pair_of):
    effect = patch_trace(llama, [pair_of(llama)], site="resid_post", heads=False).effect
    assert effect[-1, -1] == pytest.approx(1, abs=1e-4)
    assert not effect[-1, :-1].any()


def test_with_one_differing_token_the_first_layer_gives_all_the_effect_to_it(trace):
    assert trace.trigger_share == 1
    assert trace.pairs[0].roles.count("trigger") == 1
    assert trace.effect[0].sum() == pytest.approx(1, abs=1e-4)
    before = [role == "before" for role in trace.pairs[0].roles]
    assert not trace.effect[:, before].any()


def test_top_cells_are_the_strongest(trace):
    top = trace.top(5)
    strengths = [abs(cell.effect) for cell in top]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] == np.abs(trace.effect).max()
    assert all(trace.effect[cell.layer, cell.position] == cell.effect for cell in top)
    assert all(trace.tokens[cell.position] == cell.token for cell in top)


def test_pairs_of_one_shape_are_averaged(llama, pair_of):
    pair = pair_of(llama)
    both = patch_trace(llama, [pair, pair])
    assert both.same_shape
    np.testing.assert_allclose(both.effect, patch_trace(llama, [pair]).effect, atol=1e-5)


def test_pairs_of_other_shapes_are_averaged_by_role(llama, pair_of):
    pairs = [pair_of(llama, name) for name in ("equal", "inserted", "removed")]
    trace = patch_trace(llama, pairs)
    assert not trace.same_shape
    assert trace.by_role.shape == (3, len(ROLES))
    expected = np.mean([np.nansum(pair.effect, 1) for pair in trace.pairs], 0)
    np.testing.assert_allclose(np.nansum(trace.by_role, 1), expected, atol=1e-6)
    assert 0 < trace.trigger_share <= 1
    assert any("unequal lengths" in note for note in trace.notes)
    page = report_html(trace)
    assert all(f'id="plot-pair-{at}"' in page for at in range(3))


def test_inserted_tokens_can_be_left_alone(llama, pair_of):
    trace = patch_trace(llama, [pair_of(llama, "inserted", inserted="skip")])
    assert np.isnan(trace.effect).any()
    shown = trace.to_json()
    assert None in shown["effect"][0]
    json.dumps(shown, allow_nan=False)


def test_saved_and_loaded_is_the_same(trace, tmp_path):
    trace.save(tmp_path / "trace")
    loaded = PatchTrace.load(tmp_path / "trace")
    for one, other in zip(trace.pairs, loaded.pairs, strict=True):
        np.testing.assert_array_equal(one.effect, other.effect)
        np.testing.assert_array_equal(one.heads, other.heads)
    assert loaded.cells_per_second is None
    assert loaded.to_json() == replace(trace, cells_per_second=None).to_json()
    with pytest.raises(UserError, match="already exists"):
        trace.save(tmp_path / "trace")


def test_a_damaged_trace_is_refused(trace, tmp_path):
    trace.save(tmp_path / "trace")
    (tmp_path / "trace" / "trace.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        PatchTrace.load(tmp_path / "trace")


def test_figures_write_the_tokens_on_the_axis(trace):
    figure = trace.figure()
    assert len(figure.layout.xaxis.ticktext) == len(trace.tokens)
    assert sum(label.startswith("<b>") for label in figure.layout.xaxis.ticktext) == 1
    np.testing.assert_array_equal(np.array(figure.data[0].z, dtype=float), trace.effect)
    np.testing.assert_array_equal(np.array(trace.head_figure().data[0].z, dtype=float), trace.heads)
    with pytest.raises(UserError, match="no pair 3"):
        trace.figure(3)


def test_the_report_escapes_and_does_not_change(trace):
    pair = replace(trace.pairs[0], tokens=("<script>alert(1)</script>", *trace.tokens[1:]))
    nasty = replace(trace, pairs=(pair,), model="<img src=x>")
    page = report_html(nasty)
    assert page == report_html(nasty)
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert summary(trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "head_out"}, "layer × head"),
        ({"site": "nowhere"}, "no site of kind"),
        ({"layers": [7]}, "layers 0 to 2"),
    ],
)
def test_wrong_options_are_refused(llama, pair_of, options, message):
    with pytest.raises(UserError, match=message):
        patch_trace(llama, [pair_of(llama)], **options)
    with pytest.raises(UserError, match="no pair"):
        patch_trace(llama, [])
