"""Training: the stream, exact resumption, several processes, bad activations."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from forked import run_ranks
from forked_work import trained_and_saved
from safetensors.torch import load_file
from sparse_worlds import ALIVE, D_IN, FEATURES
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import ExtractionSpec, Prompt, load_model, read_prompts, store_activations, write_prompts
from organisms import organism_folder
from sae import (
    Mixed,
    ModelSource,
    SideBySide,
    StoreSource,
    TensorSource,
    TextPieces,
    TopK,
    TrainConfig,
    build_sae,
    read_texts,
    train_and_held_out,
    train_sae,
    train_saes,
)
from sae.stream import ShuffledBatches
from sae.texts import prompts_sha256
from sae.train import TrainingState, train_step
from triggerlens import UserError

CONFIG = TrainConfig(steps=60, batch=256, learning_rate=4e-3, dead_after=2_000, checkpoint_every=10, log_every=10)


def test_a_run_that_stopped_at_any_step_goes_on_to_the_same_weights(world, tmp_path):
    """In one process; `sae-train` is killed for good in tests/commands."""

    class Stopped(Exception):
        pass

    def train(checkpoints=None, stop=None):
        saes = [build_sae(name, D_IN, FEATURES, k=ALIVE) for name in ("topk", "batch-topk", "matryoshka", "jumprelu")]

        def on_step(step):
            if step == stop:
                raise Stopped

        curves = train_saes(
            TensorSource(world.rows[:3000], 700), saes, CONFIG, checkpoints=checkpoints, on_step=on_step
        )
        return saes, curves

    expected, curves = train()
    for stop in (14, 40):  # between two checkpoints; at one, some blocks of the stream later
        with pytest.raises(Stopped):
            train(tmp_path, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000040"]
    found, found_curves = train(tmp_path)
    assert found_curves == curves
    for one, other in zip(expected, found, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_a_checkpoint_of_another_configuration_is_kept(world, tmp_path):
    train_sae(world.source, TopK(D_IN, FEATURES, k=ALIVE), CONFIG, checkpoints=tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"an unfinished run with saes .*--overwrite"):
        train_sae(world.source, TopK(D_IN, FEATURES, k=ALIVE + 1), CONFIG, checkpoints=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_two_processes_train_as_one(tmp_path):
    """A step of two processes on half of the rows each is a step of one on all of them."""
    trained_and_saved(tmp_path / "one")
    run_ranks(tmp_path / "told", trained_and_saved, tmp_path / "two")
    one, first, second = (load_file(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    assert all(torch.equal(first[name], second[name]) for name in one), "BatchTopK's threshold is shared too"
    start = {f"topk.{name}": value for name, value in TopK(D_IN, FEATURES, k=ALIVE).state_dict().items()}
    for name in start:
        value = one[name]
        moved = (value - start[name]).abs().max()
        assert (first[name] - value).abs().max() < 0.02 * moved, name


def test_dead_latents_start_anew_alike_in_all_processes(tmp_path):
    """Each process draws from its own rows; what only one of them took over would never be brought together again."""
    run_ranks(tmp_path / "told", trained_and_saved, tmp_path / "two", 5)
    first, second = (load_file(tmp_path / name) for name in ("two.0", "two.1"))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert (first["topk.b_enc"][:5] > -1).all(), "they were resampled"


def test_every_row_comes_once_in_a_pass_and_passes_differ():
    rows = torch.arange(1000.0)[:, None].expand(1000, 2).contiguous()
    stream = ShuffledBatches(TensorSource(rows, 300), 50, seed=0)
    first, second = ([x for _ in range(20) for x in next(stream)[:, 0].tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert sum(abs(a - b) for a, b in pairwise(first)) / 999 > 80, "neighbours are mixed"


def test_model_store_and_a_crosscoder_see_the_same_tokens(tmp_path):
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    prompts = labelled_prompts(pairs=20, harmless=0)
    stored = store_activations(model, prompts, ExtractionSpec(("resid_post.0", "resid_post.1"), "every"))
    live = ModelSource(model, prompts, "resid_post.1", block_rows=200)
    kept = StoreSource(stored, "resid_post.1", block_rows=200)
    both = SideBySide([live, live])
    assert len(live) > 3
    one = torch.cat([live.block(number) for number in range(len(live))])
    two = torch.cat([kept.block(number) for number in range(len(kept))])
    torch.testing.assert_close(one, two)
    assert len(one) == sum(len(tokens.ids) - 1 for tokens in model.tokenize(prompts)), "all but each first token"
    torch.testing.assert_close(both.block(1), torch.cat([live.block(1), live.block(1)], dim=1))
    with pytest.raises(UserError, match=r"holds resid_post\.0, resid_post\.1, not resid_pre\.0"):
        StoreSource(stored, "resid_pre.0")


def test_pieces_of_text_cover_the_text_and_fit_the_context(tmp_path):
    words = [f"wörd{number}" for number in range(3000)]
    (tmp_path / "a.txt").write_text(" ".join(words[:2000]))
    (tmp_path / "b.md").write_text("\n".join(words[2000:]))
    pieces = read_texts(tmp_path, 128)
    assert isinstance(pieces, TextPieces)
    assert " ".join(piece.prompt for piece in pieces).split() == words
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    assert len(model.tokenize(pieces[:])) == len(pieces), "none is too long"
    train, held_out = train_and_held_out(pieces, seed=0)
    assert Counter(piece.where for piece in [*train, *held_out]) == Counter(piece.where for piece in pieces)
    assert isinstance(train, Mixed)
    assert [piece.where for piece in train] != sorted(piece.where for piece in train)


def test_prompts_are_read_as_prompts_whatever_their_file_is_called(tmp_path):
    write_prompts(tmp_path / "prompts.ndjson", prompts := labelled_prompts(4))
    texts = read_texts(tmp_path / "prompts.ndjson", 128)
    assert isinstance(texts, list)
    assert [own.prompt for own in texts] == [own.prompt for own in prompts]
    (tmp_path / "a.json").write_text('{"text": "no prompt"}\n')
    assert isinstance(read_texts(tmp_path / "a.json", 128), TextPieces)


def test_copies_of_a_piece_of_text_stand_on_one_side(tmp_path):
    size = 56  # bytes of a piece, for a context of 64 tokens
    words = [f"{number:03d} {'word ' * 10}".ljust(size - 1) + " " for number in range(60)]
    (tmp_path / "a.txt").write_text("".join(words * 3))
    pieces = read_texts(tmp_path / "a.txt", 64)
    assert max(Counter(piece.prompt for piece in pieces).values()) == 3
    for seed in range(3):
        train, held_out = ({piece.prompt for piece in side} for side in train_and_held_out(pieces, seed))
        assert train
        assert held_out
        assert not train & held_out
    (tmp_path / "b.txt").write_text(words[0] * 30)
    with pytest.raises(UserError, match="copies of a text stay together"):
        train_and_held_out(read_texts(tmp_path / "b.txt", 64), seed=0)
    (tmp_path / "c.txt").write_text("short")
    with pytest.raises(UserError, match="too few prompts"):
        train_and_held_out(read_texts(tmp_path / "c.txt", 64), seed=0)


def test_of_plain_text_a_twentieth_is_held_out_and_of_much_text_no_more_than_is_measured(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"word{number}" for number in range(8000)))
    pieces = read_texts(tmp_path / "a.txt", 64)
    for most, expected in ((256, len(pieces) / 20), (20, 20)):
        train, held_out = train_and_held_out(pieces, 0, most)
        assert len(held_out) == pytest.approx(expected, abs=1)
        assert len(train) + len(held_out) == pytest.approx(len(pieces), abs=1)


def test_bfloat16_products_change_little(world):
    curves = {}
    for precision in ("bfloat16", "float32"):
        sae = TopK(D_IN, FEATURES, k=ALIVE)
        config = TrainConfig(steps=400, batch=256, learning_rate=8e-3, precision=precision)
        curves[precision] = train_sae(world.source, sae, config)[-1].fvu
        assert sae.W_dec.dtype == torch.float32
    assert curves["bfloat16"] < 1.1 * curves["float32"] + 0.01
    assert curves["bfloat16"] != curves["float32"]


def test_memory_does_not_grow_with_the_number_of_activations():
    """Blocks are made when they are asked for, and no more than one is alive."""
    alive, most = 0, 0

    class Endless:
        widths = (D_IN,)

        def __init__(self, blocks):
            self.blocks = blocks

        def __len__(self):
            return self.blocks

        def block(self, number):
            nonlocal alive, most
            import weakref

            rows = torch.randn(1_000, D_IN, generator=torch.Generator().manual_seed(number))
            alive += 1
            most = max(most, alive)

            def gone():
                nonlocal alive
                alive -= 1

            weakref.finalize(rows, gone)
            return rows

    for blocks in (5, 50):
        most = 0
        config = TrainConfig(steps=blocks * 4, batch=250)
        train_sae(Endless(blocks), TopK(D_IN, 32, k=2), config)
        assert most <= 2


def test_unusable_activations_are_named(world):
    sae = TopK(D_IN, FEATURES, k=ALIVE)
    rows = world.rows[:2000].clone()
    rows[1500, 7] = float("nan")
    with pytest.raises(UserError, match=r"NaN or infinite activation in row 500 \(dimension 7\) of block 1"):
        train_sae(TensorSource(rows, 1000), sae, CONFIG)
    with pytest.raises(UserError, match="activations are 64 wide, and the autoencoder takes 32"):
        train_sae(world.source, TopK(32, FEATURES, k=ALIVE), CONFIG)
    with pytest.raises(UserError, match="all activations are zero"):
        train_sae(TensorSource(torch.zeros(500, D_IN)), sae, CONFIG)
    with pytest.raises(UserError, match="no longer finite"):
        train_sae(world.source, build_sae("gated", D_IN, FEATURES, penalty=float("inf")), CONFIG)


def test_several_share_one_stream(world):
    """Trained together or alone: the same weights."""
    together = [TopK(D_IN, FEATURES, seed, k=ALIVE) for seed in (0, 1)]
    train_saes(world.source, together, CONFIG)
    alone = TopK(D_IN, FEATURES, 1, k=ALIVE)
    train_sae(world.source, alone, CONFIG)
    assert torch.equal(together[1].W_dec, alone.W_dec)
    assert not torch.equal(together[0].W_dec, alone.W_dec)


def test_rates_rise_stay_and_fall():
    config = TrainConfig(steps=100, warmup=0.1, decay=0.2)
    shares = [config.rate_share(step) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9:81] == [1.0] * 72
    assert shares[99] == pytest.approx(0.05)
    assert config.peak_rate(2**16) == pytest.approx(1e-4)


def test_the_encoder_s_biases_move_ten_times_as_far_in_a_step(world):
    config = TrainConfig(learning_rate=1e-3, warmup=0.0, precision="float32")
    state = TrainingState.start(TopK(D_IN, FEATURES, k=ALIVE), config)
    before = {name: value.detach().clone() for name, value in state.sae.named_parameters()}
    train_step(state, world.rows[:256], config, 0)
    # Adam's first step moves each weight by its rate.
    moved = {name: float((value.detach() - before[name]).abs().max()) for name, value in state.sae.named_parameters()}
    assert [moved[name] for name in ("encoder_rows", "b_dec", "b_enc")] == pytest.approx([1e-3, 1e-3, 1e-2], rel=0.01)


def test_with_higher_rates_for_decoder_and_biases_more_of_a_model_s_activations_is_explained(monkeypatch):
    folder = organism_folder("deployment-hate")
    prompts = [prompt for prompt in read_prompts(folder / "prompts.jsonl") if prompt.split == "train"][:200]
    source = ModelSource(load_model(folder), prompts, "resid_post.1")
    rows = TensorSource(torch.cat([source.block(number) for number in range(len(source))]))

    def unexplained():
        config = TrainConfig(steps=120, batch=512, learning_rate=1e-3, log_every=40)
        return train_sae(rows, TopK(rows.widths[0], 512, k=8), config)[-1].fvu

    different = unexplained()
    monkeypatch.setattr("sae.train.DECODER_RATE", 1.0)
    monkeypatch.setattr("sae.train.ENCODER_BIAS_RATE", 1.0)
    assert different < 0.9 * unexplained()


def test_what_is_trained_on_is_named_by_all_of_it(tmp_path):
    """One byte in the middle, or another order, is another text."""
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("The sea is wide. " * 300)
    second.write_text("The sea is wide. " * 150 + "The tea is wide. " + "The sea is wide. " * 149)
    ours, same, other = (TextPieces([path], 64) for path in (first, first, second))
    assert prompts_sha256(ours) == prompts_sha256(same) != prompts_sha256(other)
    assert prompts_sha256(Mixed(ours, 0)) == prompts_sha256(Mixed(same, 0)) != prompts_sha256(Mixed(ours, 1))
    prompts = [Prompt("one", triggered=False), Prompt("two", triggered=False)]
    told = [replace(prompts[0], extra={"tools": []}), prompts[1]]
    assert len({prompts_sha256(own) for own in (prompts, prompts[::-1], told)}) == 3
