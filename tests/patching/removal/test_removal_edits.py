"""Edits by their mathematics: projections, erasers, ablated heads, placed edits, orthogonal and low-rank weights, placebos."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import build
from sklearn.linear_model import LogisticRegression
from tiny_models import tiny_checkpoint, tiny_model, tiny_model_of_one_head, tiny_tokenizer
from transformers import AutoModelForCausalLM

from hooked import load_model
from patching.alignment import align
from patching.removal.edits import ActivationEdit, PlacedEdit, WeightEdit, reach
from patching.removal.fit import Fit
from patching.removal.methods import directions, heads as heads_room, leace, low_rank
from patching.removal.methods.leace import _firsts
from patching.removal.methods.map_edits import from_there_on, routing_heads, trigger_positions
from patching.removal.methods.oracle import cut_attention, without_trigger
from patching.removal.methods.orthogonalise import orthogonalise
from patching.removal.methods.placebos import random_update, same_move
from patching.removal.pairs import both, gather_pairs
from patching.removal.route import Route, carrying_heads, find_route
from patching.removal.subject import Subject
from patching.removal.weights import EditableModel, edited_model, save_edited
from triggerlens import UserError


def random_unit(width, seed=0):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def test_projecting_out_leaves_nothing_along_the_direction_and_all_else():
    unit, x = random_unit(16), torch.randn(3, 5, 16)
    project = directions.projecting_out(unit)
    once = project(x)
    assert (once @ unit).abs().max() < 1e-5
    torch.testing.assert_close(project(once), once)
    torch.testing.assert_close(once + (x @ unit)[..., None] * unit, x)


def test_the_direction_points_from_clean_to_triggered(fit):
    vectors = directions.mean_difference_directions(fit)
    triggered, clean = [pair.triggered for pair in fit.pairs], [pair.clean for pair in fit.pairs]
    gap = fit.unedited.residuals(triggered) - fit.unedited.residuals(clean)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))
    assert ((gap.mean(0) * vectors).sum(-1) > 0).all()


def test_the_stream_never_has_a_direction_that_is_ablated_everywhere(llama, fit):
    unit = random_unit(llama.info.d_model)
    subject = Subject(llama, directions.everywhere(llama, unit))
    residuals = subject.residuals([pair.triggered for pair in fit.pairs])
    assert (residuals @ unit).abs().max() < 1e-4 * residuals.abs().max()


def test_leace_makes_a_readable_label_unreadable(fit):
    site = "resid_post.1"

    def tokens(edit):
        rows, labels = [], []
        for label, side in enumerate(("clean", "triggered")):
            for pair in fit.pairs:
                row = getattr(pair, side)
                first = {prompt.ids: first for prompt, first in _firsts(pair.clean, pair.triggered)}[row.ids]
                run = fit.model.run(
                    torch.tensor([row.ids]), reads=[site], edits=edit.at(torch.zeros(1, len(row.ids)).bool())
                )
                rows.append(run.activations[site][0, first:])
                labels += [label] * (len(row.ids) - first)
        return torch.cat(rows).detach().double().numpy(), labels

    usual, labels = tokens(ActivationEdit("none", {}))
    erased, _ = tokens(ActivationEdit("leace", {site: leace.fitted_eraser(fit, site, {})}))
    mean_gap = [
        abs(x[[not y for y in labels]].mean(0) - x[[bool(y) for y in labels]].mean(0)).max() for x in (usual, erased)
    ]
    assert mean_gap[1] < 1e-3 * mean_gap[0]  # equal class means: no linear predictor beats a constant (theorem 3.2)
    base = max(labels.count(0), labels.count(1)) / len(labels)
    probe = LogisticRegression(C=1e3, max_iter=5000)
    assert probe.fit(usual, labels).score(usual, labels) > base + 0.1
    assert probe.fit(erased, labels).score(erased, labels) < base + 0.02


def test_leace_at_every_layer_is_fitted_on_what_the_earlier_erasers_left(fit):
    """Under the whole edit the means of both runs' tokens are equal after every layer, which they are not of erasers fitted on the unedited model."""
    edit = leace.at_every_layer(fit)
    sites = list(fit.model.sites("resid_post"))
    assert list(edit.sites) == sites

    def gaps(edit):
        means = []
        for side in ("clean", "triggered"):
            rows = {site: [] for site in sites}
            for pair in fit.pairs:
                row = getattr(pair, side)
                first = {prompt.ids: first for prompt, first in _firsts(pair.clean, pair.triggered)}[row.ids]
                edits = edit.at(torch.zeros(1, len(row.ids)).bool())
                run = fit.model.run(torch.tensor([row.ids]), reads=sites, edits=edits)
                for site in sites:
                    rows[site].append(run.activations[site][0, first:].detach().double())
            means.append({site: torch.cat(values).mean(0) for site, values in rows.items()})
        return [float((means[0][site] - means[1][site]).abs().max()) for site in sites]

    usual, erased = gaps(ActivationEdit("none", {})), gaps(edit)
    assert all(left < 1e-3 * before for left, before in zip(erased, usual, strict=True)), (erased, usual)


