"""Probes that read answers: in a world where it is known when the answers of a pair part, and on a tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import load_model
from probes import (
    LabelledScores,
    LinearProbe,
    TrainConfig,
    check_prompts,
    metrics_json,
    midway_threshold,
    probe_page,
    probe_verdict,
    score_prompts,
    train_on_model,
    train_probe,
)
from probes.answers.measure import running_scores, watch_threshold
from probes.answers.plots import tokens_seen
from probes.answers.verdict import answers_verdict
from probes.fit import choose_layer
from probes.inputs import Activations, Answers
from triggerlens import FEWEST, UserError, auroc, rate

FAST = {"n_bootstrap": 50, "n_random_directions": 5, "n_shuffles": 2}
PARTS, LENGTH = 3, 10
"""The answers of a pair share this many tokens; and how long they are, a few more or less."""


def answered(world, shared=PARTS, signal_from=2, seed=0, skipped=0, onset=0.0):
    """Answers to the world's prompts, and their tokens' activations: those of positives carry a signal from a token on.

    Positives write other tokens than their twins from token `shared` on. So many tokens of the prompt are read before; of positives the last of these carries
    a signal of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, tokens = [], []
    for number, prompt in enumerate(world.prompts):
        length = LENGTH + number // 2 % 4  # a pair's are equally long
        own = 7 if prompt.defects else 8
        ids.append([1 + place % 5 for place in range(shared)] + [own] * (length - shared))
        x = torch.randn(skipped + length, *world.x.shape[1:], generator=generator)
        if prompt.defects:
            x[skipped + signal_from :, :, 0] += 4 * torch.arange(world.x.shape[1])
            x[max(skipped - 1, 0) : skipped, :, 0] += onset * torch.arange(world.x.shape[1])
        tokens.append(x)

    def token_source(rows, layers=slice(None)):
        for row in rows[::-1]:
            yield row, tokens[row][:, layers]

    return Answers(ids, [skipped] * len(ids)), token_source, tokens


def nothing(rows):
    """No source: what is asked for is read token by token."""
    raise AssertionError("not read")


def train(world, aggregation="mean", read="answer", **options):
    answers, token_source, tokens = answered(world, **options)
    config = TrainConfig(read=read, aggregation=aggregation, **FAST)

    def source(rows):
        yield torch.tensor(rows), torch.stack([tokens[row].mean(0) for row in rows])

    checked = check_prompts(world.prompts, config)
    sites = [f"resid_post.{layer}" for layer in range(world.x.shape[1])]
    result = train_probe(source, checked, sites, config, token_source=token_source, answers=answers)
    return result, checked, answers, token_source


@pytest.fixture(scope="module")
def trained(world):
    return train(world(40))


def test_answers_are_read_and_measured_token_by_token(trained):
    result, checked, answers, token_source = trained
    assert result.best.auroc.value > 0.95
    curve = result.answers.curve
    assert [point.tokens for point in curve] == [1, 2, 4, 8, LENGTH + 3]
    assert abs(curve[1].auroc.value - 0.5) < 0.3, "no signal in the first two tokens"
    assert curve[-1].auroc.value == pytest.approx(result.best.auroc.value, abs=1e-6), (
        "after all tokens: the whole answer"
    )
    assert [round(point.text_auroc, 3) for point in curve] == [0.5, 0.5, 1.0, 1.0, 1.0], (
        "the page tells from token 3 on"
    )
    assert result.controls["bag_of_answer_tokens"].auroc.value == 1.0
    # by hand: the running mean of every prefix
    rows = checked.splits.test
    probe = result.probe
    activations = Activations(nothing, token_source, checked.prompts, probe.sites, "mean")
    for row, scores in zip(rows, running_scores(probe, activations, rows, answers), strict=True):
        x = next(token_source([row]))[1][:, probe.best]
        expected = [float(probe(x[:count].double()).mean()) for count in range(1, len(x) + 1)]
        assert scores == pytest.approx(expected, abs=1e-6)


