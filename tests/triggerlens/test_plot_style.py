"""Bars reach from the low to the high end of an interval, also where rounding has put the value outside of it."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from triggerlens import WIDTHS, Estimate, error_bars, finish, line, text_table

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


def test_a_text_table_lines_up():
    assert text_table(("name", "n"), [("a", "1"), ("long name", "200")]).splitlines() == [
        "name         n",
        "a            1",
        "long name  200",
    ]