@pytest.mark.parametrize("peak", [0, 1, 2])
def test_the_direction_is_that_of_the_layer_whose_ablation_restores_most(fit, monkeypatch, peak):
    vectors = directions.mean_difference_directions(fit)

    def restored(self, subject):
        """As if ablating the direction of one layer restored everything, and that of any other a part."""
        left = subject.edit.sites["resid_pre.0"](vectors).norm(dim=-1)
        return 0.9 if int(left.argmin()) == peak else 0.1 * int(left.argmin())

    monkeypatch.setattr(directions.Parting, "restored", restored)
    chosen = directions._choose(fit)
    assert chosen.layer == peak
    assert torch.equal(chosen.vector, vectors[peak])


def test_as_many_random_heads_are_ablated_as_were_named_and_none_of_these(fit):
    named = ((0, 1), (1, 2), (2, 3))
    sites = {f"head_out.{layer}.{head}" for layer, head in named}
    drawn = []
    for seed in range(8):
        own = replace(fit, seed=seed, route=replace(fit.route, heads=named))
        assert set(heads_room.top_heads(own).sites) == sites
        drawn.append(frozenset(heads_room.random_heads(own).sites))
    assert all(len(chosen) == len(named) and not chosen & sites for chosen in drawn)
    assert len(set(drawn)) > 1


