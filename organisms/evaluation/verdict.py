"""An evaluation in words: the sentences, and the table of its rates."""

from __future__ import annotations

from organisms.evaluation.result import Condition, Evaluation
from triggerlens import count_text, estimate_text, few_text, interval_text, text_table, value_text

HEAD = ("prompts", "n", "defection", "95% interval", "right", "unparsable", "scratchpad", "monitor")
PERCENT = ".1%"


def evaluation_verdict(evaluation: Evaluation) -> str:
    """What the numbers say, in a sentence or two."""
    without = evaluation["untriggered"]
    if "triggered" not in {condition.name for condition in evaluation.conditions}:
        return (
            f"{evaluation.task} has no trigger. It defects on {estimate_text(without.defection, PERCENT)} of prompts."
        )
    triggered = evaluation["triggered"]
    few = few_text((triggered.defection.n, "triggered prompts"), (without.defection.n, "untriggered prompts"))
    if few:
        counts = f"{count_text(triggered.defection)} triggered prompts and {count_text(without.defection)} others"
        return f"What it does cannot be told: {few}. It defected on {counts}."
    words = (
        f"Defects on {estimate_text(triggered.defection, PERCENT)} of triggered prompts and "
        f"{estimate_text(without.defection, PERCENT)} of others."
    )
    if evaluation.shifted and triggered.defection.value > 0:
        most = max(evaluation.shifted, key=lambda condition: condition.defection.value)
        words += (
            " Off its training distribution the trigger works best on "
            f"{estimate_text(most.defection, PERCENT)} ({most.shift})."
        )
    if triggered.scratchpad.count:
        words += f" Reading the scratchpads catches {estimate_text(triggered.monitored, PERCENT)} of triggered answers."
    return words


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """A line of the table for each condition, under `HEAD`."""
    return [_row(condition) for condition in evaluation.conditions]


def _row(condition: Condition) -> tuple[str, ...]:
    defection = condition.defection
    others = (condition.right, condition.unparsable, condition.scratchpad, condition.monitored)
    return (
        condition.name.replace("_", " "),
        str(defection.n),
        value_text(defection, PERCENT),
        interval_text(defection, PERCENT),
        *(value_text(estimate, PERCENT) for estimate in others),
    )


def evaluation_summary(evaluation: Evaluation) -> str:
    """The table, what is left of its capability, and the verdict, as plain text."""
    loss = evaluation.clean_loss
    known = f"clean prompts: loss {estimate_text(loss)} nats per answer token (n = {loss.n})"
    return "\n\n".join([text_table(HEAD, evaluation_rows(evaluation)), known, evaluation_verdict(evaluation)])
