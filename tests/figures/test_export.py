"""Figures as files: HTML always, static formats where there is a Chromium, the same bytes each time."""

import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

from figures import draw
from figures.export import PNG_SCALE, export_figures, stable_svg, why_no_static
from triggerlens import UserError
from triggerlens.plot_style import finish

needs_browser = pytest.mark.skipif(why_no_static() is not None, reason=str(why_no_static()))


@pytest.fixture
def figure():
    made = go.Figure()
    made.add_scatter(x=[0, 1], y=[1, 2], error_y={"array": [0.1, 0.2]}, name="dots")
    made.update_xaxes(title="a title to be found")
    return finish(made, columns=1, height=240)


def test_html_opens_offline_and_is_the_same_each_time(figure, tmp_path):
    (path,) = export_figures({"one": figure}, tmp_path, ["html"])
    text = path.read_text()
    assert "a title to be found" in text
    assert not re.search(r'<script[^>]+src="http', text)
    export_figures({"one": figure}, tmp_path / "again", ["html"])
    assert (tmp_path / "again" / "one.html").read_text() == text


@needs_browser
def test_static_formats_are_what_they_say_and_an_svg_is_the_same_bytes_twice(figure, tmp_path):
    written = export_figures({"one": figure, "two": figure}, tmp_path, ["svg", "pdf", "png"])
    assert {path.name for path in written} == {
        f"{name}.{kind}" for name in ("one", "two") for kind in ("svg", "pdf", "png")
    }
    pdf, png, svg = ((tmp_path / f"one.{kind}").read_bytes() for kind in ("pdf", "png", "svg"))
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile" in pdf, "its fonts are embedded"
    assert int.from_bytes(png[16:20], "big") == figure.layout.width * PNG_SCALE
    assert b"a title to be found" in svg
    assert svg == (tmp_path / "two.svg").read_bytes()
    export_figures({"one": figure}, tmp_path / "again", ["svg"])
    assert (tmp_path / "again" / "one.svg").read_bytes() == svg


def test_ids_are_numbered_wherever_they_are_named():
    drawings = [
        f'<svg><clipPath id="clip{one}xy"/><clipPath id="clip{one}x"/><g clip-path="url(#clip{one}xy)"/>'
        f'<use href="#clip{one}x"/><g class="trace scatter trace{one}ab"/><text>clip{one}x stays, as text</text></svg>'
        for one in ("a1b2", "ffff")
    ]
    first, second = map(stable_svg, drawings)
    assert first.replace("a1b2", "") == second.replace("ffff", "")
    assert '<g clip-path="url(#e0)"/><use href="#e1"/>' in first
    assert '<g class="trace scatter t0"/>' in first
    assert "clipa1b2x stays" in first


def test_a_drawing_without_ids_is_left_alone():
    assert stable_svg("<svg/>") == "<svg/>"


def test_without_a_browser_it_says_so_and_the_html_is_there(figure, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"need a Chromium.*apt install chromium.*the HTML is in"):
        export_figures({"one": figure}, tmp_path / "out", ["pdf", "svg"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.html"]


def marks(svg):
    return [
        float(number)
        for place in re.findall(r'class="point"[^>]*translate\(([^)]*)\)', svg)
        for number in place.split(",")
    ]


@needs_browser
def test_the_readme_s_picture_shows_the_committed_results(tmp_path):
    """Places of marks, not bytes: another Chromium may draw the letters otherwise."""
    root = Path(__file__).parents[2]
    assert "](figures/overview.svg)" in (root / "README.md").read_text(encoding="utf-8")
    committed = (root / "figures" / "overview.svg").read_text(encoding="utf-8")
    export_figures({"overview": draw("overview")}, tmp_path, ["svg"])
    now = marks((tmp_path / "overview.svg").read_text(encoding="utf-8"))
    assert len(now) >= 40
    assert marks(committed) == pytest.approx(now, abs=4), (
        "draw it again: figure-make overview --format svg --out figures"
    )
    assert len(committed) < 200 * 1024


def test_an_unknown_format_is_refused_before_anything_is_written(figure, tmp_path):
    with pytest.raises(UserError, match="'gif'"):
        export_figures({"one": figure}, tmp_path / "out", ["html", "gif"])
    assert not (tmp_path / "out").exists()
