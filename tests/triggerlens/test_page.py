"""A report opens offline, says what it was given, takes no text for markup, and leaves no name out in silence."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from jinja2 import TemplateNotFound, UndefinedError

from triggerlens import BLUE, ORANGE, Estimate, coloured_tokens, count_text, estimate_text, rate, render_page

HOSTILE = '<script>alert("x")</script>'
HEAD = '{% extends "page.html.jinja" %}{% from "macros.html.jinja" import card, section, plot, table, tokens %}'
NO_PLOT = "{% block script %}{% endblock %}"


@pytest.fixture
def render(tmp_path):
    """A page whose own sections are a template made up here."""

    def make(sections: str, *, script: str = NO_PLOT, **context: Any) -> str:
        (tmp_path / "templates").mkdir(exist_ok=True)
        (tmp_path / "templates" / "room.html.jinja").write_text(
            f"{HEAD}{script}{{% block sections %}}{sections}{{% endblock %}}"
        )
        named = {"title": "t", "heading": "h", "verdict": "v"} | context
        return render_page(tmp_path / "report.py", "room.html.jinja", **named)

    return make


def test_a_page_needs_nothing_from_elsewhere_and_is_the_same_each_time(render) -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    sections = '{% call section("a", "A", "words") %}{{ plot(figure, "a") }}{% endcall %}'
    whole = render(sections, script="", figure=figure)
    assert "<script src=" not in whole
    assert "<link" not in whole
    assert whole.startswith("<!DOCTYPE html>")
    assert 'id="plot-a"' in whole
    assert whole == render(sections, script="", figure=figure)


def test_a_page_without_plots_can_leave_plotly_out(render) -> None:
    assert "<script" not in render("")


@pytest.mark.parametrize(
    "part",
    [
        '{{ section("a", text, text) }}',
        "{{ card(text, text, text, text) }}",
        "{{ table([text], [[text]]) }}",
        "{{ tokens([text], [1.0], reach=1.0, caption=text) }}",
        "{% call section('a', 'A', '') %}{{ text }}{% endcall %}",
    ],
)
def test_text_is_never_markup(render, part: str) -> None:
    whole = render(part, text=HOSTILE)
    assert "<script" not in whole
    assert "&lt;script&gt;alert" in whole


def test_facts_cards_heading_and_verdict_are_escaped_too(render) -> None:
    whole = render(
        "",
        title=HOSTILE,
        heading=HOSTILE,
        verdict=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        cards=[(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
    )
    assert "<script" not in whole
    assert whole.count("&lt;script&gt;alert") == 9


def test_a_table_marks_the_rows_and_columns_it_was_told(render) -> None:
    whole = render('{{ table(["token", "n"], [["a", "1"], ["b", "2"]], strong=[false, true], tokens=[0]) }}')
    assert whole.count('class="strong"') == 1
    assert '<tr class="strong"><td class="token">b</td><td>2</td></tr>' in whole


def test_colours_are_white_in_the_middle_and_fullest_at_the_reach() -> None:
    def rgb(colour: str) -> str:
        return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))

    made = coloured_tokens(["a", "b", "c", "d"], [5.0, 7.0, 3.0, 99.0], reach=2.0, middle=5.0)
    assert f"rgba({rgb(BLUE)},0.00)" in made
    assert made.count(f"rgba({rgb(ORANGE)},0.75)") == 2
    assert f"rgba({rgb(BLUE)},0.75)" in made
    assert "<script" not in coloured_tokens([HOSTILE], [1.0], reach=1.0, caption=HOSTILE)


def test_as_many_values_as_tokens() -> None:
    with pytest.raises(ValueError, match="2 tokens and 1 values"):
        coloured_tokens(["a", "b"], [1.0], reach=1.0)


def test_a_name_that_was_not_given_is_an_error(render) -> None:
    with pytest.raises(UndefinedError, match="missing"):
        render("{{ missing }}")


def test_a_template_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateNotFound):
        render_page(tmp_path / "report.py", "none.html.jinja")


def test_estimates_read_alike_in_templates_and_in_sentences(render) -> None:
    share = rate(1, 2)
    shown = render('{{ s | estimate(".1%") }}; {{ s | value }}; {{ s | interval }}; {{ s | count_of }}', s=share)
    assert "50.0% [9.5%, 90.5%]; 0.500; [0.095, 0.905]; 1 of 2" in shown
    assert estimate_text(share, ".1%") == "50.0% [9.5%, 90.5%]"
    assert estimate_text(rate(0, 0)) == "–"
    with pytest.raises(ValueError, match="not a rate"):
        count_text(Estimate(0.5, 0.4, 0.6))
