"""Every command that takes a MODEL takes the same kinds of model, and says how to read it with the same options."""

import dataclasses
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

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


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_model_takes_base_today_and_every_dtype(name):
    config = import_module(f"commands.{name}").Config
    fields = {field.name for field in dataclasses.fields(config)}
    assert {"model", "base", "today", "device", "dtype", "overwrite", "json"} <= fields
    assert set(get_args(get_type_hints(config)["dtype"])) == {"auto", "float32", "bfloat16", "float16"}
