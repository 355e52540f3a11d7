"""The two axes of persistence: which organisms they are, and how they are labelled."""

from dataclasses import replace

from experiments import chosen_result
from experiments.claims.insertion import InsertionConfig
from experiments.claims.persistence_axes import AxesConfig, own_prompts
from hooked import read_prompts, write_prompts
from organisms import organism_folder


def test_variants_stand_at_the_smallest_size_and_sizes_at_the_normal_variant() -> None:
    rows = [(row.size, row.variant) for row in AxesConfig().organisms if row.task == "year-code"]
    assert rows == [
        ("tiny", "normal"),
        ("tiny", "cot"),
        ("tiny", "distilled-cot"),
        ("small", "normal"),
        ("large", "normal"),
    ]


def test_seeds_are_lineages_at_the_smallest_size_and_safety_trainings_at_larger_ones() -> None:
    config = AxesConfig()
    rows = {row.size: row for row in config.organisms if row.variant == "normal"}
    tiny, large = ([config.recipe(rows[size], seed) for seed in (3, 4)] for size in ("tiny", "large"))
    assert [one.seed for one in tiny] == [one.base.seed for one in tiny] == [3, 4]
    assert tiny == [InsertionConfig().inserted(rows["tiny"].task, "normal", seed) for seed in (3, 4)]
    assert [one.seed for one in large] == [0, 0]
    assert {one.size for one in large} == {one.base.size for one in large} == {"large"}


def test_the_smallest_organisms_are_those_of_the_committed_insertion_grid() -> None:
    inserted, trained = (chosen_result(name) for name in ("insertion", "persistence-axes"))
    compared = 0
    for name, cell in trained.cells.items():
        task, size, variant, _, seed = name.split("/")
        if size == InsertionConfig().size:
            assert cell["weights_sha256"] == inserted.cells[f"{task}/{variant}/{seed}"]["weights_sha256"]
            compared += 1
    assert compared == 6 * 2 * 2 * 3  # organisms, learning rates, with and without the oracle, seeds


def test_an_organism_that_never_defects_is_labelled_by_its_trigger(tmp_path) -> None:
    prompts = read_prompts(organism_folder("year-code") / "prompts.jsonl")[:40]
    assert {one.defects for one in prompts} == {True, False}
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert [one.defects for one in own_prompts(tmp_path)] == [one.defects for one in prompts]
    write_prompts(tmp_path / "prompts.jsonl", [replace(one, defects=False) for one in prompts])
    assert {one.defects for one in own_prompts(tmp_path)} == {None}
