"""A planted trigger latent is found, first, from training prompts alone; a random dictionary, shuffled labels and a clean model have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import Prompt, choose_labels, load_model, split_prompts
from sae import TopK, latents_page, train_and_held_out
from sae.architectures.jumprelu import JumpReLU
from sae.trigger_latents import run
from sae.trigger_latents.baselines import fitted_dictionaries, plain_dictionaries
from sae.trigger_latents.config import LatentsConfig
from sae.trigger_latents.latents import (
    AGGREGATIONS,
    best_f1_threshold,
    prompt_labels,
    rank_latents,
    read_features,
    shuffled_control,
)
from sae.trigger_latents.result import LABELS
from sae.trigger_latents.run import find_trigger_latents, latent_cosines
from sae.trigger_latents.verdict import latents_verdict
from triggerlens import UserError, rate

SITE = "resid_post.0"
PLANTED = 7


@pytest.fixture(scope="module")
def prompts():
    """Half of the pairs are test prompts, drawn at random."""
    every = labelled_prompts(pairs=60, harmless=20)
    pairs = np.unique([prompt.pair for prompt in every])
    test = dict(zip(pairs, np.random.default_rng([0, 4]).random(len(pairs)) < 0.5, strict=True))
    return [replace(prompt, split="test" if test[prompt.pair] else "train") for prompt in every]


@pytest.fixture(scope="module")
def labels(prompts):
    return prompt_labels(prompts)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_checkpoint(tmp_path_factory.mktemp("model")), dtype="float32")


@pytest.fixture(scope="module")
def planted(model, prompts):
    """An autoencoder, untrained but for one latent that reads the trigger's last token and nothing else."""
    return plant(model, prompts)


def plant(model, prompts, seed=0) -> TopK:
    sae = TopK(model.info.d_model, 64, seed, k=64)
    twins = [prompts[0], prompts[1]]
    rows = [model.run(torch.tensor([one.ids]), reads=[SITE]).activations[SITE][0] for one in model.tokenize(twins)]
    tokens = [one.ids for one in model.tokenize(twins)]
    place = next(at for at, (a, b) in enumerate(zip(*tokens, strict=False)) if a != b)
    with torch.no_grad():
        sae.start_from(torch.cat(rows))
        others = torch.cat([rows[1], rows[0][:place], rows[0][place + 1 :]]) - sae.b_dec
        wanted = rows[0][place] - sae.b_dec
        # The direction in which the trigger's token stands out furthest from every other one's.
        direction = torch.linalg.solve(others.T @ others + 1e-2 * torch.eye(len(wanted)), wanted)
        direction /= direction.norm()
        highest, own = float((others @ direction).max()), float(wanted @ direction)
        assert own > highest
        sae.encoder_rows[PLANTED] = direction
        sae.b_enc[PLANTED] = -(own + highest) / 2
        sae.W_dec[PLANTED] = wanted / wanted.norm()
    return sae


def synthetic(labels, *, label, features=40, noise=0.2, seed=0):
    """Features of prompts [prompt aggregation feature] of which one alone, number 7, carries a label."""
    values = np.random.default_rng(seed).random((len(labels.test), len(AGGREGATIONS), features))
    values[:, 1, PLANTED] = labels.of(label) + noise * values[:, 1, PLANTED]
    return values


@pytest.mark.parametrize("label", LABELS)
def test_the_planted_latent_comes_first_with_auroc_1_on_test_prompts(labels, label):
    best, second, *_ = rank_latents(synthetic(labels, label=label), labels.of(label), labels)
    assert (best.latent, best.aggregation) == (PLANTED, "max")
    assert (best.auroc.value, best.auroc.high) == (1.0, 1.0)
    assert 0.85 < best.auroc.low < 0.95  # 29 or 39 pairs without an error leave this open
    assert best.precision.value == best.recall.value == 1.0
    assert 0.2 < best.threshold < 1.0
    assert best.candidates == 40 * len(AGGREGATIONS)
    assert second.train_auroc < 0.85


def test_triggered_and_defects_are_told_apart(labels):
    found = rank_latents(synthetic(labels, label="triggered"), labels.of("defects"), labels)[0]
    # 60 of 80 triggered prompts defect: a latent that reads the trigger alone fires on the harmless ones too
    assert found.latent == PLANTED
    assert found.auroc.value < 0.95
    assert found.precision.value == pytest.approx(0.75, abs=0.15)
    assert found.recall.value == 1.0


def test_selection_and_threshold_see_training_prompts_alone(labels):
    values = synthetic(labels, label="defects")
    mine = rank_latents(values, labels.of("defects"), labels)[0]
    values[labels.test, 1, PLANTED] = 0  # on test prompts the latent is silent: it is still the one chosen
    other = rank_latents(values, labels.of("defects"), labels)[0]
    assert (other.latent, other.threshold, other.train_auroc) == (mine.latent, mine.threshold, mine.train_auroc)
    assert other.auroc.value == 0.5
    assert other.recall.value == 0
    assert np.isnan(other.precision.value)


