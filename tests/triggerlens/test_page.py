"""A report opens offline, says what it was given, and takes no text for markup."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from jinja2 import UndefinedError

from triggerlens import (
    BLUE,
    ORANGE,
    Estimate,
    card,
    coloured_tokens,
    count_text,
    estimate_text,
    html_table,
    plot,
    rate,
    render_page,
    report_page,
    section,
)

HOSTILE = '<script>alert("x")</script>'


def _page(**parts):
    return report_page("t", heading="h", verdict="v", **parts)


def test_a_page_needs_nothing_from_elsewhere_and_is_the_same_each_time() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    whole = _page(sections=[section("a", "A", "words", plot(figure, "a"))])
    assert "<script src=" not in whole
    assert "<link" not in whole
    assert whole == _page(sections=[section("a", "A", "words", plot(figure, "a"))])


@pytest.mark.parametrize(
    "part",
    [
        section("a", HOSTILE, HOSTILE, ""),
        card(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        html_table([HOSTILE], [[HOSTILE]]),
        coloured_tokens([HOSTILE], [1.0], reach=1.0, caption=HOSTILE),
    ],
)
def test_text_is_never_markup(part: str) -> None:
    assert "<script>" not in part
    assert "&lt;script&gt;" in part


def test_facts_heading_and_verdict_are_escaped_too() -> None:
    whole = report_page(HOSTILE, heading=HOSTILE, verdict=HOSTILE, facts=[(HOSTILE, HOSTILE)])
    assert whole.count("&lt;script&gt;alert") == 5


def test_a_table_marks_the_rows_and_columns_it_was_told() -> None:
    made = html_table(["token", "n"], [["a", "1"], ["b", "2"]], strong=[False, True], tokens=[0])
    assert made.count('class="strong"') == 1
    assert '<tr class="strong"><td class="token">b</td><td>2</td></tr>' in made


def test_colours_are_white_in_the_middle_and_fullest_at_the_reach() -> None:
    def rgb(colour: str) -> str:
        return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))

    made = coloured_tokens(["a", "b", "c", "d"], [5.0, 7.0, 3.0, 99.0], reach=2.0, middle=5.0)
    assert f"rgba({rgb(BLUE)},0.00)" in made
    assert made.count(f"rgba({rgb(ORANGE)},0.75)") == 2
    assert f"rgba({rgb(BLUE)},0.75)" in made


def _render(folder: Path, template: str, **context: Any) -> str:
    (folder / "templates").mkdir()
    (folder / "templates" / "room.html.jinja").write_text(template)
    return render_page(
        folder / "report.py", "room.html.jinja", **{"title": "t", "heading": "h", "verdict": "v"} | context
    )


def test_a_room_fills_the_shared_page_from_its_own_template(tmp_path: Path) -> None:
    template = """{% extends "page.html.jinja" %}{% from "macros.html.jinja" import section, table %}
        {% block script %}{% endblock %}
        {% block sections %}{% call section("a", "A", words) %}{{ table(("x",), [(text,)]) }} {{ share | estimate(".1%") }}, {{ share | count_of }}{% endcall %}{% endblock %}"""
    cards = [(HOSTILE, "0.5", "[0, 1]", "note")]
    whole = _render(
        tmp_path, template, words="w", text=HOSTILE, share=rate(1, 2), cards=cards, facts=[("model", HOSTILE)]
    )
    assert whole.count("&lt;script&gt;alert") == 3
    assert "<script" not in whole, "the block without plots leaves plotly.js out"
    assert "50.0% [9.5%, 90.5%], 1 of 2" in whole
    assert whole.startswith("<!DOCTYPE html>")


def test_a_name_that_was_not_given_is_an_error(tmp_path: Path) -> None:
    template = '{% extends "page.html.jinja" %}{% block sections %}{{ missing }}{% endblock %}'
    with pytest.raises(UndefinedError, match="missing"):
        _render(tmp_path, template)


def test_a_rate_of_nothing_is_a_dash() -> None:
    assert estimate_text(rate(0, 0)) == "–"
    with pytest.raises(ValueError, match="not a rate"):
        count_text(Estimate(0.5, 0.4, 0.6))


def test_as_many_values_as_tokens() -> None:
    with pytest.raises(ValueError, match="2 tokens and 1 values"):
        coloured_tokens(["a", "b"], [1.0], reach=1.0)
