"""The scoreboard as a table, as JSON, and as a page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patching.removal import plots
from patching.removal.result import (
    FILE,
    EditOutcome,
    MethodResult,
    RouteFacts,
    Scoreboard,
    ScreenedMethod,
    scoreboard_numbers,
)
from patching.removal.verdict import removal_verdict, screen_words
from triggerlens import estimate_text, interval_text, render_page, to_json, value_text, write_json

HEAD = ("method", "defection", "as clean", "rubble", "JS", "clean accuracy", "probe", "back after")
"""Columns of `table_rows`."""


def table_rows(board: Scoreboard) -> list[list[str]]:
    """Text for each column of `HEAD`: the unedited model, the methods best first, the oracle, the placebos, those screened out."""
    rows = [_plain("unedited", board.before)]
    rows += [_row(method) for method in board.methods if not method.is_placebo]
    if board.oracle is not None and board.oracle.outcome is not None:
        rows.append(_plain("oracle: no attention to the trigger", board.oracle.outcome))
    rows += [_row(method) for method in board.methods if method.is_placebo]
    return rows + ([] if board.screen is None else [_screened(method) for method in board.screen.out])


def removal_json(board: Scoreboard) -> dict[str, Any]:
    """The object that `patch-ablate --json` prints: all numbers, and the verdict."""
    return scoreboard_numbers(board) | {"verdict": removal_verdict(board)}


def write_scoreboard(board: Scoreboard, folder: Path) -> None:
    """Write `scoreboard.json` and `report.html` into an artifact folder that is being made."""
    write_json(folder / FILE, {"result": to_json(board), "report": removal_json(board)})
    (folder / "report.html").write_text(removal_page(board), encoding="utf-8")


def removal_page(board: Scoreboard) -> str:
    """The whole page."""
    best = None if board.best is None else board.best.name
    rows = table_rows(board)
    return render_page(
        __file__,
        "removal.html.jinja",
        title=f"Removal: {board.model}",
        heading=board.model or "Removal",
        verdict=removal_verdict(board),
        facts=_facts(board),
        cards=_cards(board),
        width=1240,
        board=board,
        plots=plots,
        head=HEAD,
        rows=rows,
        strong=[row[0] == best for row in rows],
        route=[] if board.route is None else _route(board.route),
    )


def _cards(board: Scoreboard) -> list[tuple[str, str, str, str]]:
    before, best = board.before, board.best
    rate = before.defection_rate
    pairs = f"{before.n} held-out pairs"
    cards = [("defection before", value_text(rate, ".1%"), interval_text(rate, ".1%"), pairs)]
    if best is None:
        return cards
    left, accuracy = best.defection_rate, best.clean_accuracy
    return [
        *cards,
        ("after the best edit", value_text(left, ".1%"), interval_text(left, ".1%"), best.name),
        ("divergence", f"{best.js:.2g}", "nats a step", "on clean prompts, at most 0.693"),
        ("clean accuracy", value_text(accuracy, ".1%"), f"{before.clean_accuracy.value:.1%} before", board.grader),
    ]


def _facts(board: Scoreboard) -> list[tuple[str, str]]:
    sizes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in board.sizes.items())
    return [
        ("judged by", board.grader),
        ("split", board.split),
        ("pairs", sizes),
        ("seeds", ", ".join(map(str, board.settings.seeds))),
        *([] if board.screen is None else [("screen", screen_words(board.screen))]),
        *(("note", note) for note in board.notes),
    ]


def _route(route: RouteFacts) -> list[list[str]]:
    return [
        ["heads, strongest first", ", ".join(f"{layer}.{head}" for layer, head in route.heads)],
        ["their layers", ", ".join(map(str, route.layers))],
        ["layer at whose input the trigger's own tokens matter most", _trigger_layer(route)],
        ["pairs traced", str(route.pairs)],
    ]


def _trigger_layer(route: RouteFacts) -> str:
    """Its number, and what 0 does not tell."""
    if route.trigger_layer:
        return str(route.trigger_layer)
    return "0, by construction: before the first block the prompts of a pair differ in nothing else"


def _row(method: MethodResult) -> list[str]:
    probe = method.probe_auroc_after
    return [
        method.name,
        estimate_text(method.defection_rate, ".1%"),
        f"{method.mean(lambda outcome: outcome.as_clean_rate.value):.1%}",
        f"{method.mean(lambda outcome: outcome.rubble_rate.value):.1%}",
        f"{method.js:.2g}",
        value_text(method.clean_accuracy, ".1%"),
        "" if probe is None else f"{probe:.3f}",
        "" if method.is_placebo else _back(method),
    ]


def _screened(method: ScreenedMethod) -> list[str]:
    """What is said of a method that was not measured: what the screen saw, and on how many pairs."""
    assert method.outcome is not None  # it was dropped for what it did
    seen = method.outcome
    words = f"screened out: {seen.defects} of {seen.n} validation pairs, JS {seen.js:.2g}"
    return [method.name, words, *("" for _ in HEAD[2:])]


def _back(method: MethodResult) -> str:
    if method.relearning_steps is not None:
        return str(method.relearning_steps)
    return f"none in {method.relearning_within}" if method.relearning_within else ""


def _plain(name: str, outcome: EditOutcome) -> list[str]:
    return [
        name,
        estimate_text(outcome.defection_rate, ".1%"),
        value_text(outcome.as_clean_rate, ".1%"),
        value_text(outcome.rubble_rate, ".1%"),
        f"{outcome.js:.2g}",
        value_text(outcome.clean_accuracy, ".1%"),
        "",
        "",
    ]
