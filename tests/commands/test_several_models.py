"""One command on many models: what each is called, what is said of one that fails, and what an interrupt ends."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands._console import console
from commands.several.models import Many, over_models
from triggerlens import UserError


@dataclass(frozen=True)
class Config:
    """A command on a model."""

    model: str = ""
    out: Path = Path("out")
    many: Many = field(default_factory=Many)
    overwrite: bool = False


def worked_on(run, out, *models):
    first, *more = map(str, models)
    return over_models(run, Config(first, out, Many(more_models=tuple(more))), lambda config: ())


def written(config):
    config.out.mkdir(exist_ok=True)
    (config.out / "result.txt").write_text(config.model)


def test_a_model_that_is_given_by_its_place_is_called_by_its_name(tmp_path, monkeypatch):
    here = tmp_path / "outer" / "inner"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    told = worked_on(written, tmp_path / "out", ".", "..")
    assert [own.name for own in told] == ["inner", "outer"]
    for own, folder in zip(told, (here, here.parent), strict=True):
        assert (tmp_path / "out" / own.name / "result.txt").read_text() == str(folder)


@pytest.mark.parametrize("model", ["/", ""])
def test_a_model_without_a_name_is_refused_before_any_is_worked_on(tmp_path, model):
    ran = []
    with pytest.raises(UserError, match=f"'{model}': a model without a name"):
        worked_on(ran.append, tmp_path / "out", "a", model)
    assert not ran


def test_a_folder_that_is_a_link_to_another_name_is_the_model_s_all_the_same(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    told = worked_on(written, tmp_path / "out", "a", "b")
    assert [(own.name, own.out) for own in told] == [(name, str(tmp_path / "out" / name)) for name in "ab"]
    assert (tmp_path / "elsewhere" / "result.txt").read_text() == "a"
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {"a.log", "b.log"}


def failing(config):
    if config.model == "bad":
        raise UserError("no such\nthing")
    raise ZeroDivisionError("by caf\u00e9")


def test_the_log_that_a_failure_points_to_says_what_failed(tmp_path):
    told = worked_on(failing, tmp_path / "out", "bad", "broken")
    assert [own.reason for own in told] == ["no such thing", "ZeroDivisionError: by caf\u00e9"]
    bad, broken = ((tmp_path / "out" / "logs" / f"{name}.log").read_text("utf-8") for name in ("bad", "broken"))
    assert bad == "error: no such thing\n"
    assert broken.startswith("Traceback (most recent call last):\n")
    assert "in failing\n" in broken
    assert broken.endswith("ZeroDivisionError: by caf\u00e9\n")


@pytest.mark.parametrize("error", [RuntimeError, UserError])
def test_an_interrupt_that_a_library_makes_another_error_of_ends_all_models(tmp_path, interruptible, capsys, error):
    ran = []

    def importing(config):
        ran.append(config.model)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("a library could not be imported") from None

    with pytest.raises(SystemExit, match="130"):
        console(Config, lambda config: worked_on(importing, tmp_path / "out", "a", "b"), [])
    assert ran == ["a"]
    assert capsys.readouterr().err.startswith("interrupted: run the same command again")