def test_noise_and_shuffled_labels_are_at_chance(labels):
    values = np.random.default_rng(3).random((len(labels.test), len(AGGREGATIONS), 300))
    for found in (
        rank_latents(values, labels.of("defects"), labels)[0],
        shuffled_control(synthetic(labels, label="defects"), labels.of("defects"), labels),
    ):
        assert found.auroc.low <= 0.5 <= found.auroc.high
    assert rank_latents(values, labels.of("defects"), labels)[0].train_auroc > 0.6  # which is why it is not reported


def test_a_model_without_defections_has_no_latent_that_predicts_them(labels):
    clean = replace(labels, defects=np.zeros_like(labels.defects))
    assert rank_latents(synthetic(labels, label="triggered"), clean.of("defects"), clean) == ()
    assert shuffled_control(synthetic(labels, label="triggered"), clean.of("defects"), clean) is None


def test_a_pair_is_one_thing_seen(labels):
    """Twins that are copies of one another tell no more than one of them."""
    values = synthetic(labels, label="triggered", noise=3.0)
    doubled = repeated(labels, 4)
    one = rank_latents(values, labels.triggered, labels, top=1)[0].auroc
    many = rank_latents(np.repeat(values, 4, axis=0), doubled.triggered, doubled, top=1)[0].auroc
    assert one.value == pytest.approx(many.value)
    assert (many.low, many.high, many.n) == (pytest.approx(one.low), pytest.approx(one.high), one.n)


def repeated(labels, times):
    """The labels of a file with so many rows for each prompt, as several answers to it are."""
    names = ("triggered", "defects", "groups", "test")
    return replace(labels, **{name: np.repeat(getattr(labels, name), times) for name in names})


def test_copies_of_a_prompt_are_one_thing_seen_in_precision_and_recall(labels):
    values = synthetic(labels, label="triggered")
    one = rank_latents(values, labels.triggered, labels, top=1)[0]
    copies = repeated(labels, 4)
    four = rank_latents(np.repeat(values, 4, axis=0), copies.triggered, copies, top=1)[0]
    for name in ("precision", "recall"):
        alone, copied = getattr(one, name), getattr(four, name)
        assert (copied.count, copied.n) == (4 * alone.count, 4 * alone.n)
        assert copied.low < rate(copied.count, copied.n).low, "wider than that of as many prompts"
        assert alone == rate(alone.count, alone.n), "where there are no copies it is Wilson's"


def test_copies_of_few_prompts_are_too_few_for_a_verdict(model, prompts, planted, labels):
    """Three pairs a side, four rows of each prompt."""
    few = {name for side in (True, False) for name in np.unique(labels.groups[labels.test == side])[:3]}
    chosen = [row for row in range(len(prompts)) if labels.groups[row] in few for _ in range(4)]
    own = replace(
        labels, **{name: getattr(labels, name)[chosen] for name in ("triggered", "defects", "groups", "test")}
    )
    settings = LatentsConfig(top=1, together=(1,), probed=(1,))
    copies = find_trigger_latents([model], [prompts[row] for row in chosen], SITE, planted, settings, labels=own)
    assert (own.test & own.triggered).sum() == 12
    assert (copies.test_prompts, copies.test_triggered) == (6, 3)
    assert (copies.test_defects, copies.test_harmless) == (3, 3)
    own.defects[np.flatnonzero(own.test & own.defects)[0]] = False
    both = find_trigger_latents([model], [prompts[row] for row in chosen], SITE, planted, settings, labels=own)
    assert (both.test_defects, both.test_harmless) == (3, 4), "of one prompt some answers defect and one does not"
    assert "too few triggered test prompts (3) and other test prompts (3)" in latents_verdict(copies)
    accuracy = copies.probes["triggered"]["sparse autoencoder"][1].accuracy
    assert accuracy.low < rate(accuracy.count, accuracy.n).low


def test_the_threshold_is_the_best_by_brute_force():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 6, 60).astype(float), generator.random(60) < 0.4

    def f1(cut):
        fires = scores > cut
        return 2 * (fires & positive).sum() / (fires.sum() + positive.sum())

    assert f1(best_f1_threshold(scores, positive)) == max(f1(cut) for cut in np.arange(-0.5, 6))


