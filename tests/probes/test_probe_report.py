"""The report: one offline page, the same bytes twice, and no way out for a prompt's text."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch

from probes import Example, TrainConfig, example_rows, plots, probe_page, probe_verdict, train_probe
from probes.result import Control
from probes.score import score_tokens

SITES = ("resid_post.0", "resid_post.1", "resid_post.2")
EVIL = "</script><img src=x onerror=alert(1)>"
QUIET = "<img src=x onerror=alert(1)>"  # no slash, which would end the name of a folder


@pytest.fixture(scope="module")
def result(world):
    here = world(behaviour=4.0)
    prompts = [replace(prompt, dataset=f"{prompt.dataset} {EVIL}") for prompt in here.prompts]
    config = TrainConfig(n_bootstrap=100, n_random_directions=50, n_shuffles=3, max_plot_prompts=60)
    return train_probe(here.source, prompts, SITES, config, tokens=here.tokens, model=f"year {EVIL}", backend="nnsight")


@pytest.fixture(scope="module")
def examples(result):
    tokens = ("def", " f", EVIL, "\n", " 20", "24")
    return [
        Example(kind, score_tokens(result.probe, torch.randn(6, 24), tokens, index=row, where=f"p.jsonl:{row} {QUIET}"))
        for kind, row in example_rows(result)
    ]


@pytest.fixture(scope="module")
def page(result, examples):
    return probe_page(result, examples)


def test_the_same_bytes_twice(result, examples, page):
    assert probe_page(result, examples) == page


def test_untrusted_text_is_escaped_everywhere(page):
    assert EVIL not in page
    assert QUIET not in page
    assert "<img" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert page.count("&lt;/script&gt;&lt;img") >= 4


def test_opens_offline(page):
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", body)
    assert page.count("Plotly.newPlot(") >= 4
    assert page.count("plotly.js v") == 1


def test_says_the_numbers_and_what_they_mean(result, page):
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert probe_verdict(result).split("(AUROC")[0] in unescape(body)
    assert f"{result.best.auroc.value:.3f}" in body
    assert "cannot resolve 0.1%" in body
    for words in (
        "Worst false-positive rate",
        "shuffled labels",
        "bag of tokens",
        "frozen threshold",
        "a pair is one thing seen",
    ):
        assert words in body


def test_examples_show_every_kind_in_colour(result, examples, page):
    assert {example.kind for example in examples} == {
        "defecting",
        "triggered but harmless",
        "untriggered",
    }
    assert all(row in result.test.rows for _, row in example_rows(result))
    assert page.count('<figure class="example">') == len(examples)
    assert re.search(r"rgba\(213,94,0,0\.\d\d\)", page) or re.search(r"rgba\(0,114,178,0\.\d\d\)", page)
    assert examples[0].scored.score == pytest.approx(examples[0].scored.token_scores[-1])
    assert f"{examples[0].kind} · p.jsonl:{examples[0].scored.index}" in page


def test_the_roc_runs_from_nothing_to_everything_and_holds_the_auroc(result):
    fpr, tpr = plots.roc_points(result.test)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(result.best.auroc.value)


def test_without_examples_the_section_is_left_out(result):
    assert 'id="examples"' not in probe_page(result)


def test_all_that_is_drawn_by_layer_is_inside_the_figure(result):
    """A comparison or a control may lie far below chance, where no layer of the probe does."""
    low = Control(replace(result.best.auroc, value=0.05))
    layers = tuple(replace(layer, harmless_auroc=0.1) for layer in result.layers)
    for drawn, lowest in ((replace(result, layers=layers), 0.1), (result.with_control("clean_twin", low), 0.05)):
        figure = plots.layers(drawn)
        bottom, top = figure.layout.yaxis.range
        assert all(bottom < y < top for line in figure.data for y in line.y)
        assert bottom == pytest.approx(lowest - 0.02)


def test_the_page_says_how_the_intervals_and_the_threshold_for_watching_are_made(page):
    assert "the intervals allow for prompts of a pair, copies of a text and answers to one prompt being alike" in page
    assert "Wilson" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_result_draws_its_layers_its_scores_and_its_components(result):
    drawn = next(line for line in plots.layers(result).data if line.name == "probe")
    assert list(drawn.y) == [layer.auroc.value for layer in result.layers]
    bars = [bar for bar in plots.scores(result).data if bar.type == "bar"]
    assert all(sum(bar.y) == pytest.approx(1) for bar in bars)
    assert sum(len(points.x) for points in plots.pca(result).data) == len(result.test.pca_rows)
