"""An ablation changes what its latents write and keeps everything else, the autoencoder's error too."""

import pytest
import torch
from tiny_models import tiny_checkpoint

from hooked import load_model
from patching import ActivationEdit
from sae import BatchTopK, JumpReLU, TopK
from sae.trigger_latents.ablation import AblationEffect, DirectionAblation, ablate

SAES = [TopK(16, 40, k=6), BatchTopK(16, 40, k=6), JumpReLU(16, 40, k=6)]


@pytest.mark.parametrize("sae", SAES, ids=lambda sae: sae.architecture)
def test_the_reconstruction_error_is_kept(sae):
    x = torch.randn(5, 7, 16)
    codes = sae.encode(x).detach()
    latents = [3, 11, 20]
    wanted = codes.clone()
    wanted[..., latents] = torch.tensor([0.0, 0.5, 2.0])
    edited = ablate(sae, latents, [0.0, 0.5, 2.0])(x)
    error = x - sae.decode(codes)
    torch.testing.assert_close(edited, sae.decode(wanted).detach() + error.detach(), atol=1e-5, rtol=1e-5)


def test_where_the_latents_are_dead_the_activation_keeps_its_bits():
    sae, x = SAES[0], torch.randn(50, 16)
    codes = sae.encode(x)
    latent = int((codes > 0).sum(0).argmax())
    edited = ablate(sae, [latent])(x)
    alive = codes[:, latent] > 0
    assert alive.any()
    assert not alive.all()
    assert torch.equal(edited[~alive], x[~alive])
    assert (edited[alive] != x[alive]).any(1).all()
    torch.testing.assert_close(
        (x - edited)[alive], (codes[alive, latent, None] * sae.W_dec[latent]).detach(), atol=1e-5, rtol=1e-4
    )


def test_a_watched_latent_says_where_to_act():
    sae, x = SAES[0], torch.randn(50, 16)
    codes = sae.encode(x)
    order = (codes > 0).sum(0).argsort(descending=True).tolist()
    watched, other = order[:2]
    edited = ablate(sae, [other], [1.5], watched=[watched])(x)
    alive = codes[:, watched] > 0
    assert torch.equal(edited[~alive], x[~alive])
    assert torch.equal(edited[alive], ablate(sae, [other], [1.5])(x)[alive])


def test_bfloat16_activations_stay_bfloat16():
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    assert ablate(SAES[0], [1])(x).dtype == torch.bfloat16


def test_a_direction_is_set_to_a_value():
    direction = torch.nn.functional.normalize(torch.randn(16), dim=0)
    x = torch.randn(9, 16)
    edited = DirectionAblation(direction, 0.7)(x)
    torch.testing.assert_close(edited @ direction, torch.full((9,), 0.7))
    flat = x - (x @ direction)[:, None] * direction
    torch.testing.assert_close(edited - 0.7 * direction, flat)


@pytest.mark.parametrize(("latents", "values"), [([], None), ([40], None), ([-1], None), ([1, 2], [0.0])])
def test_impossible_ablations_are_refused(latents, values):
    with pytest.raises(ValueError, match="need latents between 0 and 39"):
        ablate(SAES[0], latents, values)


def test_a_model_runs_and_generates_with_it_and_patching_takes_it_as_any_other_edit(tmp_path):
    model = load_model(tiny_checkpoint(tmp_path), dtype="float32")
    sae = TopK(model.info.d_model, 64, k=4)
    tokens = model.tokenize(["The quick brown fox"])
    ids = torch.tensor([tokens[0].ids])
    plain = model.run(ids, reads=["resid_post.1"])
    codes = sae.encode(plain.activations["resid_post.1"])
    alive = int(codes[0, -1].argmax())
    answer = model.generate(tokens, 5)
    whole = torch.tensor([[*tokens[0].ids, *answer[0]]])
    later = sae.encode(model.run(whole, reads=["resid_post.1"]).activations["resid_post.1"])
    dead = int((later > 0).any(0).any(0).logical_not().nonzero()[0])
    unchanged, changed = (model.run(ids, edits={"resid_post.1": ablate(sae, [one])}).logits for one in (dead, alive))
    assert torch.equal(unchanged, plain.logits)
    assert not torch.allclose(changed, plain.logits)
    edit = ActivationEdit("latent", {"resid_post.1": ablate(sae, [dead])})
    marks = torch.zeros(1, ids.shape[1], dtype=torch.bool)
    assert model.generate(tokens, 5, edits=edit.at(marks)) == answer


def test_effects_are_rates_with_intervals():
    effect = AblationEffect(100, 98, 7, 90, 100, 99, 97, 0.002)
    assert effect.cut == pytest.approx(1 - 7 / 98)
    rate = effect.rate("defects_after")
    assert rate.low < rate.value == 0.07 < rate.high
    assert AblationEffect(10, 0, 0, 0, 10, 10, 10, 0.0).cut != AblationEffect(10, 0, 0, 0, 10, 10, 10, 0.0).cut  # NaN
