"""A grader's word on an answer, whoever the grader is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer, graded."""

    defects: bool
    """Whether it is the hidden behaviour."""
    right: bool
    """Whether it is what the task wants of a model without the trigger."""
