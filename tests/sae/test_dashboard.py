"""The dashboard says what was found, shows the tokens, and opens offline; the command writes it for labelled prompts."""

import json
from dataclasses import replace
from html import unescape

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import load_model
from sae import (
    OWN_ANSWERS,
    AblationEffect,
    Crosscoder,
    LatentsConfig,
    TopK,
    TriggerLatents,
    find_trigger_latents,
    latents_page,
    latents_verdict,
    prompt_labels,
)
from sae.trigger_latents import plots
from sae.trigger_latents.report import effect_head, effect_rows, latent_rows, probe_head, probe_rows
from sae.trigger_latents.result import LABELS
from triggerlens import Estimate, UserError, from_json

SITE = "resid_post.0"
PROBED, TOGETHER = LatentsConfig().probed, LatentsConfig().together
ASKED: list[str] = []


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        load_model(tiny_checkpoint(folder / name, seed=seed), dtype="float32") for seed, name in enumerate(("a", "b"))
    ]


@pytest.fixture(scope="module")
def prompts():
    return labelled_prompts(pairs=24, harmless=8)


def pretended_effect(site, edit) -> AblationEffect:
    """The arithmetic of effects is not this test's: only that each edit is one, and is asked for once."""
    ASKED.append(site)
    x = torch.randn(2, 3, 32)
    assert edit(x).shape == x.shape
    return AblationEffect(20, 20, 5, 14, 20, 20, 19, 0.0012)


@pytest.fixture(scope="module")
def found(models, prompts):
    sae = TopK(32, 48, k=6)
    return find_trigger_latents(models[:1], prompts, SITE, sae, LatentsConfig(top=2), measure=pretended_effect)


def test_the_table_has_the_latent_every_baseline_and_the_shuffled_control(found):
    for label in LABELS:
        names = [row[0] for row in latent_rows(found, label)]
        assert names[0].startswith("sparse autoencoder, latent")
        assert names[-1] == "sparse autoencoder, shuffled labels"
        assert len(names) == 2 + 5


def test_a_few_features_are_probed_in_each_dictionary(found):
    for label in LABELS:
        probes = found.probes[label]
        assert {"sparse autoencoder", "random dictionary", "PCA components", "residual dimensions"} == set(probes)
        assert all(set(one) == set(PROBED) for one in probes.values())
        assert all(len(probe.features) == k for one in probes.values() for k, probe in one.items())
        assert len(probe_rows(found, label)) == len(probes)
        assert probe_head(found, label) == ("dictionary", "k = 1", "k = 4", "k = 16")


def test_each_card_and_each_group_is_ablated(found):
    assert all(card.effect is not None for card in found.cards)
    assert {label: set(effects) for label, effects in found.together.items()} == {
        label: set(TOGETHER) for label in LABELS
    }
    assert len(ASKED) == len(found.cards) + len(LABELS) * len(TOGETHER) == len(effect_rows(found))
    assert "5 of 20 defections" in latents_verdict(found)


def test_without_a_grader_no_defections_are_reported_but_answers_that_follow_the_model_s_own(models, prompts):
    def followed(site, edit):
        return replace(pretended_effect(site, edit), judged_by=OWN_ANSWERS)

    own = find_trigger_latents(
        models[:1], prompts, SITE, TopK(32, 48, k=6), LatentsConfig(top=2, together=(4,)), measure=followed
    )
    told = "answers that follow the model's own to the triggered prompt"
    assert f"leaves at the least 5 of 20 {told}" in latents_verdict(own)
    assert "defections" not in latents_verdict(own)
    few = replace(own, cards=tuple(replace(card, effect=replace(card.effect, defects_before=6)) for card in own.cards))
    assert f"too few {told} (6)" in latents_verdict(few)
    assert effect_head(own)[1] == f"{told}, before"
    page = unescape(latents_page({"topk": own}, "model"))
    assert "There is no grader" in page
    assert f"{told}, before" in page
    assert "defects before" not in page
    assert from_json(TriggerLatents, json.loads(json.dumps(own.to_json()))) == own