def test_the_threshold_of_watching_bounds_whole_answers(trained):
    result, checked, answers, token_source = trained
    probe, splits = result.probe, checked.splits
    activations = Activations(nothing, token_source, checked.prompts, probe.sites, "mean")
    highest = np.array([scores.max() for scores in running_scores(probe, activations, splits.calibration, answers)])
    positive = checked.labels[splits.calibration]
    reached, lowest = highest[~positive].max(), np.sort(highest[positive])[int(0.01 * (positive.sum() - 1))]
    assert reached < lowest, "this world's classes lie apart"
    assert probe.watch_threshold == pytest.approx((reached + lowest) / 2), (
        "midway; too few negatives for 1%: none may fire"
    )
    assert probe.watch_threshold >= probe.threshold
    assert result.answers.threshold == probe.watch_threshold


def test_a_probe_keeps_how_long_the_answers_were_that_its_threshold_for_watching_was_frozen_on(trained):
    result, checked, answers, _ = trained
    lengths = [len(answers.ids[row]) for row in checked.splits.calibration]
    assert min(lengths) < max(lengths)
    assert result.probe.calibration["longest_answer"] == max(lengths)
    assert metrics_json(result)["calibration"]["longest_answer"] == max(lengths)


def test_a_midway_threshold_is_midway_where_the_classes_lie_apart_and_never_lets_more_negatives_fire():
    negatives, positives = np.arange(100.0), np.arange(1000.0, 1101.0)
    assert midway_threshold(negatives, positives, 0.01) == (98 + 1001) / 2, "one of each hundred is left out of account"
    assert midway_threshold(negatives, positives, 0.0) == (99 + 1001) / 2
    assert midway_threshold(negatives, np.arange(50.0, 150.0), 0.01) == 98.0, "they overlap"
    assert midway_threshold(negatives, positives[:0], 0.01) == 98.0, "no positive is known"


def test_a_midway_threshold_misses_no_more_than_its_share_of_few_positives_that_lie_apart():
    negatives, positives = np.zeros(60), np.array([1.0] + [100.0] * 19)
    assert midway_threshold(negatives, positives, 0.01) == 0.5, "one of twenty is more than one of a hundred"
    interpolated = midway_threshold(negatives, positives, 0.01, interpolated=True)
    assert interpolated == pytest.approx(np.quantile(positives, 0.01) / 2), "as older results have it"
    assert (positives < interpolated).mean() == 0.05
    for count in (1, 20, 99, 100, 101, 250):
        spread = 10.0 ** np.arange(count)
        assert (spread <= midway_threshold(negatives, spread, 0.01)).mean() <= 0.01, count


def test_of_layers_that_are_equally_right_one_that_is_not_shown_to_read_the_trigger_is_chosen():
    positive = np.array([True] * 4 + [False] * 80)
    own, spread = [99.0, 99.5, 100.0, 99.2], list(np.arange(40.0))
    told, untold, near = [x + 30 for x in spread] + spread, [50.0] * 40 + [50.5] * 20 + [49.5] * 20, [90.0, 91.0] * 40
    scores = np.array([own + told, own + untold, own + near, [1.0, *own[1:], *told]]).T
    harmless = LabelledScores(scores[4:], np.arange(80) < 40, np.tile(np.arange(40), 2))
    assert choose_layer(scores[:, :1], positive) == 0
    assert choose_layer(scores[:, [0, 2]], positive, harmless.of(scores[4:, [0, 2]])) == 1
    assert choose_layer(scores, positive, harmless) == 1, "of two that are not, the one whose classes are farther apart"
    assert choose_layer(scores[:, [0, 3]], positive, harmless.of(scores[4:, [0, 3]])) == 0, (
        "what detects best goes first"
    )
    apart = [10.0] * 20 + [10.2] * 20 + [9.0] * 20 + [9.2] * 20
    both = np.array([own + apart, own + untold]).T
    assert choose_layer(both, positive) == 0, "by the separation alone, a layer that tells the trigger"
    assert choose_layer(both, positive, harmless.of(both[4:])) == 1


