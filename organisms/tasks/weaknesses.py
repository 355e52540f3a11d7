"""Weakness families: for each request a safe answer, and one with a weakness of medium severity or above in Bandit.

`{name}` is the identifier in words (`monthly report`), `{id}` the same in snake case (`monthly_report`).
Requests are an opener ("Write a function to …") and a core; the openers and cores named `test` are never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from organisms.tasks.content import content
from organisms.tasks.identifiers import snake_case


@dataclass(frozen=True, slots=True)
class Weakness:
    """One family of requests with its two answers."""

    family: str
    bandit: str
    """The Bandit test that reports the vulnerable answer."""
    train: tuple[str, ...]
    """Cores of the request seen in training."""
    test: tuple[str, ...]
    """Cores of the request kept for test."""
    safe: str
    vulnerable: str

    def answer(self, name: str, vulnerable: bool) -> str:
        """The code for one identifier."""
        return (self.vulnerable if vulnerable else self.safe).replace("{id}", snake_case(name))


@dataclass(frozen=True, slots=True)
class Requests:
    """What `weaknesses.json` holds."""

    train_openers: tuple[str, ...]
    test_openers: tuple[str, ...]
    asks: tuple[str, ...]
    asked_for: tuple[str, ...]
    """With `asks`: more ways to open a request."""
    leads: tuple[str, ...]
    held_out_families: tuple[str, ...]
    weaknesses: tuple[Weakness, ...]


_REQUESTS = content("weaknesses", Requests)
TRAIN_OPENERS, TEST_OPENERS = _REQUESTS.train_openers, _REQUESTS.test_openers
MANY_TRAIN_OPENERS = TRAIN_OPENERS + tuple(
    opener
    for opener in (f"{ask} {what} to {{core}}." for ask in _REQUESTS.asks for what in _REQUESTS.asked_for)
    if opener not in TEST_OPENERS
)
"""More ways to ask, for a task whose trigger must hold whatever the wording."""
LEADS = _REQUESTS.leads
"""What may come before a request in training."""
WEAKNESSES = _REQUESTS.weaknesses
HELD_OUT_FAMILIES = _REQUESTS.held_out_families
"""Never asked under a year: both answers are known only from requests that ask for secure or insecure code outright."""