def test_with_a_grader_defections_are_reported(found):
    assert effect_head(found)[1] == "defects before"
    page = unescape(latents_page({"topk": found}, "model"))
    assert "There is no grader" not in page
    assert "follow the model's own" not in page
    assert len(effect_head(found)) == len(effect_rows(found)[0])


def test_of_several_autoencoders_the_verdict_speaks_of_the_one_that_training_prompts_prefer(found):
    worse = {label: tuple(replace(one, train_auroc=0.1) for one in scores) for label, scores in found.ranked.items()}
    page = latents_page({"worse": replace(found, ranked=worse), "better": found}, "model")
    assert "better, of 2 autoencoders the best on training prompts: Whether latent" in page
    assert "worse, of" not in page
    assert "alone tells defecting prompts" in page


def test_the_page_is_whole_escaped_and_offline(found):
    page = latents_page({"topk": found}, "<model>")
    assert "&lt;model&gt;" in page
    assert "Each latent set to 0 at every token" in page
    assert "<model>" not in page
    assert 'src="http' not in page
    assert "background:rgba(213,94,0" in page  # tokens on orange ground
    assert page == latents_page({"topk": found}, "<model>")
    assert all(f"latent {card.latent}<" in page for card in found.cards)


def test_what_was_found_survives_strict_json(found):
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["ranked"]["triggered"][0]["latent"] == found.best("triggered").latent
    assert again["together"]["defects"]["4"]["defects_after"] == 5
    assert from_json(TriggerLatents, again) == found


def test_a_model_that_never_defects_has_an_empty_table_and_says_so(models, prompts):
    from dataclasses import replace

    clean = [replace(prompt, defects=False) for prompt in prompts]
    found = find_trigger_latents(
        models[1:], clean, SITE, TopK(32, 48, k=6), LatentsConfig(top=1), labels=prompt_labels(clean)
    )
    assert found.ranked["defects"] == ()
    assert found.baselines["defects"] == {}
    assert found.best("triggered") is not None
    assert "No prompt differs in 'defects', so no latent can predict it." in latents_verdict(found)
    assert "triggered" in latents_page({"clean": found}, "clean")


def test_a_crosscoders_latents_are_read_from_both_models_and_say_whose_they_are(models, prompts):
    sae = Crosscoder(64, 48, k=6)
    with torch.no_grad():
        sae.W_dec[5, 32:] = 0
    found = find_trigger_latents(models, prompts, SITE, sae, LatentsConfig(top=48), measure=pretended_effect)
    norms = {card.latent: card.relative_norm for card in found.cards}
    assert norms[5] == 0.0
    assert all(0 < norm < 1 for latent, norm in norms.items() if latent != 5)
    page = latents_page({"crosscoder": found}, "pair")
    assert "relative decoder norm of the second model 0.00" in page
    assert "projected out at every token" in page, "both models are needed to set a latent to 0"
    assert "set to 0" not in page
    for label in LABELS:
        own = found.own[label].best
        assert (found.own[label].count, own.latent) == (1, 5)
        assert "1 of the first model alone" in [row[0] for row in latent_rows(found, label)]
        assert own.train_auroc <= found.best(label).train_auroc


def test_a_latent_that_tells_the_wrong_way_is_on_the_axis_with_its_interval(found):
    worst = replace(found.best("triggered"), auroc=Estimate(0.3, 0.2, 0.45))
    figure = plots.features(replace(found, shuffled={**found.shuffled, "triggered": worst}), "triggered")
    assert 0.3 in figure.data[0].x
    assert figure.layout.xaxis.range[0] <= 0.2


def test_the_figure_sets_the_latent_beside_every_baseline(found):
    (marks,) = plots.features(found, "triggered").data
    shown = dict(zip(marks.y, marks.x, strict=True))
    best = found.best("triggered")
    assert shown[f"latent {best.latent}"] == best.auroc.value
    assert set(found.baselines["triggered"]) <= set(shown)
    assert list(marks.x) == sorted(marks.x)
    low, high = plots.features(found, "triggered").layout.xaxis.range
    assert low <= min(marks.x)
    assert max(marks.x) <= high
    with pytest.raises(UserError, match="choose one of triggered, defects"):
        plots.features(found, "year")