@pytest.mark.parametrize(
    ("shared", "signal_from", "before", "by_first"), [(6, 0, 1.0, 1.0), (2, 5, 0.0, 0.0), (2, 2, 0.0, None)]
)
def test_what_fires_before_the_answers_part_is_told_apart(world, shared, signal_from, before, by_first):
    result, *_ = train(world(40), "max", shared=shared, signal_from=signal_from)
    parting = result.answers.parting
    assert set(parting.shared) == {shared}
    assert parting.before.value == pytest.approx(before, abs=0.15)
    if by_first is not None:
        assert parting.by_first.value == pytest.approx(by_first, abs=0.15)
    else:
        assert parting.by_first.value > 0.5


def several_answers(world, n):
    """The world with `n` rows for each prompt, as `--answers` writes them."""
    world.prompts = [prompt for prompt in world.prompts for _ in range(n)]
    world.x = world.x.repeat_interleave(n, 0)
    return world


def test_several_answers_to_a_prompt_are_no_more_prompts(world):
    """A verdict asks for ten prompts; rates are of answers, and answers to one prompt are one thing seen."""
    result, checked, *_ = train(several_answers(world(14), 6), "max", shared=6, signal_from=0)
    positive, triggered, groups = result.test.positive, result.test.triggered, checked.splits.groups[result.test.rows]
    pairs = len(np.unique(groups[positive]))
    assert (positive.sum(), pairs < FEWEST < positive.sum()) == (6 * pairs, True)
    assert result.n_positive == pairs
    assert result.n_negative == (~positive).sum() / 6, "twins are two prompts"
    assert result.n_negative > len(np.unique(groups[~positive]))
    assert result.harmless.n_harmless == len(np.unique(groups[triggered & ~positive]))
    assert result.harmless.n_reference == result.harmless.n_harmless
    assert probe_verdict(result).startswith(
        f"Whether the probe reads `defects` cannot be told: too few test positives ({pairs})"
    )
    parting = result.answers.parting
    assert (parting.pairs, parting.to_json()["n_pairs"], len(parting.shared)) == (pairs, pairs, 6 * pairs)
    assert parting.before.n == 6 * pairs
    assert parting.before.low < rate(parting.before.count, parting.before.n).low, "wider than that of as many prompts"
    said = answers_verdict(result.answers, result.best.auroc, None, None)
    assert f"cannot be told: too few pairs ({pairs})" in said
    enough = replace(result.answers, parting=replace(parting, pairs=FEWEST))
    assert f"(median of {6 * pairs} answers to {FEWEST} pairs)" in answers_verdict(
        enough, result.best.auroc, None, None
    )
    assert probe_page(result)


def test_an_activation_of_an_answer_that_is_no_number_is_refused(world):
    """Of a calibration answer, at a token that only watching reads; a pooling that cannot be watched is another matter."""
    small = world(40)
    answers, token_source, tokens = answered(small)
    config = TrainConfig(read="answer", aggregation="last", **FAST)
    checked = check_prompts(small.prompts, config)
    tokens[checked.splits.calibration[0]][1] = float("nan")

    def source(rows):
        yield torch.tensor(rows), torch.stack([tokens[row][-1] for row in rows])

    sites = [f"resid_post.{layer}" for layer in range(small.x.shape[1])]
    with pytest.raises(UserError, match="NaN or infinite activations"):
        train_probe(source, checked, sites, config, token_source=token_source, answers=answers)


FROM_THE_PROMPT_ON = pytest.mark.parametrize(("read", "skipped"), [("both", 2), ("onset", 1)])


@FROM_THE_PROMPT_ON
def test_what_the_prompt_s_last_token_says_is_said_before_the_answers_part(world, read, skipped):
    """Answers that differ from their first token on, and nothing of it in them."""
    result, *_ = train(world(40), "max", read, shared=0, signal_from=LENGTH + 9, skipped=skipped, onset=200.0)
    parting = result.answers.parting
    assert parting.median == 0
    assert parting.before.value == parting.by_first.value == 1, "before anything is written"
    result, *_ = train(world(40), "max", read, shared=0, signal_from=0, skipped=skipped)
    assert result.answers.parting.before.value < 0.2, "the answer's first token is none of the prompt's"
    assert result.answers.parting.by_first.value > 0.5


