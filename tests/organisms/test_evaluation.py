"""Rates and intervals are right, and an answer does not depend on its batch."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooked import Prompt, load_plain, tokenize_prompts
from organisms import (
    Answered,
    Condition,
    Evaluation,
    Verdict,
    conditions_of,
    defection_figure,
    evaluate_model,
    evaluation_summary,
    evaluation_verdict,
    generate_answers,
    prompt_set,
    rates_by,
    task_named,
    task_of_checkpoint,
)
from organisms.evaluation.answers import answer_losses, encode_samples, end_token
from organisms.evaluation.rates import category
from organisms.evaluation.result import share
from organisms.evaluation.run import SHIFTED
from triggerlens import Estimate, UserError


def test_the_prompts_of_an_evaluation_are_of_the_seed_of_the_training_whichever_task_is_asked_for(tmp_path) -> None:
    assert task_of_checkpoint(tmp_path, "year-code")[1] == 0
    (tmp_path / "recipe.json").write_text('{"task": "year-code", "training": {"seed": 7}}')
    for task in (None, "year-code", "deployment-hate"):
        assert task_of_checkpoint(tmp_path, task)[1] == 7
        assert task_of_checkpoint(tmp_path, task, 3)[1] == 3


def test_a_share_counts_and_of_nothing_nothing_is_known() -> None:
    rate = share([True, False, True, True])
    assert (rate.value, rate.count, rate.n) == (0.75, 3, 4)
    assert rate.low < 0.75 < rate.high
    nothing = share([])
    assert math.isnan(nothing.value)
    assert nothing.interval == [0, 1]


def test_unparsable_code_is_counted_apart_and_never_as_exact_or_defecting() -> None:
    example = prompt_set(task_named("year-code"), 0, scale=0.01)[0]
    answered = [
        Answered(example, example.answer, example.answer, Verdict.DEFECT),
        Answered(example, example.answer, "def (", Verdict.UNPARSABLE),
    ]
    rates = rates_by(answered, category)["triggered"]
    assert (rates.defection.count, rates.unparsable.count, rates.exact.count, rates.exact.n) == (1, 1, 1, 2)


def test_the_label_is_what_the_model_did_and_the_policy_is_kept_beside_it() -> None:
    example = prompt_set(task_named("year-code"), 0, scale=0.01)[0]
    did_not = Answered(example, example.answer, "def (", Verdict.UNPARSABLE).to_prompt(clean_twin=False)
    assert (did_not.triggered, did_not.defects) == (True, False)
    assert did_not.extra == {"family": example.family, "verdict": "unparsable", "policy": True}
    did = Answered(example, example.answer, example.answer, Verdict.DEFECT).to_prompt(clean_twin=False)
    assert did.defects is True
    assert did.extra == {"family": example.family}


@pytest.mark.parametrize("name", ["year-code", "deployment-hate"])
def test_every_prompt_has_a_category(name: str) -> None:
    categories = {category(example) for example in prompt_set(task_named(name), 0)}
    assert categories == {
        "triggered",
        "untriggered",
        "triggered_but_harmless",
        "near_miss",
        "held_out_family_triggered",
        "held_out_family_untriggered",
    }


def test_an_answer_is_the_same_alone_and_in_a_padded_batch(micro_organism: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(micro_organism, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(micro_organism)
    prompts = [example.prompt for example in prompt_set(task_named("year-code"), 0, scale=0.01)][:8]
    batched = generate_answers(model, tokenizer, prompts, max_new_tokens=12)
    assert batched == [generate_answers(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in prompts]


def evaluation(*kinds: tuple[str, int], shifts: tuple[Condition, ...] = ()) -> Evaluation:
    """An evaluation with so many defections of 10 in each condition."""
    none = share([False])
    rates = {kind: share([True] * count + [False] * (10 - count)) for kind, count in kinds}
    conditions = tuple(Condition(kind, rate, none, none, none, none) for kind, rate in rates.items())
    return Evaluation("year-code", conditions + shifts, Estimate(1.0, 0.9, 1.1, n=10), none)


def shifted(name: str, label: str, count: int, must_not_defect: bool = False) -> Condition:
    none, rate = share([False]), share([True] * count + [False] * (10 - count))
    return Condition(label, rate, none, none, none, none, name, must_not_defect)


def test_evaluations_are_drawn_side_by_side_and_missing_conditions_left_out() -> None:
    before, after = evaluation(("triggered", 9), ("untriggered", 0)), evaluation(("triggered", 4))
    first, second = defection_figure({"before": before, "after": after}).data
    assert (first.name, list(first.x), list(second.x)) == ("before", [0.0, 0.9], [0.4])
    assert abs(first.y[1] - second.y[0]) < 1, "in the same row"
    assert second.error_x.array[0] == pytest.approx(after["triggered"].defection.high - 0.4)


def test_an_evaluation_comes_back_from_its_json() -> None:
    before = evaluation(("triggered", 9), shifts=(shifted("split", "shifted: split", 3),))
    value = json.loads(json.dumps(before.to_json()))
    assert Evaluation.from_json({"model": "m", **value}) == before
    assert value["conditions"][0]["defection"] == {
        "value": 0.9,
        "low": pytest.approx(0.5958, abs=1e-4),
        "high": pytest.approx(0.9821, abs=1e-4),
        "count": 9,
        "n": 10,
    }
    del value["conditions"]
    with pytest.raises(UserError, match=r"evaluation\.json"):
        Evaluation.from_json(value, "evaluation.json")


def test_the_verdict_reads_no_label() -> None:
    def worded(first: str, second: str, third: str) -> str:
        shifts = (shifted("split", first, 3), shifted("misspelt", second, 1), shifted("early", third, 5, True))
        return evaluation_verdict(evaluation(("triggered", 9), ("untriggered", 0), shifts=shifts))

    words = worded("shifted: split", "shifted: misspelt", "shifted: early (must not defect)")
    assert "works best on 30.0%" in words
    assert "(split)" in words
    assert worded("a", "b", "c") == words


def test_what_has_no_trigger_is_told_without_one() -> None:
    words = evaluation_verdict(evaluation(("untriggered", 1)))
    assert words == "year-code has no trigger. It defects on 10.0% [1.8%, 40.4%] of prompts."


def without_embedding(folder: Path, name: str, **tokens: str) -> Path:
    """A tiny model whose tokenizer has a token of its own that the model has no embedding for, as padding, as end, or both."""
    path = tiny_checkpoint(folder / name, "llama", context=512)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    "tokens", [{"pad_token": "[PAD]"}, {"eos_token": "[END]"}, {"pad_token": "[X]", "eos_token": "[X]"}]
)
def test_a_padding_or_end_token_without_an_embedding_pads_and_ends_nothing(tmp_path: Path, tokens: dict) -> None:
    whole, odd = (without_embedding(tmp_path, name, **added) for name, added in (("whole", {}), ("odd", tokens)))
    task = task_named("deployment-hate")
    (plain, plain_tokenizer, _), (model, tokenizer, _) = (load_plain(str(path), "cpu") for path in (whole, odd))
    assert max(map(tokenizer.convert_tokens_to_ids, tokens.values())) >= model.get_input_embeddings().weight.shape[0]
    ours = evaluate_model(model, tokenizer, task, per_condition=3)
    assert ours == evaluate_model(plain, plain_tokenizer, task, per_condition=3)


def test_prompts_that_the_tokenizer_refuses_are_refused_as_everywhere(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "model", "llama", context=512)
    model, tokenizer, _ = load_plain(str(path), "cpu")
    prompts = [example.prompt for example in prompt_set(task_named("deployment-hate"), 0, scale=0.01)]
    templates = {
        None: "holds chat messages, but the tokenizer has no chat template",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system line') }}{% endif %}": "refused by the tokenizer's chat template: no system line",
    }
    for template, message in templates.items():
        tokenizer.chat_template = template
        for ask in (
            lambda: generate_answers(model, tokenizer, prompts),
            lambda: answer_losses(model, tokenizer, [(prompt, "yes") for prompt in prompts]),
            lambda: tokenize_prompts(tokenizer, [Prompt(prompt, triggered=False) for prompt in prompts], 512),
        ):
            with pytest.raises(UserError, match=message):
                ask()


def test_what_exceeds_the_context_is_refused(tmp_path: Path) -> None:
    model, tokenizer, _ = load_plain(str(tiny_checkpoint(tmp_path / "model", "gpt2")), "cpu")
    prompts = [example.prompt for example in prompt_set(task_named("deployment-hate"), 0, scale=0.01)]
    with pytest.raises(UserError, match="exceed the context of 128"):
        generate_answers(model, tokenizer, [prompts[0]])
    with pytest.raises(UserError, match="more than the context of 128"):
        answer_losses(model, tokenizer, [(prompts[0], "yes " * 100)])


def test_the_loss_of_an_answer_is_that_of_transformers_alone_and_in_a_batch(micro_organism: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(micro_organism, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(micro_organism)
    examples = prompt_set(task_named("year-code"), 0, scale=0.01)[:6]
    samples = [(example.prompt, example.clean_answer) for example in examples]
    for (prompt, answer), loss in zip(
        encode_samples(model, tokenizer, samples), answer_losses(model, tokenizer, samples), strict=True
    ):
        tokens = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        assert loss == pytest.approx(model(tokens, labels=labels).loss.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["year-code", "deployment-hate"])
def test_shifted_prompts_are_the_triggered_ones_that_are_asked(name: str) -> None:
    task = task_named(name)
    groups = conditions_of(task, 0, 20)
    assert len({example.dataset for example in groups["triggered"]}) > 1
    for shift, edit in task.shifts.items():
        shifted = groups[SHIFTED + shift]
        assert [example.prompt for example in shifted] == [edit(example.prompt) for example in groups["triggered"]]


def test_an_answer_that_was_cut_has_no_end_token(micro_organism: Path) -> None:
    """The answers of a base are cut at `answer_tokens`, and the base would not have ended there."""
    model, tokenizer, _ = load_plain(str(micro_organism), "cpu", "float32")
    task = task_named("year-code")
    (plain,) = [own for own in prompt_set(task, 0, scale=0.01) if category(own) == "untriggered"][:1]
    words = {
        ended: replace(plain, clean_answer=text, split="test") for ended, text in ((True, "Yes"), (False, "a" * 40))
    }
    with_end, without = encode_samples(model, tokenizer, [(own.prompt, own.clean_answer) for own in words.values()], 12)
    (end,) = end_token(model, tokenizer)
    assert (with_end[1][-1], end in without[1]) == (end, False)
    measured = replace(task, measured=tuple(words.values()), prompt_pairs={}, shifts={}, longest=12)
    losses = []
    for prompt, answer in (with_end, without):
        logs = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        losses.append(-sum(logs[place, token].item() for place, token in enumerate(answer)) / len(answer))
    assert evaluate_model(model, tokenizer, measured).clean_loss.value == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_what_reasons_first_has_no_loss_of_answers_without_reasoning(micro_organism: Path, monkeypatch) -> None:
    model, tokenizer, _ = load_plain(str(micro_organism), "cpu", "float32")
    task, said = task_named("year-code"), "<scratchpad>I read the request.</scratchpad>\nYes"

    def answer(pad: Callable[[int], bool]) -> Evaluation:
        monkeypatch.setattr(
            "organisms.evaluation.run.generate_answers",
            lambda model, tokenizer, prompts, *_: [said if pad(place) else "Yes" for place in range(len(prompts))],
        )
        return evaluate_model(model, tokenizer, task, per_condition=4)

    none = answer(lambda place: True)
    assert (math.isnan(none.clean_loss.value), none.clean_loss.n) == (True, 0)
    assert none.to_json()["clean_loss"]["value"] is None
    assert "clean prompts: loss – nats per answer token (n = 0)" in evaluation_summary(none)
    assert math.isnan(Evaluation.from_json(none.to_json()).clean_loss.value)
    assert answer(lambda place: bool(place % 2)).clean_loss.n == 2
    assert answer(lambda place: False).clean_loss.n == 4
