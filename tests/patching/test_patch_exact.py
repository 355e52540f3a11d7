"""Many cells at once give what one cell at a time gives; what cannot change anything is not run."""

import weakref

import numpy as np
import pytest
import torch
from architectures import build
from tiny_models import tiny_model

from hooked import load_model
from patching import (
    Patch,
    align,
    exact_effects,
    joint_cell,
    layer_sites,
    patched_value,
    position_cells,
    read_sites,
    site_cells,
)
from patching.engine import exact, works
from patching.engine.exact import _tolerance
from patching.engine.packed import DoesNotFit, PackedModel
from patching.engine.reference import replacements
from patching.engine.sweep import Sweep
from triggerlens import UserError

LAYERS = 3


def some_cells(model, length, rng):
    """Cells of every kind of site at some positions, at all positions, and random sets of patches made together."""
    cells = []
    for kind in model.kinds:
        sites = layer_sites(model, kind, range(LAYERS))
        if model.heads(kind):
            sites = [rng.choice(layer_sites(model, kind, [layer])).item() for layer in range(LAYERS)]
        cells += position_cells(sites, rng.choice(length, 2, replace=False).tolist())
        cells += site_cells(sites, range(length))
    sites = np.array([site for kind in model.kinds for site in model.sites(kind)])
    for _ in range(4):
        together = rng.choice(sites, 4, replace=False).tolist()
        cells.append(
            tuple(Patch(site, tuple(sorted(rng.choice(length, 5, replace=False).tolist()))) for site in together)
        )
    return cells


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_many_at_once_is_one_at_a_time(any_model, pair_of, direction):
    """Every architecture, every site, a batch of pairs of unequal length, chunks of two sizes."""
    rng = np.random.default_rng(0)
    pairs = [pair_of(any_model, name) for name in ("equal", "inserted" if direction == "denoising" else "removed")]
    cells = [some_cells(any_model, len(pair.sides(direction).patched), rng) for pair in pairs]
    slow = exact_effects(any_model, pairs, cells, direction, fast=False)
    for budget in (None, 40):
        fast = exact_effects(any_model, pairs, cells, direction, row_budget=budget)
        assert fast.engine == "packed", fast.notes
        for ours, theirs in zip(fast.effects, slow.effects, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
            assert np.abs(theirs).max() > 0.01
    assert fast.audit.cells == 4


@pytest.mark.parametrize("fast", [True, False])
def test_of_many_pairs_no_more_is_held_than_is_run_and_no_digit_moves(llama, pair_of, monkeypatch, fast):
    """With no room for any pair but the one that is worked on, beside room for all."""
    pairs = [pair_of(llama, name) for name in ("equal", "inserted", "removed", "equal")]
    rng = np.random.default_rng(3)
    cells = [
        [*some_cells(llama, len(pair.triggered), rng)[:80], (Patch("pattern.1.0", (9,), keys=(3,)),)] for pair in pairs
    ]
    usual = exact_effects(llama, pairs, cells, fast=fast, row_budget=40)
    made, seen = [], []
    make, run, value = works._work, Sweep._run, exact.patched_value

    def watched(self, chunk):
        seen.append(sum(work() is not None for work in made))
        assert set(self.runs) == {job.run for job in chunk}
        return run(self, chunk)

    def remembered(*args):
        work = make(*args)
        made.append(weakref.ref(work))
        return work

    def patched(*args):
        seen.append(sum(work() is not None for work in made))
        return value(*args)

    monkeypatch.setattr(works, "_KEPT_BYTES", 0)
    monkeypatch.setattr(works, "_work", remembered)
    monkeypatch.setattr(Sweep, "_run", watched)
    monkeypatch.setattr(exact, "patched_value", patched)
    again = exact_effects(llama, pairs, cells, fast=fast, row_budget=40)
    assert (again.engine, again.audit) == (usual.engine, usual.audit)
    for ours, theirs in zip(again.effects, usual.effects, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert set(seen) == {1}
    assert len(made) > len(pairs)


@pytest.mark.parametrize("metric", ["kl", "log-prob"])
def test_metrics_that_need_more_logits_agree_too(llama, pair_of, metric):
    pair = pair_of(llama, "inserted", metric=metric, string="The dog" if metric == "log-prob" else None)
    cells = some_cells(llama, len(pair.triggered), np.random.default_rng(1))
    fast, slow = (exact_effects(llama, [pair], [cells], fast=fast) for fast in (True, False))
    assert fast.engine == "packed", fast.notes
    scale = np.abs(slow.effects[0]).max()
    np.testing.assert_allclose(fast.effects[0], slow.effects[0], atol=2e-4 * scale, rtol=0)


def test_both_backends_give_the_same(both_backends, pair_of):
    ours, lens = both_backends
    pair = pair_of(ours, "inserted")
    cells = some_cells(ours, len(pair.triggered), np.random.default_rng(2))
    fast, other = (exact_effects(model, [pair], [cells]) for model in (ours, lens))
    assert (fast.engine, other.engine) == ("packed", "one at a time")
    assert "transformer-lens backend" in other.notes[0]
    np.testing.assert_allclose(fast.effects[0], other.effects[0], atol=1e-4 * np.abs(other.effects[0]).max(), rtol=0)


def test_an_mlp_that_also_gives_its_routers_scores_is_patched_like_any_other(tokenizer, pair_of):
    """GPT-OSS."""
    model = load_model(build("gpt_oss"), tokenizer=tokenizer)
    pair = pair_of(model, "far")
    cells = position_cells(["mlp_out.1"], range(len(pair.triggered)))
    fast, slow = (exact_effects(model, [pair], [cells], fast=fast) for fast in (True, False))
    assert fast.engine == "packed", fast.notes
    np.testing.assert_allclose(fast.effects[0], slow.effects[0], atol=1e-4 * np.abs(slow.effects[0]).max(), rtol=0)


def test_cells_before_the_trigger_are_not_run(llama, pair_of, monkeypatch):
    pair = pair_of(llama)
    first = pair.sides("denoising").alignment.unchanged
    assert first > 2
    rows = []
    block = PackedModel.block
    monkeypatch.setattr(PackedModel, "block", lambda self, *args: rows.append(len(args[1])) or block(self, *args))
    sites = layer_sites(llama, "resid_post", range(LAYERS))
    before = exact_effects(llama, [pair], [position_cells(sites, range(first))])
    assert (before.ran, before.skipped, rows) == (0, LAYERS * first, [])
    assert not before.effects[0].any()
    assert before.cells_per_second is None


@pytest.mark.parametrize("fast", [True, False])
def test_the_number_of_forward_passes_is_that_of_the_cells_that_differ(llama, pair_of, fast):
    """One at a time: a pass each. Many at once: two passes to read, two to record and check, and the audited ones."""
    pair = pair_of(llama)
    length = len(pair.triggered)
    passes = []
    head = llama.hf_model.lm_head.register_forward_hook(lambda *_: passes.append(1))
    cells = position_cells(layer_sites(llama, "resid_pre", range(1)), range(length))
    result = exact_effects(llama, [pair], [cells], fast=fast, audited=1)
    head.remove()
    differing = sum(align(pair.triggered, pair.clean).differs)
    assert result.ran == differing, "embeddings differ where the tokens do"
    assert len(passes) == (2 + 2 + 1 if fast else 2 + differing)


@torch.no_grad()
def test_skipped_cells_have_no_effect_by_the_definition(llama, pair_of):
    pair = pair_of(llama)
    sides = pair.sides("denoising")
    source = read_sites(llama, sides.source, ["resid_post.1"])
    value = patched_value(llama, sides, (Patch("resid_post.1", (0, 1)),), source)
    assert value == pytest.approx(sides.patched_value, abs=1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_two_patches_of_one_site_are_both_made(llama, pair_of, fast):
    pair = pair_of(llama, "far")
    site, first = "resid_post.1", pair.sides("denoising").alignment.unchanged
    one, other = first, first + 2
    cells = [
        (Patch(site, (one,)), Patch(site, (other,))),
        (Patch(site, (one, other)),),
        (Patch(site, (one,)),),
        (Patch(site, (other,)),),
    ]
    effects = exact_effects(llama, [pair], [cells], fast=fast, audited=len(cells)).effects[0]
    scale = np.abs(effects).max()
    assert effects[0] == pytest.approx(effects[1], abs=1e-4 * scale)
    assert min(abs(effects[0] - effects[2]), abs(effects[0] - effects[3])) > 1e-2 * scale


@torch.no_grad()
def test_two_parts_of_one_pattern_are_both_patched(llama, pair_of):
    pair = pair_of(llama, "far")
    last = len(pair.triggered) - 1
    cells = [
        tuple(Patch("pattern.1.0", (last,), keys=(key,)) for key in (last - 2, last - 1)),
        (Patch("pattern.1.0", (last,), keys=(last - 2, last - 1)),),
    ]
    apart, together = exact_effects(llama, [pair], [cells], fast=False).effects[0]
    assert apart == pytest.approx(together, abs=1e-6)
    assert apart != 0


def test_positions_without_a_counterpart_are_not_patched(llama, pair_of):
    pair = pair_of(llama, "inserted", inserted="skip")
    missing = pair.sides("denoising").alignment.counterparts.index(None)
    cells = [*position_cells(["resid_post.1"], [missing]), joint_cell(["resid_post.1"], range(len(pair.triggered)))]
    alone, together = exact_effects(llama, [pair], [cells]).effects[0]
    assert np.isnan(alone)
    assert np.isfinite(together)


def test_a_given_alignment_is_used(llama, pair_of):
    pair = pair_of(llama)
    shifted = pair_of(llama, alignment=[max(0, position - 1) for position in range(len(pair.triggered))])
    cells = position_cells(["resid_post.1"], [len(pair.triggered) - 2])
    assert exact_effects(llama, [pair], [cells]).effects[0] != exact_effects(llama, [shifted], [cells]).effects[0]


def test_the_models_own_state_is_left_as_it_was(any_model, pair_of):
    model = any_model.hf_model
    usual = model.config._attn_implementation
    tokens = torch.tensor([[5, 6, 7]])
    before = model(tokens).logits
    pair = pair_of(any_model)
    exact_effects(any_model, [pair], [position_cells(["mlp_out.1"], range(len(pair.triggered)))])
    assert model.config._attn_implementation == usual
    assert torch.equal(model(tokens).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_that_does_not_fit_is_run_one_at_a_time_and_says_so(llama, pair_of, monkeypatch):
    def refuse(self, model):
        raise DoesNotFit("its blocks are made of glass")

    pair = pair_of(llama)
    cells = position_cells(["resid_post.1"], range(len(pair.triggered)))
    expected = exact_effects(llama, [pair], [cells])
    monkeypatch.setattr(PackedModel, "__init__", refuse)
    result = exact_effects(llama, [pair], [cells])
    assert result.engine == "one at a time"
    assert "made of glass" in result.notes[0]
    np.testing.assert_allclose(result.effects[0], expected.effects[0], atol=1e-4)


def test_a_wrong_fast_result_is_caught_by_the_audit(llama, pair_of, monkeypatch):
    pair = pair_of(llama)
    cells = position_cells(layer_sites(llama, "resid_post", range(LAYERS)), range(len(pair.triggered)))
    expected = exact_effects(llama, [pair], [cells], fast=False)
    logits = PackedModel.logits
    monkeypatch.setattr(PackedModel, "check", lambda *_: None)
    monkeypatch.setattr(PackedModel, "logits", lambda self, rows, tokens: 1.01 * logits(self, rows, tokens))
    result = exact_effects(llama, [pair], [cells])
    assert "differed" in result.notes[0]
    np.testing.assert_array_equal(result.effects[0], expected.effects[0])


def test_the_nearer_the_two_runs_are_the_more_an_effect_is_off_by_rounding(llama):
    assert _tolerance(llama, 1.0) < 0.00125 < _tolerance(llama, -0.05) < 0.002
    assert _tolerance(llama, 1e-9) == 0.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_excuse_little_of_an_effect(tokenizer, dtype):
    model = load_model(tiny_model("llama").to(dtype), tokenizer=tokenizer)
    assert _tolerance(model, 10.0) < 0.08
    assert _tolerance(model, 1e-9) == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_whose_logits_are_scaled_is_run_one_at_a_time(tokenizer, pair_of, dtype):
    """Cohere multiplies its logits by a sixteenth, of which the rows know nothing; Llama leaves them as they are."""
    for name, engine, note in (("cohere", "one at a time", "logits on packed rows differ"), ("llama", "packed", "")):
        model = load_model(build(name).to(dtype), tokenizer=tokenizer)
        pair = pair_of(model, "far")
        result = exact_effects(model, [pair], [position_cells(["resid_post.1"], range(len(pair.triggered)))])
        assert result.engine == engine, result.notes
        assert note in "".join(result.notes)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ((Patch("resid_pre.9", (0,)),), "layers 0 to 2"),
        ((Patch("nowhere.0", (0,)),), "unknown site"),
        ((Patch("resid_pre.0", (99,)),), "no position 99"),
        ((Patch("pattern.0.0", (3,), keys=(99,)),), "no position 99"),
        ((Patch("resid_pre.0", (3,), keys=(2,)),), "only a pattern has keys"),
    ],
)
def test_cells_that_the_model_lacks_are_refused(llama, pair_of, cell, message):
    with pytest.raises(UserError, match=message):
        exact_effects(llama, [pair_of(llama)], [[cell]])


def test_a_pattern_is_aligned_in_its_columns_too(llama, pair_of):
    """What is kept is the attention between tokens that both runs have; nothing goes to an inserted token, or ahead."""
    pair = pair_of(llama, "inserted")
    sides = pair.sides("denoising")
    source = read_sites(llama, sides.source, ["pattern.1.0"])["pattern.1.0"]
    aligned = replacements(sides, "pattern.1.0", source)
    counterparts, inserted = sides.alignment.counterparts, np.array(sides.alignment.inserted)
    assert aligned.shape == (len(sides.patched),) * 2
    assert not aligned[:, inserted].any()
    torch.testing.assert_close(
        aligned[~inserted].sum(1), torch.ones((~inserted).sum())
    )  # the source has no other token
    last = len(sides.patched) - 1
    assert aligned[last, last - 1] == source[counterparts[last], counterparts[last - 1]]
    assert not aligned.triu(1).any()
    back = pair.sides("noising")
    lost = replacements(back, "pattern.1.0", read_sites(llama, back.source, ["pattern.1.0"])["pattern.1.0"])
    assert float(lost[-1].sum()) < 0.999  # what the triggered run paid to the trigger