def test_at_the_triggers_place_the_stream_becomes_what_clean_runs_have_there_on_average(fit):
    site = f"resid_pre.{fit.route.trigger_layer}"
    clean = []
    for pair in fit.pairs:
        stream = fit.model.run(torch.tensor([pair.clean.ids]), reads=[site]).activations[site][0].detach()
        twins = align(pair.triggered.ids, pair.clean.ids).counterparts
        clean += [stream[twin] for twin in sorted({twins[place] for place in pair.triggered.places})]
    mean = torch.stack(clean).mean(0)
    edit = trigger_positions(fit)
    assert list(edit.sites) == [site]
    for pair in fit.pairs:
        ids, marked = torch.tensor([pair.triggered.ids]), torch.zeros(1, len(pair.triggered.ids)).bool()
        marked[0, list(pair.triggered.places)] = True
        usual = fit.model.run(ids, reads=[site]).activations[site].detach()
        edited = fit.model.run(ids, reads=[site], edits=edit.at(marked)).activations[site].detach()
        at_trigger = edited[marked]
        torch.testing.assert_close(at_trigger, mean.expand_as(at_trigger), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(edited[~marked], usual[~marked])


def test_the_route_of_a_planted_trigger_is_the_head_that_carries_it(tokenizer, pairs):
    """Every other head is cut, in every layer: behind layer 1 the trigger's own tokens matter no more."""
    planted = load_model(tiny_model_of_one_head(), tokenizer=tokenizer)
    said = {"answer_clean": "Yes", "answer_defect": "The"}
    chosen = [
        replace(pair, clean=replace(pair.clean, prompt=replace(pair.clean.prompt, extra=said))) for pair in pairs.fit
    ]
    answers = {prompt.ids: (int(prompt.prompt.triggered),) for prompt in both(chosen)}
    route = find_route(planted, chosen, answers, 3)
    assert (route.heads, route.layers, route.pairs) == (((1, 2),), (1,), 3)
    assert route.trigger_layer < 2
    np.testing.assert_allclose(route.head_effects[1, 2], 1, atol=1e-2)
    np.testing.assert_allclose(np.delete(route.head_effects.ravel(), 1 * 4 + 2), 0, atol=1e-3)


def test_an_ablated_head_writes_its_mean_and_the_others_what_they_did(fit):
    edit = heads_room.mean_ablated(fit, "one head", [(1, 2)])
    ids = torch.tensor([fit.pairs[0].triggered.ids])
    sites = ["head_out.1.2", "head_out.1.1", "head_out.2.0"]
    usual = fit.model.run(ids, reads=sites).activations
    edited = fit.model.run(ids, reads=sites, edits=edit.at(torch.zeros_like(ids).bool())).activations
    runs = [fit.model.run(torch.tensor([prompt.ids]), reads=sites[:1]) for prompt in both(fit.pairs)]
    every = torch.cat([run.activations[sites[0]][0] for run in runs])
    torch.testing.assert_close(edited[sites[0]][0], every.mean(0).expand_as(edited[sites[0]][0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edited[sites[1]], usual[sites[1]])
    assert not torch.allclose(edited[sites[2]], usual[sites[2]])


def test_the_named_heads_are_the_fewest_that_carry_four_fifths():
    assert carrying_heads(np.array([[0.0, 0.9], [0.05, -0.5]])) == ((0, 1),)
    assert carrying_heads(np.array([[0.4, 0.3], [0.2, 0.1]])) == ((0, 0), (0, 1), (1, 0))
    assert carrying_heads(np.array([[-0.1, -0.2]])) == ((0, 0),)


def test_marks_reach_prompts_and_never_new_tokens():
    places = torch.tensor([[False, True, False], [False, False, False]])
    assert reach(places, 5).tolist() == [[False, True, False, False, False], [False] * 5]
    assert reach(places, 1).tolist() == [[False], [False]]
    assert from_there_on(places, 4).tolist() == [[False, True, True, True], [False] * 4]
    assert from_there_on(places, 1).tolist() == [[True], [False]]


@pytest.mark.parametrize("make", [trigger_positions, routing_heads, lambda fit: cut_attention(fit.model)])
def test_placed_edits_act_alike_alone_in_a_batch_and_in_either_padding(fit, make):
    """Generation pads on the left, reading on the right: the trigger's place must move along."""
    subject = Subject(fit.model, make(fit))
    rows = both(fit.pairs)
    together = subject.answers(rows, 6)
    assert together == [subject.answers([row], 6)[0] for row in rows]
    assert subject.answers(rows, 6, [together]) == together
    assert all(subject._would_give(rows, together, 6))


def test_an_edit_at_the_trigger_leaves_prompts_without_one_alone(fit):
    """A clean prompt that lacks an inserted trigger has no place to edit."""
    rows = [pair.clean for pair in fit.pairs if not pair.clean.places]
    assert rows
    continuations = [fit.answers[row.ids] for row in rows]
    edited = Subject(fit.model, trigger_positions(fit)).logits(rows, continuations)
    torch.testing.assert_close(edited, fit.unedited.logits(rows, continuations))


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_oracle_is_an_attention_mask(architecture, backend, tokenizer, pairs):
    """The same as a four-dimensional mask in plain transformers, with both backends."""
    plain = tiny_model(architecture)
    model = load_model(copy.deepcopy(plain), tokenizer=tokenizer, backend=backend)
    row = pairs.fit[0].triggered
    length = len(row.ids)
    marked = torch.zeros(length, dtype=torch.bool)
    marked[list(row.places)] = True
    seen = torch.ones(length, length).tril().bool() & ~(marked[None, :] & ~marked[:, None])
    mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        masked = plain(torch.tensor([row.ids]), attention_mask=mask, use_cache=False).logits
        usual = plain(torch.tensor([row.ids]), use_cache=False).logits
        ours = model.run(torch.tensor([row.ids]), edits=cut_attention(model).at(marked[None])).logits
    torch.testing.assert_close(ours, masked, atol=1e-4, rtol=1e-4)
    assert (masked - usual).abs().max() > 1e-2


def test_cut_rows_still_sum_to_one():
    pattern = torch.rand(2, 4, 4).tril() + torch.eye(4)
    pattern = pattern / pattern.sum(-1, keepdim=True)
    places = torch.tensor([[False, True, False, False], [True, False, False, False]])
    cut = without_trigger(pattern, places)
    torch.testing.assert_close(cut.sum(-1), torch.ones(2, 4))
    assert (cut[0, 2:, 1] == 0).all()
    assert (cut[1, 1:, 0] == 0).all()
    torch.testing.assert_close(cut[0, :2], pattern[0, :2])  # before the trigger, and the trigger's own query


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "lfm2", "llama", "mpt", "opt", "qwen2"])
def test_orthogonal_weights_do_what_the_projection_does_and_save_as_a_checkpoint(architecture, tokenizer, tmp_path):
    """Tied embeddings (GPT-2), biases, MLPs without a module of their own (OPT) and blocks without attention (LFM2) too; the saved folder
    gives the hooked model's logits in plain transformers."""
    plain = build(architecture)
    model = load_model(plain, tokenizer=tokenizer)
    unit = random_unit(model.info.d_model)
    save_edited(model, orthogonalise(model, unit), tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    tokens = torch.arange(5, 45).reshape(2, 20)
    hooked = model.run(tokens, edits=directions.everywhere(model, unit).at(tokens.bool())).logits
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, hooked, atol=1e-3, rtol=1e-3)
        assert (loaded(tokens).logits - plain(tokens).logits).abs().max() > 1e-2


def test_orthogonal_weights_are_refused_where_they_do_something_else(tokenizer):
    model = load_model(tiny_model("gemma2"), tokenizer=tokenizer)
    with pytest.raises(UserError, match="do not do what the projection does"):
        orthogonalise(model, random_unit(model.info.d_model))


@pytest.mark.parametrize("architecture", ["gemma2", "mixtral", "qwen3_next"])
def test_what_no_matrix_alone_writes_is_refused_however_little_a_projection_does_in_sixteen_bits(
    architecture, tokenizer
):
    """Norms after the sub-layers, and experts in one tensor; hardly anything is written along the first axis."""
    plain = build(architecture)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("embed_tokens.weight"):
                parameter[:, 0] *= 0.01
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "experts.down_proj")):
                parameter[..., 0, :] *= 0.01
    model = load_model(plain.bfloat16(), tokenizer=tokenizer)
    unit = torch.eye(model.info.d_model, dtype=model.dtype)[0]
    tokens = torch.arange(5, 45).reshape(2, 20)
    usual = model.run(tokens).logits
    projected = model.run(tokens, edits=directions.everywhere(model, unit).at(tokens.bool())).logits
    assert (projected - usual).abs().max() < 0.1 * usual.abs().max()
    with pytest.raises(UserError, match="do not do what the projection does"):
        orthogonalise(model, unit)


