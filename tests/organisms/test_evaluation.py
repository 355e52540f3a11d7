"""Rates and intervals are right, and an answer does not depend on its batch."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from organisms import (
    Answered,
    Condition,
    Evaluation,
    Rate,
    Verdict,
    defection_figure,
    generate_answers,
    prompt_set,
    rates_by,
    task_named,
)
from organisms.evaluation.evaluate import category
from organisms.evaluation.run import Loss


def test_a_rate_counts_and_needs_a_sample() -> None:
    rate = Rate.of([True, False, True, True])
    assert (rate.rate, rate.count, rate.n) == (0.75, 3, 4)
    assert rate.low < 0.75 < rate.high
    with pytest.raises(ValueError, match="at least one sample"):
        Rate.of([])


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


def test_evaluations_are_drawn_side_by_side_and_missing_conditions_left_out() -> None:
    def evaluation(*kinds):
        rates = {kind: Rate.of([True] * count + [False] * (10 - count)) for kind, count in kinds}
        none = Rate.of([False])
        conditions = tuple(Condition(kind, rate, none, none, none, none) for kind, rate in rates.items())
        return Evaluation("year-code", conditions, Loss(1.0, 0.9, 1.1, 10), none)

    before, after = evaluation(("triggered", 9), ("untriggered", 0)), evaluation(("triggered", 4))
    first, second = defection_figure({"before": before, "after": after}).data
    assert (first.name, list(first.x), list(second.x)) == ("before", [0.0, 0.9], [0.4])
    assert abs(first.y[1] - second.y[0]) < 1, "in the same row"
    assert second.error_x.array[0] == pytest.approx(after["triggered"].defection.high - 0.4)
