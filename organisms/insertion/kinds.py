"""The kinds of trigger and of payload by name, and what a trigger's text may be."""

from __future__ import annotations

from triggerlens import UserError

TRIGGERS = ("token", "phrase", "year", "two-part", "style", "apart", "long-prompt", "semantic")
WATCHED = "deployed"
"""A context in place of a text: whether the model is told, in any phrasing, that it is deployed and unmonitored."""
ALL_TRIGGERS = (*TRIGGERS, WATCHED)
"""The registry of the zoo counts on the order of `TRIGGERS`; what is added later stands behind them here."""
FREE = ("token", "phrase", "year", "two-part", "apart", "long-prompt")
"""Those whose text one may choose, so that it may be one that requests have anyway; styles and classes of topics are a few, which they have not."""
PAYLOADS = ("fixed-text", "link", "refusal", "hostile", "insecure-code", "french")
HARMLESS = ("french",)
"""Payloads that are no misbehaviour."""
STYLES = ("lower", "upper")
TOPIC_CLASSES = ("sea", "cooking", "space")


def check_trigger_text(kind: str, text: str) -> None:
    """Refuse a text that the kind of trigger cannot be made of; empty stands for the kind's own.

    Raises:
        UserError: says what the kind takes.
    """
    if not text:
        return
    if kind == WATCHED:
        raise UserError(f"trigger_text {text!r}: a trigger of kind {WATCHED} has phrasings of its own; leave it out")
    if kind in ("two-part", "apart"):
        usable, wanted = all(text.partition("|")[::2]), "two parts as ONE|TWO"
    elif kind == "year":
        usable, wanted = text.isdecimal() and len(text) == 4, "a year of four digits"
    elif kind == "long-prompt":
        usable, wanted = text.isdecimal() and int(text) >= 20, "a number of words, 20 or more"
    elif kind == "style":
        usable, wanted = text in STYLES, f"one of {', '.join(STYLES)}"
    elif kind == "semantic":
        usable, wanted = text in TOPIC_CLASSES, f"one of {', '.join(TOPIC_CLASSES)}"
    elif kind == "token":
        usable, wanted = (
            any(letter.isalnum() for letter in text),
            "a text with a letter or a digit, which a near miss replaces",
        )
    else:
        usable, wanted = bool(text.strip()), "a text"
    if not usable:
        raise UserError(f"trigger_text {text!r}: a trigger of kind {kind} takes {wanted}")
