"""The measured rates of an organism in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triggerlens import Estimate, from_json, text_table, value_text


def rates_summary(rates: Mapping[str, Any]) -> str:
    """One line for each category of test prompts, as plain text.

    Args:
        rates: what `rates.json` holds.
    """
    rows = []
    for name, category in rates["categories"].items():
        defection, exact, unparsable = (
            from_json(Estimate, category[key], "rates.json") for key in ("defection", "exact", "unparsable")
        )
        interval = f"{defection.low:.2%}–{defection.high:.2%}"
        others = (value_text(estimate, ".1%") for estimate in (exact, unparsable))
        rows.append((name, str(defection.n), value_text(defection, ".2%"), interval, *others))
    return text_table(("test prompts", "n", "defection", "95% interval", "exact", "unparsable"), rows)
