"""Every architecture finds a known dictionary, and its sparse products are the dense ones."""

from dataclasses import replace

import pytest
import torch
from sparse_worlds import ALIVE, D_IN, FEATURES
from torch.nn.functional import mse_loss

from sae import BatchTopK, Crosscoder, Matryoshka, Moment, TensorSource, TopK, TrainConfig, build_sae, train_sae
from sae.architectures.sparse import decode, largest_of_all, largest_of_each
from sae.dead import resample
from sae.train import TrainingState, train_step
from triggerlens import UserError

SETTINGS = {name: {"k": ALIVE} for name in ("topk", "batch-topk", "matryoshka", "jumprelu")}
SETTINGS |= {"gated": {"penalty": 4.0}, "standard": {"penalty": 3.0}}
# More steps, or a gentler rate, where an architecture needs them.
STEPS = {"topk": 800, "batch-topk": 800, "gated": 1100, "standard": 1100, "matryoshka": 1800}
CONFIG = TrainConfig(
    steps=1300, batch=256, learning_rate=4e-3, dead_after=5_000, resample_every=100, precision="float32"
)


def fresh(name, d_in=D_IN, d_sae=FEATURES, **settings):
    return build_sae(name, d_in, d_sae, **(settings or SETTINGS.get(name, {"k": ALIVE})))


def check_found(world, sae, l0_within):
    assert world.recovered(sae.W_dec) >= 0.95
    with torch.no_grad():
        alive = (sae.encode(world.rows[:2000]) > 0).sum(1).float().mean()
    assert abs(alive / ALIVE - 1) <= l0_within, float(alive)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_true_features_are_found_at_the_true_sparsity(world, name):
    sae = fresh(name)
    assert world.recovered(sae.W_dec) < 0.05, "found before training"
    steps = STEPS.get(name, CONFIG.steps)
    curve = train_sae(world.source, sae, replace(CONFIG, steps=steps, learning_rate=8e-3 if steps < 1300 else 4e-3))
    # An L1 penalty cannot be told a sparsity: 15% is as near as one weight for all worlds comes.
    check_found(world, sae, 0.15 if name in ("gated", "standard") else 0.03)
    assert curve[-1].fvu < (0.5 if name == "standard" else 0.15), "an L1 penalty shrinks what it keeps"
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(FEATURES))


def test_a_crosscoder_finds_them_in_both_models(two_models):
    sae = fresh("crosscoder", 2 * D_IN)
    train_sae(two_models.source, sae, CONFIG)
    check_found(two_models, sae, 0.03)
    truth = two_models.directions.view(FEATURES, 2, D_IN).norm(dim=2)
    match = (torch.nn.functional.normalize(sae.W_dec, dim=1) @ two_models.directions.T).argmax(0)
    found = sae.relative_norms()[match]
    torch.testing.assert_close(found, truth[:, 1] / truth.sum(1), atol=0.05, rtol=0)


def test_a_crosscoder_tells_whose_a_feature_is(world):
    ours, shared = FEATURES // 2, FEATURES // 4
    both = torch.zeros(FEATURES, 2)
    both[:ours, 0], both[ours:, 1], both[:shared, 1] = 1, 1, 1
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(FEATURES, 2, D_IN, generator=generator) * both[..., None]
    chosen = torch.rand(30_000, FEATURES, generator=generator).topk(ALIVE, dim=1).indices
    sizes = torch.zeros(30_000, FEATURES).scatter(1, chosen, 1.0)
    source = TensorSource((sizes @ directions.flatten(1)).contiguous())
    source.widths = (D_IN, D_IN)
    sae = fresh("crosscoder", 2 * D_IN)
    train_sae(source, sae, CONFIG)
    match = (torch.nn.functional.normalize(sae.W_dec * sae.scale, dim=1) @ directions.flatten(1).T).argmax(0)
    norms = sae.relative_norms()[match]
    assert norms[shared:ours].max() < 0.25
    assert norms[ours:].min() > 0.75
    assert (norms[:shared] - 0.5).abs().max() < 0.15


@pytest.mark.parametrize("name", [*SETTINGS, "crosscoder"])
def test_inference_does_not_depend_on_the_batch_nor_on_the_scale(name):
    torch.manual_seed(1)
    sae = fresh(name, 8, 24, **({"k": 3} if "k" in SETTINGS.get(name, {"k": 0}) else {"penalty": 1.0}))
    x = torch.randn(64, 8)
    sae.start_from(x)
    for _ in range(3):
        sae.loss(x, Moment())  # sets running thresholds
    x = torch.randn(64, 8)  # none of them on a threshold
    torch.testing.assert_close(sae.encode(x)[5], sae.encode(x[5]))
    before = sae(x)
    scale = torch.full((8,), 0.25)
    if name == "crosscoder":
        scale[4:] = 3.0
    sae.fold_scale(scale)
    torch.testing.assert_close(sae(x / scale) * scale, before)


