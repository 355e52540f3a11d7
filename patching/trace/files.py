"""A trace as files: maps in safetensors, everything else in JSON, no clock anywhere."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from patching.engine.exact import Audit
from patching.trace.route import HeadRoute
from patching.trace.run import ROLES, PairMap, PatchTrace
from triggerlens import Manifest, UserError, read_artifact, write_json, writing_artifact

KIND = "patch-trace"
_MAPS = ("effect", "heads")
_UNSAVED = ("cells_per_second",)
_PARTS = ("pairs", "audit", "routes")


def trace_json(trace: PatchTrace) -> dict[str, Any]:
    """The result as one JSON object; `effect` is layers × positions, null where a position was not patched."""
    return {
        "model": trace.model,
        "site": trace.site,
        "method": trace.method,
        "direction": trace.direction,
        "metric": trace.metric,
        "layers": list(trace.layers),
        "tokens": list(trace.tokens),
        "effect": _listed(trace.effect),
        "effect_of": _effect_of(trace),
        "top": [asdict(cell) for cell in trace.top()],
        "trigger_share": None if trace.trigger_share is None else trace.trigger_share.mean,
        "trigger_share_over_pairs": None if trace.trigger_share is None else asdict(trace.trigger_share),
        "roles": {role: _listed(column) for role, column in zip(ROLES, trace.by_role.T, strict=True)},
        "heads": None if trace.heads is None else _listed(trace.heads),
        "head_site": trace.head_site,
        "routes": [asdict(route) for route in trace.routes],
        "audit": {
            "against": "one cell at a time" if trace.method == "exact" else "exact patching",
            **asdict(trace.audit),
        },
        "engine": trace.engine,
        "cells_run": trace.ran,
        "cells_skipped": trace.skipped,
        "notes": list(trace.notes),
        "pairs": [_pair_json(pair) for pair in trace.pairs],
        "cells_per_second": trace.cells_per_second,
    }


def _effect_of(trace: PatchTrace) -> str:
    if len(trace.pairs) == 1:
        return "the pair"
    return "mean over pairs" if trace.same_shape else "mean over pairs, summed by landmark"


def _pair_json(pair: PairMap) -> dict[str, Any]:
    facts = {name: value for name, value in _facts(pair).items() if name not in ("source_tokens", "inserted")}
    return facts | {
        "trigger_share": pair.trigger_share(),
        "effect": _listed(pair.effect),
    }


def _facts(pair: PairMap) -> dict[str, Any]:
    return {field.name: getattr(pair, field.name) for field in fields(pair) if field.name not in _MAPS}


def _listed(values: Float[np.ndarray, "..."]) -> Any:
    """Nested lists with null for NaN, which JSON does not have."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return cells.tolist()


def write_trace(trace: PatchTrace, folder: Path) -> None:
    """Write `trace.safetensors` and `trace.json`."""
    maps = {
        f"{name}.{at}": np.ascontiguousarray(getattr(pair, name))
        for at, pair in enumerate(trace.pairs)
        for name in _MAPS
        if getattr(pair, name) is not None
    }
    save_file(maps, folder / "trace.safetensors")
    plain = {f.name: getattr(trace, f.name) for f in fields(trace) if f.name not in (*_UNSAVED, *_PARTS)}
    parts = {
        "audit": asdict(trace.audit),
        "pairs": [_facts(pair) for pair in trace.pairs],
        "routes": [asdict(route) for route in trace.routes],
    }
    write_json(folder / "trace.json", plain | parts)


def save_trace(trace: PatchTrace, out: str | Path, *, overwrite: bool = False) -> None:
    """Save as an artifact folder of its own."""
    model = {"name": trace.model, "weights_sha256": trace.weights_sha256}
    with writing_artifact(out, Manifest(kind=KIND, model=model), overwrite=overwrite) as folder:
        write_trace(trace, folder)


def load_trace(folder: str | Path) -> PatchTrace:
    """Load a saved trace.

    Raises:
        UserError: no such folder, a damaged one, or one of another version.
    """
    folder = Path(folder)
    read_artifact(folder, KIND)
    try:
        maps = load_file(folder / "trace.safetensors")
        facts = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
        pairs = tuple(
            PairMap(**_tupled(pair) | {name: maps.get(f"{name}.{at}") for name in _MAPS})
            for at, pair in enumerate(facts.pop("pairs"))
        )
        routes = tuple(HeadRoute(**_tupled(route)) for route in facts["routes"])
        return PatchTrace(**_tupled(facts) | {"audit": Audit(**facts["audit"]), "pairs": pairs, "routes": routes})
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise UserError(f"{folder}: holds no readable trace: {error}") from error


def _tupled(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
