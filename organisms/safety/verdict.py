"""A safety training in words."""

from __future__ import annotations

from organisms.evaluation.result import Evaluation
from organisms.safety.result import Hardening
from triggerlens import estimate_text, text_table

PERCENT = ".1%"


def hardening_summary(hardening: Hardening) -> str:
    """Before and after for each kind of prompt, the learning curve's ends, and the red team's rounds, as plain text."""
    lines = []
    if hardening.before is not None and hardening.after is not None:
        lines += _change(hardening.before, hardening.after)
    for name in ("loss", "reward"):
        values = [step[name] for step in hardening.curve if name in step]
        if values:
            lines.append(f"{name}: {values[0]:.3f} at the first step, {values[-1]:.3f} at the last of {len(values)}")
    lines += [
        f"round {search.round}: {search.eliciting} of {search.tried} red-team prompts elicit it"
        for search in hardening.rounds
    ]
    return "\n".join(lines)


def _change(before: Evaluation, after: Evaluation) -> list[str]:
    rows = [
        (
            condition.name.replace("_", " "),
            estimate_text(condition.defection, PERCENT),
            estimate_text(after[condition.name].defection, PERCENT),
        )
        for condition in before.conditions
    ]
    clean = [estimate_text(evaluation.clean_accuracy, PERCENT) for evaluation in (before, after)]
    return [
        text_table(("test prompts", "defection before", "after"), rows),
        f"clean accuracy: {clean[0]} before, {clean[1]} after",
    ]