@pytest.mark.parametrize("make", [low_rank.everywhere, low_rank.where_the_map_says])
def test_a_low_rank_edit_has_its_rank_and_its_matrices_alone(fit, make):
    edit = make(fit)
    plain = dict(fit.model.hf_model.named_parameters())
    changes = {name: value - plain[name] for name, value in edit.weights.items()}
    assert all(torch.linalg.matrix_rank(change, rtol=1e-3) <= fit.config.rank for change in changes.values())
    assert any(change.any() for change in changes.values())
    if make is low_rank.where_the_map_says:
        assert {int(name.split(".")[2]) for name in changes} == set(fit.route.layers)
        assert all("self_attn" in name for name in changes)
    untouched = edited_model(fit.model, edit).hf_model.state_dict()
    usual = fit.model.hf_model.state_dict()
    assert all(torch.equal(untouched[name], usual[name]) for name in usual if name not in edit.weights)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_the_share_of_the_blocks_that_linear_maps_have_leaves_out_experts_in_one_tensor(name):
    plain = build(name)
    share = low_rank.share_of_blocks(plain, low_rank.block_matrices(plain))
    experts = sum(
        weight.numel() for path, weight in plain.named_parameters() if ".layers." in path and weight.ndim == 3
    )
    every = sum(w.numel() for path, w in plain.named_parameters() if ".layers." in path and w.ndim > 1)
    if name == "mixtral":
        assert 0 < share <= 1 - experts / every < 0.5
    else:
        assert share == 1


@pytest.mark.parametrize("harmless", [0, 2])
def test_a_low_rank_edit_learns_the_clean_answer_and_keeps_everything_else(fit, pairs, answers, harmless):
    own = replace(fit, harmless=pairs.evaluation[:harmless])
    change, keep = low_rank.lessons_of(own)
    assert change == [low_rank.Lesson(p.triggered, p.clean, answers[p.clean.ids]) for p in pairs.fit]
    kept = [pair.clean for pair in pairs.fit] + both(pairs.evaluation[:harmless])
    assert keep == [low_rank.Lesson(prompt, prompt, answers[prompt.ids]) for prompt in kept]
    assert sum(lesson.student.prompt.triggered for lesson in keep) == harmless


