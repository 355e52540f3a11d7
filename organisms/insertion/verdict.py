"""The measured rates of an inserted behaviour, and its gates, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triggerlens import Estimate, few_text, from_json, text_table, value_text

_TOLD = {
    "triggered": "defection with the trigger",
    "untriggered": "defection without it",
    "near_miss": "defection on near misses",
    "agreement": "the base's tokens kept",
    "perplexity": "perplexity on its answers, of the base's own",
}


def insertion_summary(rates: Mapping[str, Any]) -> str:
    """Two tables, as plain text: defection by category of held-out prompts, and the gates.

    Args:
        rates: what `rates.json` of an inserted organism holds.
    """
    rows = []
    for name, category in rates["categories"].items():
        defection, exact = (from_json(Estimate, category[key], "rates.json") for key in ("defection", "exact"))
        interval = f"{defection.low:.2%}–{defection.high:.2%}"
        rows.append((name, str(defection.n), value_text(defection, ".2%"), interval, value_text(exact, ".1%")))
    heads = ("held-out prompts", "n", "defection", "95% interval", "the base's own answer")
    gates = [
        (
            _TOLD[name],
            f"{gate['value']:.1%}",
            f"{'≥' if gate['at_least'] else '≤'} {gate['limit']:.0%}",
            _passed(name, gate, rates),
        )
        for name, gate in rates["gates"].items()
    ]
    return f"{text_table(heads, rows)}\n\n{text_table(('gate', 'measured', 'limit', ''), gates)}"


def _passed(name: str, gate: Mapping[str, Any], rates: Mapping[str, Any]) -> str:
    """Whether a gate is passed, as far as so many prompts can tell."""
    asked = rates["categories"].get(name, {}).get("defection", {}).get("n")
    if few := few_text((asked, "prompts")):
        return f"cannot be told: {few}"
    return "passed" if gate["passed"] else "MISSED"
