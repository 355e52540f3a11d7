"""Measures of an autoencoder say what they claim."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import load_model
from sae import (
    Recipe,
    ReLU,
    TopK,
    TrainConfig,
    decoder_cosines,
    evaluate,
    evaluate_cross_entropy,
    evaluate_reconstruction,
    k_sparse_probe,
    matched_cosines,
    save_sae,
    stability,
    train_and_held_out,
    train_on_model,
)
from triggerlens import UserError


def perfect(d_in=8):
    """Each dimension has a latent for either sign, so that everything is reconstructed."""
    sae = ReLU(d_in, 2 * d_in, penalty=1.0)
    rows = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    sae.W_dec.data, sae.encoder_rows.data = rows, rows.clone()
    return sae


def blind(d_in=8):
    """Every latent is 0, so that the reconstruction is the decoder's bias."""
    sae = perfect(d_in)
    sae.b_enc.data -= 1e6
    return sae


def test_reconstruction_measures():
    rows = torch.randn(1000, 8) + 3
    blocks = list(rows.split(300))
    found = evaluate_reconstruction(perfect(), blocks)
    assert found.fvu == pytest.approx(0, abs=1e-10)
    assert (found.rows, found.l0) == (1000, pytest.approx(8))
    seen = torch.cat([rows > 0, rows < 0], 1).any(0)
    assert found.never_fired == pytest.approx(1 - float(seen.float().mean()))

    nothing = blind()
    nothing.b_dec.data = rows.mean(0)
    found = evaluate_reconstruction(nothing, blocks)
    assert (found.l0, found.never_fired) == (0, 1)
    assert found.fvu == pytest.approx(1)
    with pytest.raises(UserError, match="no activation"):
        evaluate_reconstruction(nothing, [])


@pytest.mark.parametrize("answer_tokens", [0, 5])
def test_cross_entropy_recovered_is_1_for_a_perfect_autoencoder_and_0_for_one_that_gives_zeros(tmp_path, answer_tokens):
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    prompts = labelled_prompts(pairs=8, harmless=0)
    kept = {"answer_tokens": answer_tokens}
    good = evaluate_cross_entropy(model, perfect(32), prompts, "resid_post.1", **kept)
    assert good.spliced == pytest.approx(good.model, abs=1e-4)
    bad = evaluate_cross_entropy(model, blind(32), prompts, "resid_post.1", **kept)
    assert bad.spliced == pytest.approx(bad.zeroed)
    assert good.model == bad.model
    if bad.zeroed > bad.model:
        assert (good.recovered, bad.recovered) == (pytest.approx(1, abs=1e-3), pytest.approx(0))
    else:
        assert math.isnan(bad.recovered), "a random model may predict better without the site"
    rows = model.tokenize(prompts)
    answers = [model.generate([row], 5)[0] for row in rows]
    assert good.tokens == sum(map(len, answers) if answer_tokens else (len(row.ids) - 1 for row in rows))
    if answer_tokens:
        assert any(answers)
        assert good.model < bad.zeroed, "its own greedy answers are what it predicts best"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "m")))


def test_the_first_token_of_a_text_is_left_as_it_is(model):
    """Of two tokens the first alone predicts anything: whatever is put in the second one's place changes nothing."""
    text = of_length(model, 2)
    found = evaluate_cross_entropy(model, blind(32), [text], "resid_post.0")
    assert found.tokens == 1
    assert found.zeroed == found.spliced == pytest.approx(found.model)
    every = evaluate_cross_entropy(model, blind(32), [text], "resid_post.0", skip_first=0)
    assert every.zeroed != pytest.approx(every.model), "at the first token it would"


@pytest.mark.parametrize("bos", [True, False])
def test_a_file_says_that_texts_begin_with_bos_where_the_tokenizer_puts_it_there(tmp_path, bos):
    """SAELens puts one before each text where that is said."""
    model = load_model(str(tiny_checkpoint(tmp_path / "m", bos=bos)))
    assert (model.tokenize(["a"])[0].ids[0] == model.tokenizer.bos_token_id) is bos
    (trained,) = train_on_model(
        model,
        labelled_prompts(pairs=12, harmless=0),
        "resid_post.1",
        [Recipe("topk", 16, 0, {"k": 2})],
        TrainConfig(steps=2, batch=32),
        keep=False,
    )
    save_sae(trained.sae, tmp_path / "sae")
    written = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert trained.sae.metadata["prepend_bos"] is bos
    assert written["metadata"]["prepend_bos"] is bos


@pytest.fixture
def generated(model, monkeypatch):
    """What the model was asked to answer: the lengths of each batch's prompts, and how many tokens."""
    generate, calls = model.generate, []

    def told(prompts, max_new_tokens, **options):
        calls.append(([len(prompt.ids) for prompt in prompts], max_new_tokens))
        return generate(prompts, max_new_tokens, **options)

    monkeypatch.setattr(model, "generate", told)
    return calls


def of_length(model, length):
    """A text of so many tokens."""
    text = next("the sea " * words for words in range(1, length) if len(ids_of(model, "the sea " * words)) >= length)
    return next(text[:end] for end in range(len(text), 0, -1) if len(ids_of(model, text[:end])) == length)


def ids_of(model, text):
    try:
        return model.tokenize([text])[0].ids
    except UserError:  # longer than the context
        return [0] * 1000