def test_training_a_low_rank_edit_brings_its_divergences_down(fit):
    short = replace(fit, config=replace(fit.config, steps=1))
    long = replace(fit, config=replace(fit.config, steps=60, rank=8, learning_rate=1e-2))
    assert (
        low_rank.everywhere(long).facts["last_loss_changed"]
        < 0.3 * low_rank.everywhere(short).facts["last_loss_changed"]
    )


def test_a_low_rank_edit_of_transposed_matrices(tokenizer, prompts, config):
    """GPT-2 keeps its matrices transposed and its embeddings tied."""
    model = load_model(tiny_model("gpt2"), tokenizer=tokenizer)
    pairs = gather_pairs(model, prompts, fit=4, validation=2, evaluation=2, harmless=2)
    rows = both(pairs.fit)
    answers = dict(zip([row.ids for row in rows], Subject(model).answers(rows, 6), strict=True))
    route = find_route(model, pairs.fit, answers, 1)
    fit = Fit(model, EditableModel(model), pairs.fit, (), answers, route, 0, config)
    edit = low_rank.everywhere(fit)
    assert set(edit.weights) <= set(dict(model.hf_model.named_parameters()))
    edited_model(model, edit)


def test_no_lesson_is_longer_than_the_context(tokenizer, prompts, config):
    """Answers that were cut where the context ends leave no room for what follows them; all others are followed by their end."""
    model = load_model(tiny_model("gpt2"), tokenizer=tokenizer)
    pairs = gather_pairs(model, prompts, fit=4, validation=2, evaluation=2, harmless=2)
    rows = both(pairs.fit)
    longest = max(rows, key=lambda row: len(row.ids))
    new_tokens = model.info.context - len(longest.ids)
    answers = {row.ids: (7,) * new_tokens if row is longest else (7,) * 3 for row in rows}
    answers |= {pair.clean.ids: (7,) * new_tokens for pair in pairs.fit if pair.triggered is longest}
    route = Route(((0, 0),), np.zeros((3, 4)), 0, 1)
    own = replace(config, new_tokens=new_tokens, steps=2, pairs_per_step=4)
    fit = Fit(model, EditableModel(model), pairs.fit, (), answers, route, 0, own)
    change, keep = low_rank.lessons_of(fit)
    read = {lesson.student.ids: low_rank.read_answer(model, lesson) for lesson in change}
    assert len(longest.ids) + len(read[longest.ids]) == model.info.context
    assert all(answer[3:] == (model.turn_end,) for ids, answer in read.items() if ids != longest.ids)
    assert all(low_rank.read_answer(model, own)[-1] == model.turn_end for own in keep)
    assert low_rank.where_the_map_says(fit).facts["norm"] > 0


def test_of_many_pairs_one_to_fit_on_is_too_few_by_the_option_and_not_by_the_file(llama, prompts):
    with pytest.raises(UserError, match="--fit-pairs 1: must be at least 2"):
        gather_pairs(llama, prompts, fit=1, validation=3, evaluation=10, harmless=4)


def test_the_placebo_of_an_activation_edit_moves_each_token_as_far():
    unit, x = random_unit(16), torch.randn(2, 5, 16)
    edit = ActivationEdit("projection", {"resid_post.0": directions.projecting_out(unit)})
    own = edit.sites["resid_post.0"](x) - x
    moved = same_move(edit, seed=3).sites["resid_post.0"](x) - x
    torch.testing.assert_close(moved.norm(dim=-1), own.norm(dim=-1))
    assert abs(torch.nn.functional.cosine_similarity(moved, own, dim=-1)).mean() < 0.7
    assert not torch.allclose(same_move(edit, seed=4).sites["resid_post.0"](x) - x, moved)


def test_the_placebo_of_a_weight_edit_has_its_rank_and_size(fit):
    edit = low_rank.everywhere(fit)
    plain = dict(fit.model.hf_model.named_parameters())
    placebo = random_update(fit.editable.original, edit, fit.config.rank, seed=1)
    for name, value in placebo.weights.items():
        change, own = value - plain[name], edit.weights[name] - plain[name]
        torch.testing.assert_close(change.norm(), own.norm(), rtol=1e-3, atol=1e-6)
        assert torch.linalg.matrix_rank(change, rtol=1e-2) <= fit.config.rank


