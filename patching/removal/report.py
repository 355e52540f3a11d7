"""The scoreboard in words, as a table, and as a page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence

from patching.removal.measure import Measured
from patching.removal.result import MethodResult, Scoreboard, Span, share
from triggerlens import card, html_table, plot, report_page, section

_WORDS = (
    "Each mark is a method, the mean over seeds; bars are from the lowest to the highest end of the seeds' 95% Wilson intervals. "
    "A removal belongs into the shaded corner. Hollow grey marks are placebos: edits of the same strength that know nothing of "
    "the trigger. Divergences are per step along the unedited model's own answers, in nats, at most 0.693."
)
_TABLE_WORDS = (
    "as before the trigger: answered just as the unedited model answers the untriggered twin. rubble: neither a defection, nor "
    "right, nor that. probe: AUROC of a probe trained afresh on the edited model. back after: steps of ordinary fine-tuning on "
    "untriggered prompts until the behaviour is back; 0 means that it never went."
)
HEAD = ("method", "defection", "as clean", "rubble", "JS", "clean accuracy", "probe", "back after")


def removal_verdict(board: Scoreboard) -> str:
    """What the scoreboard says, in a few sentences."""
    rate = _rate(*share(board.before.defects, board.before.n))
    if board.nothing_to_remove:
        return f"Nothing to remove: {board.before.defects} of {board.before.n} triggered prompts defect ({rate})."
    best = board.best
    if best is None:
        return f"{rate} of triggered prompts defect; no weight edit was tried."
    accuracy = best.mean(lambda m: m.clean_accuracy)
    placebo = board.placebo_for(best)
    lines = [
        f"The unedited model defects on {rate} of triggered prompts. The best weight edit, {best.name}, leaves "
        f"{_rate(best.defection_rate, best.defection_rate_ci)}, at a divergence of {best.mean(lambda m: m.js):.2g} nats a step and "
        f"{accuracy:.1%} right on clean prompts ({board.before.clean_accuracy:.1%} before).",
        "It reaches the target with every seed."
        if board.reaches(best)
        else "It does not reach the target with every seed.",
    ]
    if placebo is not None:
        lines.append(f"Its placebo leaves {_rate(placebo.defection_rate, placebo.defection_rate_ci)}.")
    weak = [m.name for m in board.methods if m.placebo and m.defection_rate < 0.9 * board.before.defection_rate]
    if weak:
        lines.append(f"Placebos that lower the defection too, so that their methods prove little: {', '.join(weak)}.")
    if board.checkpoint is not None:
        found = board.checkpoint
        lines.append(
            f"The saved checkpoint in plain transformers: {found.defects} of {found.n} defect, {found.same_answers} of {found.of} "
            "answers as measured."
        )
    return " ".join(lines)


def table_rows(board: Scoreboard) -> list[list[str]]:
    """Text for each column of `HEAD`: the unedited model, the methods best first, the oracle, the placebos."""
    rows = [_plain("unedited", board.before)]
    rows += [_row(board, method) for method in board.methods if not method.placebo]
    if board.oracle is not None and board.oracle.measured is not None:
        rows.append(_plain("oracle: no attention to the trigger", board.oracle.measured))
    return rows + [_row(board, method) for method in board.methods if method.placebo]


def removal_page(board: Scoreboard) -> str:
    """The whole page."""
    sections = []
    if board.methods:
        strong = [board.best is not None and row[0] == board.best.name for row in table_rows(board)]
        body = html_table(HEAD, table_rows(board), strong=strong)
        sections = [
            section("scoreboard", "Defection against damage", _WORDS, plot(board.figure(), "scoreboard")),
            section("methods", "Methods", _TABLE_WORDS, body),
            section("route", "What the patching map names", "Found on the fitting side.", _route(board)),
        ]
    return report_page(
        f"Removal: {board.model}",
        heading=board.model or "Removal",
        verdict=removal_verdict(board),
        facts=_facts(board),
        cards=_cards(board),
        sections=sections,
        width=1240,
    )


def _cards(board: Scoreboard) -> list[str]:
    rate, interval = share(board.before.defects, board.before.n)
    cards = [card("defection before", f"{rate:.1%}", _span(interval), f"{board.before.n} held-out pairs")]
    best = board.best
    if best is None:
        return cards
    accuracy = best.mean(lambda m: m.clean_accuracy)
    return [
        *cards,
        card("after the best edit", f"{best.defection_rate:.1%}", _span(best.defection_rate_ci), best.name),
        card("divergence", f"{best.mean(lambda m: m.js):.2g}", "nats a step", "on clean prompts, at most 0.693"),
        card("clean accuracy", f"{accuracy:.1%}", f"{board.before.clean_accuracy:.1%} before", board.grader),
    ]


def _facts(board: Scoreboard) -> list[tuple[str, str]]:
    sizes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in board.sizes.items())
    return [
        ("judged by", board.grader),
        ("split", board.split),
        ("pairs", sizes),
        ("seeds", ", ".join(map(str, board.settings.get("seeds", ())))),
        *(("note", note) for note in board.notes),
    ]


def _route(board: Scoreboard) -> str:
    route = board.route
    rows = [
        ["heads, strongest first", ", ".join(route["heads"])],
        ["their layers", ", ".join(map(str, route["layers"]))],
        ["layer at whose input the trigger's own tokens matter most", str(route["trigger_layer"])],
        ["pairs traced", str(route["pairs"])],
    ]
    return html_table(("", ""), rows)


def _row(board: Scoreboard, method: MethodResult) -> list[str]:
    probe = method.probe_auroc_after
    return [
        method.name,
        _rate(method.defection_rate, method.defection_rate_ci),
        f"{method.mean(lambda m: m.as_clean / m.n):.1%}",
        f"{method.mean(lambda m: m.rubble / m.n):.1%}",
        f"{method.mean(lambda m: m.js):.2g}",
        f"{method.mean(lambda m: m.clean_accuracy):.1%}",
        "" if probe is None else f"{probe:.3f}",
        "" if method.placebo else _back(method),
    ]


def _back(method: MethodResult) -> str:
    tried = [one.relearned for one in method.seeds if one.relearned is not None and one.relearned.within]
    if method.relearning_steps is not None:
        return str(method.relearning_steps)
    return f"none in {tried[0].within}" if tried else ""


def _plain(name: str, measured: Measured) -> list[str]:
    return [
        name,
        _rate(*share(measured.defects, measured.n)),
        f"{measured.as_clean / measured.n:.1%}",
        f"{measured.rubble / measured.n:.1%}",
        f"{measured.js:.2g}",
        f"{measured.clean_accuracy:.1%}",
        "",
        "",
    ]


def _rate(rate: float, interval: Sequence[float]) -> str:
    return f"{rate:.1%} {_span((interval[0], interval[1]))}"


def _span(interval: Span) -> str:
    return f"[{interval[0]:.1%}, {interval[1]:.1%}]"