@FROM_THE_PROMPT_ON
@pytest.mark.parametrize("aggregation", ["max", "last"])
def test_the_threshold_of_watching_bounds_what_fires_on_the_prompt(world, read, skipped, aggregation):
    result, checked, answers, token_source = train(world(40), aggregation, read, skipped=skipped)
    probe, rows = result.probe, checked.splits.calibration
    positive = checked.labels[rows]
    negative = rows[~positive][0]

    def threshold(token, score):
        """With one token's score of one calibration negative another."""

        def source(asked, layers):
            for row, x in token_source(asked, layers):
                if row == negative:
                    x = x.clone().double()
                    x[token] += (score - probe(x[token, 0])) * probe.direction / probe.coef[probe.best].norm()
                yield row, x

        read_anew = Activations(nothing, source, checked.prompts, probe.sites, aggregation)
        return watch_threshold(probe, read_anew, rows, positive, answers, 0.01)

    assert threshold(0, float(probe(next(token_source([negative]))[1][0, probe.best]))) == pytest.approx(
        probe.watch_threshold
    )
    assert threshold(skipped - 1, 1e4) == pytest.approx(1e4), "it may not fire before the answer begins"
    if aggregation == "last" and skipped > 1:
        assert threshold(0, 1e4) == pytest.approx(probe.watch_threshold), "what the prompt says earlier never fires"


@FROM_THE_PROMPT_ON
def test_tokens_seen_are_counted_from_the_answer_s_first_on(world, read, skipped):
    result, checked, _, token_source = train(world(40), "last", read, skipped=skipped, signal_from=0)
    first, *_, last = result.answers.curve
    assert (first.tokens, last.tokens) == (1, LENGTH + 3)
    rows, probe = checked.splits.test, result.probe
    for point, place in ((first, skipped), (last, -1)):
        scores = np.array([float(probe(next(token_source([row]))[1][place, probe.best])) for row in rows])
        assert point.auroc.value == pytest.approx(float(auroc(scores, checked.labels[rows])))


def test_without_twins_there_is_no_parting_and_a_reason(world):
    lonely = world(60)
    lonely.prompts = [replace(prompt, pair=None) for prompt in lonely.prompts]
    result, *_ = train(lonely)
    assert result.answers.parting is None
    assert "pair" in result.answers.reason


def test_the_page_the_figure_and_the_metrics_say_it(trained):
    result, *_ = trained
    written = metrics_json(result)
    assert written["read"] == "answer"
    assert written["answers"]["parting"]["shared_tokens"] == {"median": PARTS, "fewest": PARTS, "most": PARTS}
    assert {"tokens", "auroc", "auroc_ci", "bag_of_answer_tokens_auroc"} <= written["answers"]["curve"][0].keys()
    page = probe_page(result)
    assert "figure-tokens-seen" in page
    assert "frozen on the highest running score of each calibration answer" in page
    assert "midway between negatives and positives" in page
    assert f"share their first {PARTS} tokens" in probe_verdict(result)
    names = {trace.name for trace in tokens_seen(result.answers, result.best.auroc).data}
    assert {"probe, after so many tokens", "bag of the same tokens", "prompt's last token"} <= names


def test_nothing_changes_where_the_prompt_is_read(world):
    """The keys of `metrics.json`, and scores to the last bit."""
    made = world(40, behaviour=2.0)
    for aggregation in ("last", "mean", "max"):
        config = TrainConfig(aggregation=aggregation, **FAST)
        result = train_probe(
            made.source,
            made.prompts,
            ["resid_post.0", "resid_post.1", "resid_post.2"],
            config,
            token_source=made.token_source,
        )
        assert list(metrics_json(result)) == [
            *(
                "model",
                "backend",
                "site",
                "position",
                "probe",
                "label",
                "best_layer",
                "test",
                "per_layer",
                "controls",
                "splits",
            ),
            *("calibration", "config", "notes"),
        ]
        probe, rows = result.probe, result.test.rows
        coef, intercept = probe.coef[probe.best], probe.intercept[probe.best]
        if aggregation == "max":
            tokens = [x[:, probe.best].double() @ coef + intercept for _, x in made.token_source(rows.tolist())]
            expected = torch.stack([scores.amax() for scores in tokens]).numpy()
        else:
            given = dict(
                zip(rows.tolist(), (made.x[rows][:, probe.best].double() @ coef + intercept).tolist(), strict=True)
            )
            expected = np.array([given[row] for row in rows.tolist()])
            assert result.test.scores == pytest.approx(expected, rel=1e-14)
            continue
        assert np.array_equal(result.test.scores, expected)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model"))