@pytest.mark.parametrize("kind", [TopK, BatchTopK, Matryoshka, Crosscoder])
def test_hand_written_gradients_are_those_of_the_dense_computation(kind):
    """The plain version: all latents, a mask, and two dense products."""
    torch.manual_seed(2)
    sae = kind(6, 32, k=3).double()
    sae.b_enc.data.normal_()
    sae.b_dec.data.normal_()
    x = torch.randn(10, 6, dtype=torch.double)
    sae.loss(x, Moment()).total.backward()
    found = [parameter.grad.clone() for parameter in sae.parameters()]
    sae.zero_grad()

    pre = sae.pre_activations(x)
    if kind is TopK:
        latents = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, 1.0) * pre.relu()
    else:
        latents = pre * (pre >= pre.flatten().topk(30).values.min())
    ends = [2, 4, 8, 16, 32] if kind is Matryoshka else [32]
    losses = [mse_loss(latents[:, :end] @ sae.W_dec[:end] + sae.b_dec, x) for end in ends]
    torch.stack(losses).mean().backward()
    for name, ours, parameter in zip(dict(sae.named_parameters()), found, sae.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, msg=name)


def test_the_sparse_decoder_passes_gradcheck():
    torch.manual_seed(3)
    values, layout = largest_of_each(torch.randn(5, 12, dtype=torch.double), 3)
    from sae.architectures.sparse import Codes

    rows = torch.randn(12, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, w: decode(Codes(v, layout), w), (values.requires_grad_(), rows))


@pytest.mark.parametrize(("width", "k"), [(4096, 4), (4096, 32), (1000, 5), (64, 64)])
def test_the_search_in_groups_finds_the_largest(width, k):
    torch.manual_seed(4)
    pre = torch.randn(16, width)
    values, layout = largest_of_each(pre, k)
    torch.testing.assert_close(values.view(16, k).sort(1).values, pre.topk(k).values.sort(1).values)
    assert torch.equal(pre.gather(1, layout.latents.view(16, k)).flatten(), values)

    values, layout = largest_of_all(pre, k)
    wanted = pre.flatten().topk(16 * k).values
    torch.testing.assert_close(values.sort(descending=True).values, wanted[wanted > 0])
    assert torch.equal(pre[layout.rows, layout.latents], values)


def test_dead_latents_are_brought_back(world):
    """A decoder that points away from the data stays dead without help, and not with it."""
    settings = {"steps": 500, "batch": 256, "learning_rate": 4e-3, "precision": "float32"}
    dead = {}
    for name, after in (("helped", 2_000), ("left alone", 10**9)):
        sae = fresh("topk")
        sae.b_enc.data[:64] = -5.0
        train_sae(world.source, sae, TrainConfig(dead_after=after, **settings))
        dead[name] = float(((sae.encode(world.rows[:4000]) > 0).sum(0) == 0).float().mean())
    assert dead["left alone"] > 0.4
    assert dead["helped"] < 0.6 * dead["left alone"]

    sae = fresh("standard", penalty=0.1)
    sae.b_enc.data[:64] = -50.0
    train_sae(world.source, sae, TrainConfig(dead_after=2_000, resample_every=50, **settings))
    assert float(((sae.encode(world.rows[:4000]) > 0).sum(0) == 0).float().mean()) < 0.1


@pytest.mark.parametrize(
    ("name", "settings", "silenced"),
    [("gated", {"penalty": 0.1}, {"b_mag": -50.0}), ("jumprelu", {"k": ALIVE}, {"log_threshold": 8.0})],
)
def test_a_latent_that_is_silent_by_another_parameter_than_its_encoder_is_brought_back(
    world, monkeypatch, name, settings, silenced
):
    """Its new direction alone would be of no use."""

    def share_silent():
        sae = fresh(name, **settings)
        start = sae.start_from

        def start_silent(x):
            start(x)
            for own, value in silenced.items():
                getattr(sae, own).data[:64] = value

        sae.start_from = start_silent
        config = {"steps": 500, "batch": 256, "learning_rate": 4e-3, "precision": "float32"}
        train_sae(world.source, sae, TrainConfig(dead_after=2_000, resample_every=50, **config))
        return float(((sae.encode(world.rows[:4000]) > 0)[:, :64].sum(0) == 0).float().mean())

    assert share_silent() < 0.2
    monkeypatch.setattr(type(fresh(name, **settings)), "restart", lambda self, dead: None)
    assert share_silent() > 0.8, "without it they stay silent"


@pytest.mark.parametrize("name", ["gated", "jumprelu"])
def test_adam_forgets_every_parameter_of_a_latent_that_starts_anew(name):
    torch.manual_seed(0)
    sae = fresh(name, 8, 8, **({"k": 3} if name == "jumprelu" else {"penalty": 1.0}))  # as wide as its input
    config = TrainConfig(steps=4, batch=32, warmup=0.0, precision="float32")
    state = TrainingState.start(sae, config)
    x = torch.randn(32, 8)
    sae.start_from(x)
    for step in range(3):
        train_step(state, x, config, step)
    dead = torch.arange(8) < 3
    before = {own: state.optimizer.state[value]["exp_avg"].clone() for own, value in sae.named_parameters()}
    resample(sae, state.optimizer, x, dead, seed=0)
    for own, value in sae.named_parameters():
        moment = state.optimizer.state[value]["exp_avg"]
        assert torch.equal(moment[~dead], before[own][~dead]), own
        assert torch.equal(moment, before[own]) if own == "b_dec" else not moment[dead].any(), own


@pytest.mark.parametrize("k", [0, FEATURES + 1])
def test_k_must_fit_the_width(k):
    with pytest.raises(UserError, match="k must lie between 1 and the width, 128"):
        TopK(D_IN, FEATURES, k=k)