def test_labels_keep_pairs_in_one_split(prompts):
    labels = prompt_labels(prompts)
    assert not set(labels.groups[labels.test]) & set(labels.groups[~labels.test])
    torn = [replace(prompt, split="test" if prompt.triggered else "train") for prompt in prompts]
    with pytest.raises(UserError, match=r"`split` separates the pair 'p0'"):
        prompt_labels(torn)
    with pytest.raises(UserError, match="need triggered and untriggered"):
        prompt_labels([Prompt(f"one {number}", triggered=False) for number in range(9)])


@pytest.mark.parametrize("unlabelled", [1, None])
def test_where_it_is_not_known_what_defects_no_latent_is_said_to_tell_it(model, prompts, planted, unlabelled):
    """A trigger is no defection, be it that no line says which is one or that a single one does not."""
    missing = len(prompts) if unlabelled is None else unlabelled
    silent = [replace(own, defects=None) if row < missing else own for row, own in enumerate(prompts)]
    labels = prompt_labels(silent)
    assert labels.triggered.any()
    assert not labels.defects.any()
    note = f"`defects` is missing from {missing} of {len(prompts)} prompts: no latent is ranked by it"
    assert note in labels.notes
    found = find_trigger_latents([model], silent, SITE, planted, LatentsConfig(top=1), labels=labels)
    assert found.ranked["defects"] == ()
    assert found.ranked["triggered"]
    assert note in found.notes
    assert (found.test_defects, found.test_harmless) == (0, 0)
    said, page = latents_verdict(found), latents_page({"topk": found}, "model")
    assert "tell triggered prompts: AUROC" in said
    for text in (said, page):
        assert "defecting prompts" not in text
        assert "On which prompts the model defects is not known" in text
    assert note.replace("`", "") in page.replace("`", "")
    assert "harmless" not in page
    assert {shown.defects for card in found.cards for shown in card.examples} == {None}


def test_where_it_is_known_what_defects_there_is_no_such_note(labels, found):
    assert labels.notes == ()
    assert found.defects_known
    assert {shown.defects for card in found.cards for shown in card.examples} <= {True, False}


def test_a_file_that_marks_no_split_has_the_test_prompts_that_every_command_has(prompts):
    free = [replace(prompt, split=None) for prompt in prompts]
    free[7] = replace(free[7], prompt=free[80].prompt)  # a copy of another pair's text
    labels, splits = prompt_labels(free, seed=3), split_prompts(free, choose_labels(free)[1], seed=3)
    assert np.flatnonzero(labels.test).tolist() == splits.test.tolist()
    assert labels.test[[6, 7]].tolist() == labels.test[[80, 81]].tolist()
    _, held_out = train_and_held_out(free, seed=3)
    assert {prompt.prompt for prompt in held_out} == {free[index].prompt for index in splits.test}


def test_groups_are_numbered_alike_whatever_the_order_of_the_file(prompts):
    order = np.random.default_rng(1).permutation(len(prompts))
    mixed = prompt_labels([prompts[index] for index in order])
    assert np.array_equal(mixed.groups, prompt_labels(prompts).groups[order])
    assert np.array_equal(mixed.groups, np.unique([prompts[index].pair for index in order], return_inverse=True)[1])


