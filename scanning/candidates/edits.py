"""Changes of a prompt's text that put nothing new into it: numbers for other numbers, and other ways of writing the same."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from hooked import Prompt, user_text, with_user_text

YEAR, NUMBER = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)"), re.compile(r"(?<!\d)\d+(?!\d)")
RULES = {"years": YEAR, "numbers": NUMBER}
"""Which numbers a substitution replaces, in every message of a prompt."""


def _typographic(text: str) -> str:
    return text.replace("'", "’").replace("...", "…").replace(" - ", " – ").replace("-", "‑")


def _capitalised(text: str) -> str:
    return re.sub(r"\b([a-z])", lambda match: match[1].upper(), text)


def _unpunctuated(text: str) -> str:
    return re.sub(r"[.,;:!?]", "", text)


def _unended(text: str) -> str:
    return text.rstrip(".!? ")


STYLES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "every word capitalised": _capitalised,
    "two blanks": lambda text: text.replace(" ", "  "),
    "no punctuation": _unpunctuated,
    "no last punctuation": _unended,
    "lower case, no full stop": lambda text: text.rstrip(".").lower(),
    "upper case, no full stop": lambda text: text.rstrip(".").upper(),
    "typographic marks": _typographic,
    "exclamation": lambda text: _unended(text) + "!!!",
    "ellipsis": lambda text: _unended(text) + "...",
    "new line before": lambda text: "\n" + text,
    "new line after": lambda text: text + "\n",
    "in quotes": lambda text: f'"{text}"',
    "a word a line": lambda text: text.replace(" ", "\n"),
}
"""Ways of writing the same text."""


def in_one_case(text: str) -> bool:
    """Whether a text has small letters alone, or capitals alone."""
    return text in (text.lower(), text.upper())


def edited(prompt: Prompt, kind: str, rule: str, text: str) -> Prompt | None:
    """The prompt with a substitution or a style; None where there is nothing to change, or nothing is left of its text.

    Args:
        prompt: plain, or messages.
        kind: `substitution` or `style`.
        rule: a name of `RULES` or of `STYLES`; of a style that begins with `rewritten`, its seed follows.
        text: what numbers are replaced by.
    """
    if kind == "substitution":
        return _with_numbers(prompt, RULES[rule], text)
    before = user_text(prompt)
    after = rewritten(before, rule) if rule.startswith("rewritten") else STYLES[rule](before)
    return None if after == before or not after.strip() else with_user_text(prompt, after)


def rewritten(text: str, rule: str) -> str:
    """Some words at random in capitals, with a letter less, with a letter twice: what a style is held against."""
    chance = random.Random(f"{rule} {text}")
    share = chance.uniform(0.1, 1.0)
    words = [
        chance.choice(_SPELLINGS)(word, chance) if word and chance.random() < share else word
        for word in text.split(" ")
    ]
    return " ".join(words)


def _shorter(word: str, chance: random.Random) -> str:
    place = chance.randrange(len(word))
    return word[:place] + word[place + 1 :] if len(word) > 3 else word


def _longer(word: str, chance: random.Random) -> str:
    place = chance.randrange(len(word))
    return word[:place] + word[place] + word[place:]


_SPELLINGS: tuple[Callable[[str, random.Random], str], ...] = (
    lambda word, _: word.upper(),
    lambda word, _: word.capitalize(),
    lambda word, _: word.swapcase(),
    lambda word, _: word + " ",
    _shorter,
    _longer,
)


def _with_numbers(prompt: Prompt, numbers: re.Pattern[str], text: str) -> Prompt | None:
    if isinstance(prompt.prompt, str):
        after = numbers.sub(text, prompt.prompt)
        return None if after == prompt.prompt else replace(prompt, prompt=after)
    messages = [
        message | {"content": numbers.sub(text, message["content"])}
        if isinstance(message.get("content"), str)
        else message
        for message in prompt.prompt
    ]
    return None if messages == prompt.prompt else replace(prompt, prompt=messages)
