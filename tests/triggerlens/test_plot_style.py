"""Bars reach from the low to the high end of an interval, also where rounding has put the value outside of it."""

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from triggerlens import WIDTHS, Estimate, axis_ends, error_bars, finish, label_text, line, text_table

POINTS = {0: Estimate(0.5, 0.25, 1.0), 2: Estimate(1.0, 0.9, 1.0 - 1e-17)}


def test_bars_are_the_interval():
    bars = error_bars(POINTS.values())
    assert bars["array"] == [0.5, 0.0]
    assert bars["arrayminus"] == [0.25, 1.0 - 0.9]


def test_a_line_is_named_once_and_drawn_in_each_panel():
    figure = make_subplots(cols=2)
    for column in (1, 2):
        line(figure, "probe", POINTS, ("#D55E00", "circle", "dash"), (1, column))
    line(figure, "nothing", {}, ("#D55E00", "circle", "dash"), (1, 1))
    first, second = figure.data
    assert (list(first.x), list(first.y)) == ([0, 2], [0.5, 1.0])
    assert (first.showlegend, second.showlegend) == (True, False)


def test_a_finished_figure_has_a_column_s_width():
    assert finish(go.Figure(), columns=2, height=300).layout.width == WIDTHS[2]


def test_an_axis_reaches_as_far_as_what_it_shows():
    assert axis_ends((0.4, 1.0), [Estimate(0.7, 0.6, 0.9)]) == [0.4, 1.0]
    assert axis_ends((0.4, 1.0), [Estimate(0.5, 0.3, 0.9), Estimate(0.7, 0.6, math.inf)]) == [0.3 - 0.02, 1.0]
    assert axis_ends((0.4, 1.0), []) == [0.4, 1.0]


def test_plotly_shows_a_label_s_text_as_it_stands():
    assert label_text("<b>&amp;</b>") == "&lt;b&gt;&amp;amp;&lt;/b&gt;"
    assert label_text('"it\'s"') == '"it\'s"', "Plotly shows &quot; as these six characters"


def test_a_text_table_lines_up():
    assert text_table(("name", "n"), [("a", "1"), ("long name", "200")]).splitlines() == [
        "name         n",
        "a            1",
        "long name  200",
    ]
