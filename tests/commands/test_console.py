"""What all commands share: a refusal while options are read is one line, and a manifest names every option once."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy
import pytest
import torch
import tyro

from commands._console import config_dict, console, emit
from triggerlens import UserError, say_once, text_table


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


WRITTEN = "\x1b[2J\x9b1A\r\u202egone\x07, \u4f60\u3000\u597d\tcaf\u00e9 \N{ZEBRA FACE}\nnext"
"""What a model may write: escapes that clear a screen, go up a line or turn the text round, and text of any language."""
SHOWN = "\\u001b[2J\\u009b1A\\u000d\\u202egone\\u0007, \u4f60\u3000\u597d\tcaf\u00e9 \N{ZEBRA FACE}\nnext"


def test_what_a_model_writes_makes_no_terminal_do_anything(capsys):
    emit({}, as_json=False, text=WRITTEN)
    assert capsys.readouterr().out == SHOWN + "\n"
    emit({"answer": WRITTEN}, as_json=True, text="")
    line = capsys.readouterr().out
    assert json.loads(line) == {"answer": WRITTEN}, "JSON says the same"
    assert not set(line) & set("\x1b\x9b\r\u202e\x07")
    say_once(f"it wrote {WRITTEN}")
    with pytest.raises(SystemExit, match="2"):
        console(Command, refused_by_its_answer, [])
    assert not set(capsys.readouterr().err) & set("\x1b\x9b\r\u202e\x07")


def refused_by_its_answer(config):
    raise UserError(f"the answer is {WRITTEN}")


def test_a_table_stays_straight_where_a_cell_holds_what_a_terminal_acts_on():
    lines = text_table(["prompt", "answer"], [["a", "\x1b[2J"], ["b", "plain"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("  \\u001b[2J")


def test_an_interrupted_run_says_how_to_go_on(capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        console(Command, interrupted, [])
    assert capsys.readouterr().err.startswith("interrupted: run the same command again")


def import_a_library():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("Failed to import a library because of the following error") from None


def test_an_interrupt_that_a_library_makes_another_error_of_is_still_one_line(capsys, interruptible):
    with pytest.raises(SystemExit, match="130"):
        console(Command, lambda config: import_a_library(), [])
    assert len(capsys.readouterr().err.splitlines()) == 1


class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def in_a_finaliser():
    Finalised()


def by_a_library():
    with contextlib.suppress(ImportError):
        import_a_library()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("swallowed", [in_a_finaliser, by_a_library])
def test_an_interrupt_that_was_swallowed_leaves_the_next_one_to_end_the_command(interruptible, swallowed):
    went_on = []

    def running(config):
        swallowed()
        went_on.append(1)
        signal.raise_signal(signal.SIGINT)
        went_on.append(2)

    with pytest.raises(SystemExit, match="130"):
        console(Command, running, [])
    assert went_on == [1]


def test_while_a_command_tidies_up_another_interrupt_does_nothing(interruptible):
    tidied = []

    def running(config):
        try:
            import_a_library()
        finally:
            signal.raise_signal(signal.SIGINT)
            with contextlib.suppress(ValueError):
                raise ValueError
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)

    with pytest.raises(SystemExit, match="130"):
        console(Command, running, [])
    assert tidied


@pytest.mark.parametrize("moment", ["import commands", "import commands._console, commands.probe_train"])
def test_an_interrupt_while_a_script_is_imported_is_one_line(moment):
    code = f"import sys; sys.argv[0] = '/bin/probe-train'; {moment}; import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1)
    assert done.stderr.startswith("interrupted")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/place"),
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/full/place"),
        Exception("/full/place: No space left on device (os error 28)"),
        RuntimeError("I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_one_line_whichever_library_meets_it(capsys, error):
    def writing(config):
        raise error

    with pytest.raises(SystemExit, match="2"):
        console(Command, writing, [])
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "free space there, or set TMPDIR" in told


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG]
)
def test_a_named_file_that_cannot_be_used_is_one_line(capsys, number):
    def reading(config):
        raise OSError(number, os.strerror(number), "/some/prompts.jsonl")

    with pytest.raises(SystemExit, match="2"):
        console(Command, reading, [])
    assert capsys.readouterr().err == f"error: /some/prompts.jsonl: {os.strerror(number)}\n"


def test_a_mistake_with_a_file_that_has_no_name_keeps_its_traceback():
    def wrong(config):
        raise OSError(errno.ENOENT, "no such thing")

    with pytest.raises(OSError, match="no such thing"):
        console(Command, wrong, [])


@pytest.mark.parametrize("task", [lambda: torch.empty(2**55), lambda: bytearray(2**55), lambda: numpy.empty(2**55)])
def test_memory_that_is_not_there_is_one_line(capsys, task):
    with pytest.raises(SystemExit, match="2"):
        console(Command, lambda config: task(), [])
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert told.startswith("error: out of memory")


def test_any_other_error_keeps_its_traceback():
    def wrong(config):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        console(Command, wrong, [])


@pytest.mark.parametrize(("encoding", "closed"), [("latin-1", False), ("ascii", False), ("utf-8", True)])
def test_what_is_printed_reaches_any_terminal_and_a_closed_one_is_one_line(encoding, closed):
    code = (
        "from commands._console import console, emit\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass C:\n    'A command.'\n"
        "console(C, lambda c: emit({}, as_json=False, text='\u2265 \u4f60\u597d'), [])\n"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    if closed:
        process.stdout.close()
        told = process.stderr.read().decode()
        assert (process.wait(), len(told.splitlines())) == (2, 1)
        assert told.startswith("error: the output was closed")
    else:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert b"\\u4f60" in out
