"""Every command that takes a MODEL takes the same kinds of model, and says how to read it with the same options.

In its help each place of the command line has the name that the README gives it.
"""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from commands._console import console

FOLDER = Path(__file__).parents[2] / "commands"

COMMANDS = (
    "probe_train",
    "probe_score",
    "probe_watch",
    "patch_trace",
    "patch_ablate",
    "sae_train",
    "organism_eval",
    "organism_harden",
    "trigger_scan",
)
PLACES = {
    **dict.fromkeys(("probe_train", "probe_score", "probe_watch"), "[MODEL] [PROMPTS]"),
    **dict.fromkeys(("patch_trace", "patch_ablate", "sae_train", "trigger_scan"), "[MODEL] [PROMPTS]"),
    "organism_train": "TASK",
    "organism_eval": "[MODEL]",
    "organism_harden": "MODEL",
    "experiment_run": "[NAME]",
    "figure_make": "[NAME]",
    "zoo_build": "",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_model_takes_base_today_and_every_dtype(name):
    config = import_module(f"commands.{name}").Config
    fields = {field.name for field in dataclasses.fields(config)}
    assert {"model", "base", "today", "device", "dtype", "overwrite", "json"} <= fields
    assert set(get_args(get_type_hints(config)["dtype"])) == {"auto", "float32", "bfloat16", "float16"}


def test_every_command_has_places():
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_the_usage_names_what_is_given_by_place(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        console(import_module(f"commands.{name}").Config, print, ["--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert " ".join(usage.split()).partition("[OPTIONS]")[2].strip() == PLACES[name]