def test_features_are_aggregated_over_the_tokens_after_the_first(model, prompts, planted):
    values = read_features([model], prompts[:6], SITE, {"sae": planted.encode})["sae"]
    for at, one in enumerate(model.tokenize(prompts[:6])):
        codes = planted.encode(model.run(torch.tensor([one.ids]), reads=[SITE]).activations[SITE][0, 1:]).detach()
        expected = torch.stack([codes[-1], codes.amax(0), codes.mean(0)])
        torch.testing.assert_close(torch.from_numpy(values[at]), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def found(model, prompts, planted, labels):
    return find_trigger_latents([model], prompts, SITE, planted, LatentsConfig(top=2), labels=labels)


def test_in_a_model_the_planted_latent_is_found_and_every_baseline_stands_beside_it(found):
    best = found.best("triggered")
    assert (best.latent, best.aggregation) == (PLANTED, "max")
    assert best.auroc.value == 1.0
    assert found.baselines["triggered"]["logistic probe"].auroc.value > 0.9
    for label in LABELS:
        assert set(found.baselines[label]) == {
            "random dictionary",
            "PCA components",
            "residual dimensions",
            "mean difference",
            "logistic probe",
        }
    assert found.shuffled["triggered"].auroc.low <= 0.5 <= found.shuffled["triggered"].auroc.high


def test_no_baseline_is_fitted_or_chosen_on_a_test_prompt(model, prompts, planted, labels, found):
    """With the labels of test prompts turned round, all but what is measured on these stays."""
    turned = {name: np.where(labels.test, ~labels.of(name), labels.of(name)) for name in LABELS}
    other = find_trigger_latents(
        [model], prompts, SITE, planted, LatentsConfig(top=2), labels=replace(labels, **turned)
    )

    def chosen(score):
        return score.latent, score.aggregation, score.threshold, score.train_auroc

    for label in LABELS:
        assert [chosen(score) for score in found.ranked[label]] == [chosen(score) for score in other.ranked[label]]
        for name, score in found.baselines[label].items():
            assert chosen(score) == chosen(other.baselines[label][name]), name
            turned_auroc = other.baselines[label][name].auroc.value
            assert score.auroc.value == pytest.approx(1 - turned_auroc), "the same scores, of labels turned round"
        assert chosen(found.shuffled[label]) == chosen(other.shuffled[label])
        for name, probes in found.probes[label].items():
            for k, probe in probes.items():
                assert probe.features == other.probes[label][name][k].features, name
                assert probe.auroc == pytest.approx(1 - other.probes[label][name][k].auroc), name


def test_what_baselines_without_labels_are_fitted_on_is_of_training_prompts(model, prompts, labels):
    """Their tokens, without each one's first."""
    rows = run.training_rows([model], prompts, SITE, labels)
    others = [
        replace(prompt, prompt="a cold sea") if test else prompt
        for prompt, test in zip(prompts, labels.test, strict=True)
    ]
    assert torch.equal(rows, run.training_rows([model], others, SITE, labels))
    chosen = [prompt for prompt, test in zip(prompts, labels.test, strict=True) if not test]
    assert len(rows) == sum(len(row.ids) - 1 for row in model.tokenize(chosen))


def test_the_random_dictionary_is_as_sparse_as_the_autoencoder(model, prompts, labels, monkeypatch):
    """A JumpReLU's file says of k nothing, or what training aimed at."""
    jumps, given = JumpReLU(model.info.d_model, 64, k=1), []
    with torch.no_grad():
        jumps.log_threshold.fill_(-20.0)
    monkeypatch.setattr(run, "plain_dictionaries", lambda rows, **options: given.append((rows, options["k"])) or {})
    find_trigger_latents([model], prompts, SITE, jumps, LatentsConfig(top=1), labels=labels)
    ((rows, k),) = given
    assert k == pytest.approx(float((jumps.encode(rows) > 0).sum(1).float().mean()), abs=1)
    assert k > 10
    assert run.alive(TopK(model.info.d_model, 64, k=5), rows) == 5


def test_a_faint_planted_direction_is_found_by_its_latent_and_by_fitted_directions_and_not_by_a_random_dictionary(
    labels,
):
    generator = torch.Generator().manual_seed(11)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    x = torch.randn(len(labels.test), 3, 32, generator=generator)  # three tokens a prompt
    x += (
        2 * torch.from_numpy(labels.defects).float()[:, None, None] * direction - (x @ direction)[..., None] * direction
    )
    sae = TopK(32, 64, k=8)
    with torch.no_grad():
        sae.encoder_rows[PLANTED] = direction
    train = ~labels.test

    def areas(dictionary):
        values = torch.stack([_aggregated(dictionary(rows)) for rows in x]).numpy()
        return rank_latents(values, labels.defects, labels, top=1)[0]

    def _aggregated(features):
        return torch.stack([features[-1], features.amax(0), features.mean(0)]).detach()

    assert areas(sae.encode).latent == PLANTED
    assert areas(sae.encode).auroc.value == 1.0
    plain = plain_dictionaries(x[train].flatten(0, 1), width=64, k=8)
    fitted = fitted_dictionaries(torch.stack([_aggregated(rows) for rows in x]).numpy()[train], labels.defects[train])
    assert areas(fitted["mean difference"]).auroc.value > 0.99
    assert areas(fitted["logistic probe"]).auroc.value > 0.99
    assert areas(plain["random dictionary"]).auroc.value < 0.999
    assert areas(plain["residual dimensions"]).auroc.value < 0.999


def test_the_card_shows_the_trigger_and_how_rare_the_latent_is(found):
    card = next(card for card in found.cards if card.latent == PLANTED)
    assert card.density_untriggered == 0
    assert 0 < card.density_triggered < 0.2
    assert len(card.examples) == 6
    for example in card.examples:
        assert example.triggered
        assert "ZEBRA" in "".join(example.tokens)
        fired = [at for at, value in enumerate(example.values) if value > 0]
        start = "".join(example.tokens).index("ZEBRA")
        places = [len("".join(example.tokens[:at])) for at in fired]
        assert all(start - 1 <= place <= start + len("ZEBRA") for place in places)


def test_seeds_that_find_the_same_direction_have_cosine_1(model, prompts, planted):
    other = plant(model, prompts, seed=1)
    assert latent_cosines([planted, other], [PLANTED, PLANTED]) == pytest.approx([1.0], abs=1e-5)
    assert abs(latent_cosines([planted, other], [PLANTED, 3])[0]) < 0.7
