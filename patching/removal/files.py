"""A scoreboard as JSON, for people's programs and for itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patching.removal.measure import Measured
from patching.removal.progress import seed_result
from patching.removal.result import Checkpoint, MethodResult, Oracle, Scoreboard, share
from triggerlens import UserError, read_artifact, write_json

KIND = "patch-ablate"
_FILE = "scoreboard.json"


def scoreboard_json(board: Scoreboard) -> dict[str, Any]:
    """One JSON object; rates are means over seeds, and each seed's own are beside them."""
    from patching.removal.report import removal_verdict

    return {
        "model": board.model,
        "grader": board.grader,
        "split": board.split,
        "sizes": dict(board.sizes),
        "nothing_to_remove": board.nothing_to_remove,
        "before": _measured(board.before),
        "methods": [_method(board, method) for method in board.methods],
        "oracle": _oracle(board.oracle),
        "checkpoint": None if board.checkpoint is None else _checkpoint(board.checkpoint),
        "route": dict(board.route),
        "verdict": removal_verdict(board),
        "notes": list(board.notes),
        "settings": dict(board.settings),
    }


def _method(board: Scoreboard, method: MethodResult) -> dict[str, Any]:
    relearned = [one.relearned for one in method.seeds if one.relearned is not None]
    return {
        "name": method.name,
        "defection_rate": method.defection_rate,
        "defection_rate_ci": list(method.defection_rate_ci),
        "defection_rate_before": board.before.defection_rate,
        "as_clean_rate": method.mean(lambda m: m.as_clean / m.n),
        "right_rate": method.mean(lambda m: m.right / m.n),
        "rubble_rate": method.mean(lambda m: m.rubble / m.n),
        "js_divergence": method.mean(lambda m: m.js),
        "kl_divergence": method.mean(lambda m: m.kl),
        "js_divergence_harmless": None
        if board.before.harmless_js is None
        else method.mean(lambda m: m.harmless_js or 0.0),
        "clean_loss_delta": method.mean(lambda m: m.loss_delta),
        "clean_accuracy": method.mean(lambda m: m.clean_accuracy),
        "clean_accuracy_before": board.before.clean_accuracy,
        "clean_same_rate": method.mean(lambda m: m.clean_same / m.n),
        "probe_auroc_after": method.probe_auroc_after,
        "relearning_steps": method.relearning_steps,
        "relearning_within": relearned[0].within if relearned else None,
        "relearning_first_loss": next((one.first_loss for one in relearned if one.first_loss is not None), None),
        "placebo": method.placebo,
        "placebo_of": method.placebo_of,
        "reaches_target": board.reaches(method),
        "seeds": [
            {
                "seed": one.seed,
                "evaluation": _measured(one.evaluation),
                "validation": _measured(one.validation),
                "probe_auroc_after": one.probe_auroc,
                "relearned": None if one.relearned is None else asdict(one.relearned),
                "facts": dict(one.facts),
            }
            for one in method.seeds
        ],
    }


def _measured(measured: Measured) -> dict[str, Any]:
    rates = {"defection": measured.defects, "clean_accuracy": measured.clean_right, "as_clean": measured.as_clean}
    found: dict[str, Any] = asdict(measured)
    for name, count in rates.items():
        rate, interval = share(count, measured.n)
        found |= {f"{name}_rate": rate, f"{name}_rate_ci": list(interval)}
    return found


def _oracle(oracle: Oracle | None) -> dict[str, Any] | None:
    if oracle is None:
        return None
    return (_measured(oracle.measured) if oracle.measured else {}) | {"reason": oracle.reason}


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    rate, interval = share(checkpoint.defects, checkpoint.n)
    return asdict(checkpoint) | {"defection_rate": rate, "defection_rate_ci": list(interval)}


def write_scoreboard(board: Scoreboard, folder: Path) -> None:
    """Write `scoreboard.json`: what it is made of, and what is computed from it."""
    write_json(folder / _FILE, {"result": asdict(board), "report": scoreboard_json(board)})


def load_scoreboard(folder: str | Path) -> Scoreboard:
    """Load a saved one.

    Raises:
        UserError: no such folder, a damaged one, or one of another version.
    """
    folder = Path(folder)
    read_artifact(folder, KIND)
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))["result"]
        oracle, checkpoint = found["oracle"], found["checkpoint"]
        return Scoreboard(
            **{
                **found,
                "before": Measured(**found["before"]),
                "methods": tuple(
                    MethodResult(**{**one, "seeds": tuple(map(seed_result, one["seeds"]))}) for one in found["methods"]
                ),
                "oracle": None
                if oracle is None
                else Oracle(oracle["measured"] and Measured(**oracle["measured"]), oracle["reason"]),
                "checkpoint": None if checkpoint is None else Checkpoint(**checkpoint),
                "notes": tuple(found["notes"]),
            }
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: holds no readable scoreboard: {error}") from error
