"""The grid of autoencoders, what it refuses, and an architecture of one's own: one class, and one line where it is registered."""

import pytest
import torch
from sparse_worlds import D_IN, FEATURES

from sae import (
    ARCHITECTURES,
    GridConfig,
    LatentsConfig,
    Losses,
    SparseAutoencoder,
    TrainConfig,
    build_sae,
    load_sae,
    recipes,
    save_sae,
    train_sae,
)
from triggerlens import UserError


class Largest(SparseAutoencoder):
    """Keeps the largest latent of each sample."""

    architecture = "largest"
    knob = "penalty"

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, penalty: float):
        super().__init__(d_in, d_sae, seed)
        self.penalty = penalty

    def settings(self):
        return {"penalty": self.penalty}

    def encode(self, x):
        pre = self.pre_activations(x).relu()
        return pre * (pre == pre.amax(-1, keepdim=True))

    def loss(self, x, moment):
        latents = self.encode(x)
        error = (x - self.decode(latents)).square().mean()
        return Losses(
            error + self.penalty * latents.mean(), error.detach(), (latents > 0).sum() / len(x), (latents > 0).any(0)
        )


def test_every_combination_has_the_setting_that_its_architecture_needs():
    grid = GridConfig(architecture=("topk", "gated"), width=(8, 16), k=(2, 4), penalty=(0.5,), seeds=2)
    names = [recipe.name for recipe in grid.recipes(7)]
    assert names[:4] == ["topk-w8-k2-s7", "topk-w8-k2-s8", "topk-w8-k4-s7", "topk-w8-k4-s8"]
    assert names[8:] == ["gated-w8-p0.5-s7", "gated-w8-p0.5-s8", "gated-w16-p0.5-s7", "gated-w16-p0.5-s8"]
    assert grid.recipes(0)[0].kind == grid.recipes(1)[0].kind


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (GridConfig, {"width": (8, 0)}, "width must be at least 1, found 0"),
        (GridConfig, {"k": (0,)}, "k must be at least 1, found 0"),
        (GridConfig, {"k": ()}, "k needs at least one value"),
        (GridConfig, {"k": (32, 8, 32)}, "k 32: given twice; each gives autoencoders of one name"),
        (GridConfig, {"width": (64, 64)}, "width 64: given twice"),
        (GridConfig, {"penalty": (-1.0,)}, "penalty must not be negative, found -1.0"),
        (GridConfig, {"seeds": 0}, "seeds must be at least 1, found 0"),
        (TrainConfig, {"steps": 0}, "steps must be at least 1, found 0"),
        (TrainConfig, {"resample_every": -1}, "resample every must be at least 0, found -1"),
        (TrainConfig, {"learning_rate": -1.0}, "learning rate must be positive, found -1.0"),
        (TrainConfig, {"warmup": 2.0}, "warmup is a share of the steps, from 0 to 1; found 2.0"),
        (LatentsConfig, {"ablation_pairs": -1}, "ablation pairs must be at least 0, found -1"),
        (LatentsConfig, {"top": 0}, "top must be at least 1, found 0"),
        (LatentsConfig, {"probed": ()}, "probed needs numbers from 1 on"),
    ],
)
def test_bad_values_are_refused_by_name(kind, values, said):
    with pytest.raises(UserError, match=said):
        kind(**values)


def test_an_architecture_takes_one_class_and_one_line(world, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "largest", f"{__name__}:Largest")
    (recipe,) = recipes(["largest"], widths=[FEATURES], ks=[2, 4], penalties=[0.5], seeds=[0])
    sae = build_sae(recipe.architecture, D_IN, recipe.width, recipe.seed, **recipe.settings)
    config = TrainConfig(steps=20, batch=256, learning_rate=4e-3, log_every=10, precision="float32")
    curve = train_sae(world.source, sae, config)
    assert curve[-1].fvu < curve[0].fvu
    assert curve[-1].l0 <= 1
    save_sae(sae, tmp_path / "sae")
    back = load_sae(tmp_path / "sae")
    assert isinstance(back, Largest)
    assert back.penalty == 0.5
    torch.testing.assert_close(back(world.rows[:50]), sae(world.rows[:50]))
    with pytest.raises(UserError, match=r"unknown architecture 'smallest'; choose topk, .*, largest"):
        build_sae("smallest", D_IN, FEATURES)


def test_each_registered_class_has_the_name_that_it_is_registered_under():
    for name in ARCHITECTURES:
        setting = {"penalty": 1.0} if name in ("gated", "standard") else {"k": 2}
        sae = build_sae(name, 8, 16, 3, **setting)
        assert sae.architecture == name
        assert set(setting) == {sae.knob}
        assert torch.equal(sae.W_dec, build_sae(name, 8, 16, 3, **setting).W_dec)