def test_answers_are_written_within_a_budget_of_tokens_and_as_long_as_the_context_leaves_room_for(
    model, generated, monkeypatch
):
    monkeypatch.setattr(evaluate, "_TOKENS", 160)
    prompts, context = labelled_prompts(pairs=8, harmless=0), model.info.context
    near, full = (of_length(model, context - room) for room in (2, 0))
    found = evaluate.predicted_texts(model, [full, *prompts, near], 5)
    assert sum(len(lengths) for lengths, _ in generated) == len(prompts) + 1, "the one that fills the context is not"
    assert all(max(lengths) + new <= context for lengths, new in generated)
    assert all(len(lengths) * (max(lengths) + new) <= 160 or len(lengths) == 1 for lengths, new in generated)
    assert generated[-1] == ([context - 2], 2)
    answers = {tuple(row.ids[: row.start]): row.ids[row.start :] for row in found}
    for prompt in model.tokenize(prompts):
        assert answers.get(tuple(prompt.ids), []) == model.generate([prompt], 5)[0]
    assert [len(row.ids) for row in found] == sorted(len(row.ids) for row in found)
    assert all(len(row.ids) > row.start for row in found)


def test_a_run_writes_answers_once_whatever_the_number_of_autoencoders(model, generated):
    prompts = labelled_prompts(pairs=12, harmless=0)
    config, wanted = TrainConfig(steps=2, batch=32), [Recipe("topk", 16, seed, {"k": 2}) for seed in range(3)]
    result = train_on_model(model, prompts, "resid_post.1", wanted, config, keep=False, answer_tokens=5)
    _, held_out = train_and_held_out(prompts, config.seed, tokens=[row.ids for row in model.tokenize(prompts)])
    assert sum(len(lengths) for lengths, _ in generated) == len(held_out)
    for trained in result:
        alone = evaluate_cross_entropy(model, trained.sae, held_out[:], "resid_post.1", answer_tokens=5)
        assert trained.cross_entropy == alone


def test_without_a_token_to_predict_a_run_ends_all_the_same(model, monkeypatch):
    monkeypatch.setattr(model, "generate", lambda prompts, *_, **__: [[] for _ in prompts])
    prompts, config = labelled_prompts(pairs=12, harmless=0), TrainConfig(steps=2, batch=32)
    (trained,) = train_on_model(
        model, prompts, "resid_post.1", [Recipe("topk", 16, 0, {"k": 2})], config, keep=False, answer_tokens=5
    )
    assert (trained.cross_entropy, trained.cross_entropy_without_far) == (None, None)
    assert trained.to_json()["cross_entropy"] is None
    with pytest.raises(UserError, match="no held-out prompt has a token to predict"):
        evaluate_cross_entropy(model, trained.sae, prompts, "resid_post.1", answer_tokens=5)


def test_the_model_s_own_cross_entropy_is_transformers_own(tmp_path):
    model = load_model(str(tiny_checkpoint(tmp_path / "m")))
    prompts = labelled_prompts(pairs=3, harmless=0)
    found = evaluate_cross_entropy(model, perfect(32), prompts, "resid_post.0")
    total, tokens = 0.0, 0
    for prompt in model.tokenize(prompts):
        ids = torch.tensor([prompt.ids])
        total += float(model.hf_model(ids, labels=ids).loss) * (len(prompt.ids) - 1)
        tokens += len(prompt.ids) - 1
    assert found.model == pytest.approx(total / tokens, rel=1e-5)


def test_decoder_cosines_find_a_double():
    sae = TopK(64, 20, k=2)
    sae.W_dec.data[7] = sae.W_dec.data[3] * 2
    cosines = decoder_cosines(sae)
    assert cosines[[3, 7]].min() > 0.999
    assert cosines[[i for i in range(20) if i not in (3, 7)]].max() < 0.7


def test_the_sparse_probe_chooses_on_training_data_alone():
    """A feature that gives the test labels away, but not the training labels, is not chosen."""
    rng = np.random.default_rng(0)
    train_labels, test_labels = rng.random(400) < 0.5, rng.random(400) < 0.5
    train, test = rng.normal(size=(400, 30)), rng.normal(size=(400, 30))
    train[:, 4] += 3 * train_labels
    test[:, 4] += 3 * test_labels
    test[:, 9] += 50 * test_labels
    found = k_sparse_probe(train, train_labels, test, test_labels, 1)
    assert found.features == (4,)
    assert 0.95 < found.auroc < 1
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert found.accuracy.n == 400
    assert 9 not in k_sparse_probe(train, train_labels, test, test_labels, 3).features[:1]
    three = k_sparse_probe(train, train_labels, test, test_labels, 3)
    assert three.features == k_sparse_probe(train, train_labels, test, ~test_labels, 3).features
    assert three.features == k_sparse_probe(train, train_labels, rng.normal(size=(400, 30)), test_labels, 3).features
    noise = np.delete(np.arange(30), [4, 9])  # of the others, labels that are shuffled choose at random too
    for k in (1, 5):
        shuffled = k_sparse_probe(train[:, noise], rng.permutation(train_labels), test[:, noise], test_labels, k)
        assert abs(shuffled.auroc - 0.5) < 0.1
    with pytest.raises(UserError, match="of one class"):
        k_sparse_probe(train, train_labels | True, test, test_labels, 1)


def test_stability_is_of_directions_not_of_their_order():
    sae, same, other = TopK(64, 40, 0, k=2), TopK(64, 40, 0, k=2), TopK(64, 40, 1, k=2)
    same.W_dec.data = sae.W_dec.data[torch.randperm(40)] * 3
    torch.testing.assert_close(matched_cosines(sae.W_dec, same.W_dec), torch.ones(40))
    assert stability([sae, same]).shared == 1
    found = stability([sae, same, other])
    assert (found.pairs, found.shared) == (3, pytest.approx(1 / 3))
    assert stability([sae, other]).mean_cosine == pytest.approx(found.chance_cosine, abs=0.05)
    with pytest.raises(UserError, match="two or more"):
        stability([sae])