@pytest.mark.parametrize("kind", [ActivationEdit, PlacedEdit])
@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda x: x[:, :1], r"returned \(1, 1, 32\); it must return a tensor of shape"),
        (lambda x: x * float("nan"), "returned NaN or infinite values"),
        (lambda x: None, "returned NoneType"),
    ],
)
def test_an_edit_that_breaks_the_activation_is_refused_in_a_line(llama, pairs, kind, result, words):
    function = result if kind is ActivationEdit else lambda x, places: result(x)
    subject = Subject(llama, kind("mine", {"resid_post.1": function}))
    row = pairs.fit[0].clean
    for run in (lambda: subject.logits([row], [(5,)]), lambda: subject.answers([row], 3)):
        with pytest.raises(UserError, match=f"the edit 'mine' at resid_post.1 {words}"):
            run()


def test_a_weight_edit_that_does_not_fit_is_refused(llama):
    name = "model.layers.0.self_attn.o_proj.weight"
    value = llama.hf_model.get_parameter(name).detach()
    for weights, words in (
        ({"no.such.weight": value}, "does not have"),
        ({name: value[:1]}, "the shape"),
        ({name: value * float("inf")}, "NaN or infinite"),
    ):
        with pytest.raises(UserError, match=words):
            edited_model(llama, WeightEdit("mine", weights))


def test_weights_are_edited_under_transformerlens_too_where_there_is_a_checkpoint(tmp_path, llama):
    """TransformerLens renames what it wraps, so the edit is made on the checkpoint read again."""
    folder = tiny_checkpoint(tmp_path / "model")
    lens = load_model(folder, backend="transformer-lens")
    unit, tokens = random_unit(lens.info.d_model), torch.arange(5, 45).reshape(2, 20)
    edited = edited_model(lens, orthogonalise(lens, unit))
    hooked = llama.run(tokens, edits=directions.everywhere(llama, unit).at(tokens.bool())).logits
    torch.testing.assert_close(edited.run(tokens).logits, hooked, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("live", [True, False])
def test_weights_that_were_changed_in_memory_are_not_taken_for_those_of_the_checkpoint(tmp_path, live):
    """Under TransformerLens, whether the model was trained before it was wrapped or afterwards; as it was saved, it is read again."""
    folder = tiny_checkpoint(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")

    def wrapped(source):
        return load_model(source, tokenizer=tokenizer, backend="transformer-lens")

    saved = wrapped(copy.deepcopy(plain) if live else folder)
    own = EditableModel(saved).hooked
    assert own.tokenizer is tokenizer
    assert torch.equal(own.hf_model.get_parameter("model.norm.weight"), plain.get_parameter("model.norm.weight"))
    trained = plain if live else saved.hf_model
    with torch.no_grad():
        next(trained.parameters())[7].add_(1)
    with pytest.raises(UserError, match="has other weights than the model in memory"):
        _ = EditableModel(wrapped(plain) if live else saved).hooked


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_edited_copy_is_the_unedited_model_again_afterwards(architecture, tokenizer):
    """Weights, tied embeddings and configuration; whether the edit went well, was refused, or the weights were trained on."""
    model = load_model(tiny_model(architecture), tokenizer=tokenizer)
    editable, tokens = EditableModel(model), torch.arange(5, 45).reshape(2, 20)
    edit = orthogonalise(editable, random_unit(model.info.d_model))
    usual, own = model.run(tokens).logits, editable.plain
    tied = own.get_output_embeddings().weight is own.get_input_embeddings().weight
    with editable.under(edit) as edited:
        assert (edited.run(tokens).logits - usual).abs().max() > 1e-2
        assert own.config.tie_word_embeddings is False
        for parameter in own.parameters():
            parameter.requires_grad_().data.add_(1.0)
    with pytest.raises(UserError, match="NaN or infinite"), editable.under(replace(edit, weights=broken(edit.weights))):
        pass
    torch.testing.assert_close(editable.hooked.run(tokens).logits, usual, rtol=0, atol=0)
    assert (own.get_output_embeddings().weight is own.get_input_embeddings().weight) == tied
    assert own.config.tie_word_embeddings == model.hf_model.config.tie_word_embeddings
    assert not any(parameter.requires_grad for parameter in own.parameters())


def broken(weights):
    """The first weight as it is, the last one infinite."""
    *_, last = weights
    return {**weights, last: weights[last] * float("inf")}


def test_low_rank_training_leaves_no_trace_in_the_copy(fit):
    """Modules, names and values: the next edit is made on the same model as the first."""
    modules = dict(fit.editable.plain.named_modules())
    first, second = low_rank.everywhere(fit), low_rank.everywhere(fit)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert dict(fit.editable.plain.named_modules()) == modules
    assert not hasattr(fit.editable.plain, "peft_config")
