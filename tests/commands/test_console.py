"""What all commands share: a refusal while options are read is one line, and a manifest names every option once."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro

from commands._console import config_dict, console
from triggerlens import UserError


@dataclass(frozen=True)
class Settings:
    """A room's settings."""

    method: Annotated[Literal["logistic", "lda"], tyro.conf.arg(name="probe")] = "logistic"
    """Kind."""
    C: float = 1.0
    """Inverse penalty."""
    resamples: Annotated[int, tyro.conf.Suppress] = 1000
    """No option."""

    def __post_init__(self):
        if not self.C > 0:
            raise UserError(f"C {self.C}:\nmust be positive")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command."""

    out: str = "runs"
    """Folder."""
    clean_twin: str | None = None
    """A model."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def test_settings_of_a_room_are_options_of_the_command():
    seen = []
    console(Command, seen.append, ["--probe", "lda", "--C", "2"])
    assert seen[0].settings == Settings("lda", 2.0)
    assert config_dict(seen[0]) == {"clean_twin": None, "probe": "lda", "c": 2.0}


@pytest.mark.parametrize("arguments", [["--resamples", "5"], ["--method", "lda"], ["--settings.C", "2"]])
def test_what_is_no_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        console(Command, print, arguments)
    assert "Traceback" not in capsys.readouterr().err


def test_a_value_that_the_settings_refuse_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        console(Command, print, ["--C", "-1"])
    assert capsys.readouterr().err == "error: C -1.0: must be positive\n"


def test_an_interrupted_run_says_how_to_go_on(capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        console(Command, interrupted, [])
    assert capsys.readouterr().err.startswith("interrupted: run the same command again")