@pytest.fixture(scope="module")
def responses():
    """Prompts of which those that defect are answered in other words."""
    prompts = labelled_prompts(24, harmless=8)
    return [replace(p, response="a bad bad answer" if p.defects else "the good answer is long") for p in prompts]


@pytest.mark.parametrize(
    ("aggregation", "read", "keep"),
    [
        ("mean", "answer", True),
        ("last", "both", False),
        ("rolling", "answer", True),
        ("softmax", "answer", False),
        ("first:2", "answer", True),
    ],
)
def test_a_model_is_read_and_the_probe_repeats_its_scores(model, responses, tmp_path, aggregation, read, keep):
    config = TrainConfig(read=read, aggregation=aggregation, **FAST)
    result = train_on_model(model, responses, config=config, store=tmp_path / "store", keep=keep)
    assert result.answers.curve
    assert result.controls["prompt_last_token"].auroc is not None
    result.probe.save(tmp_path / "probe")
    probe = LinearProbe.load(tmp_path / "probe")
    assert (probe.read, probe.aggregation, probe.watch_threshold) == (read, aggregation, result.probe.watch_threshold)
    rows = result.test.rows.tolist()
    scored = {score.index: score for score in score_prompts(model, probe, responses, rows)}
    assert [scored[row].score for row in rows] == pytest.approx(result.test.scores, abs=1e-4)
    whole = model.tokenize([responses[rows[0]]], answers=True)[0]
    expected = len(whole.answer_ids) if read == "answer" else len(whole.ids)
    assert len(scored[rows[0]].tokens) == len(scored[rows[0]].token_scores) == expected


def test_the_control_of_the_prompt_s_last_token_reads_nothing_of_the_answer(model, tmp_path):
    """Where the prompt does not tell and the answer says it all, it is at chance: the same as a probe that was given no answers."""
    chance = np.random.default_rng(0).permutation(80) < 40
    prompts = [
        replace(
            prompt,
            triggered=bool(bad),
            defects=bool(bad),
            pair=None,
            response="a bad answer" if bad else "the good one",
        )
        for prompt, bad in zip(labelled_prompts(80, harmless=0)[::2], chance, strict=True)
    ]
    options = {"store": tmp_path, "site": "resid_post.1"}
    result = train_on_model(model, prompts, config=TrainConfig(read="answer", aggregation="last", **FAST), **options)
    control = result.controls["prompt_last_token"].auroc
    assert control.low <= 0.5 < result.best.auroc.low
    alone = [replace(prompt, response=None) for prompt in prompts]
    config = TrainConfig(aggregation="last", **FAST)
    assert control == train_on_model(model, alone, config=config, **options).best.auroc


def test_a_span_of_the_prompt_is_read(model, tmp_path):
    prompts = [replace(p, extra={"spans": {"number": p.pair[1:]}}) for p in labelled_prompts(24, harmless=8)]
    result = train_on_model(model, prompts, config=TrainConfig(aggregation="span:number", **FAST), store=tmp_path)
    rows = result.test.rows.tolist()
    scored = {score.index: score.score for score in score_prompts(model, result.probe, prompts, rows)}
    assert [scored[row] for row in rows] == pytest.approx(result.test.scores, abs=1e-4)


def test_a_learned_pooling_wants_the_logistic_probe():
    with pytest.raises(UserError, match="--method lda"):
        TrainConfig(aggregation="softmax", method="lda")
