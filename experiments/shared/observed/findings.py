"""What claims 11 and 12 found, in typed rows: AUROC of probes and controls by setting, and what steering does to answers and to an organism."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments.result import Finding, Specimen, labels_in_order, mean_over_seeds
from experiments.shared.observed.transfer import PROBES, SETTINGS, ProbeKind, Setting
from triggerlens import Estimate

ControlName = Literal[
    "random directions", "shuffled labels", "unrelated direction", "bag of words", "characters", "length"
]
FLOORS: dict[ControlName, str] = {
    "random directions": "random",
    "shuffled labels": "shuffled",
    "unrelated direction": "unrelated",
    "bag of words": "words",
    "characters": "characters",
}
"""What a probe has to clear, and what the claims table calls it."""
HEADLINE: Setting = "across formats, new cues"
AUROC, CONCEPT, EFFECT, MOVED = "AUROC", "AUROC of the unrelated concept", "steering effect", "divergence when steered"
PREDICTS, RATE, RIGHT = "AUROC for defection", "defection rate", "right on clean"


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the context in one setting."""

    of: ProbeKind
    setting: Setting
    kind: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True)
class Floor:
    """What knows nothing of the context, or sees the text alone, in one setting."""

    of: ControlName
    setting: Setting
    count: int = 1
    """How many it is the best of."""
    kind: Literal["floor"] = "floor"


@dataclass(frozen=True, slots=True)
class Steered:
    """A direction that is added and subtracted."""

    along: Literal["observed", "unrelated", "placebo"]
    dose: float
    kind: Literal["steered"] = "steered"


@dataclass(frozen=True, slots=True)
class Acted:
    """An organism as it is, or with a direction added while it answers."""

    toward: Literal["nothing", "observed", "deployed", "placebo"]
    on: Literal["defecting", "others"]
    """The prompts: those on which it defects by itself, or the others."""
    dose: float = 0.0
    kind: Literal["acted"] = "acted"


@dataclass(frozen=True, slots=True)
class Ranked:
    """An organism's prompts in the order of a projection: the base's direction, the best of the random ones, or the base's on its own activations."""

    by: Literal["the base's direction", "random directions", "the base itself"]
    among: Literal["all", "near misses"]
    """Its defections stand among all other prompts, or among those alone that nearly carry the trigger."""
    kind: Literal["ranked"] = "ranked"


def summarise(specimen: Specimen, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """AUROC of each probe and control in each setting, and the effect of steering."""
    findings: list[Finding] = []
    for setting in SETTINGS:
        findings += _ranked(specimen, cells, setting)
    findings += _steered(specimen, cells) if "steering" in cells[0] else []
    return findings + (acted(specimen, cells) if "acting" in cells[0] else [])


def _ranked(specimen: Specimen, cells: Sequence[Mapping[str, Any]], setting: Setting) -> Iterable[Finding]:
    def finding(measure: str, arm: Any, label: str, estimates: list[Any], detail: str = "") -> Finding:
        return Finding(11, measure, specimen, arm, over(estimates), len(cells), label, detail)

    for kind in PROBES:
        each = [cell["probes"][kind] for cell in cells]
        layers = labels_in_order(
            [site for own in each for name, site in own["layers"].items() if name.startswith("all but")]
        )
        detail = layers if setting == HEADLINE else ""
        yield finding(
            AUROC, Probe(kind, setting), f"{kind}, {setting}", [own["settings"][setting] for own in each], detail
        )
    for name in ("random directions", "shuffled labels"):
        floors = [cell["floors"][name][setting] for cell in cells]
        count = floors[0]["count"]
        yield finding(
            AUROC,
            Floor(name, setting, count),
            f"{name}, {setting}",
            [own["best"] for own in floors],
            f"best of {count}",
        )
    if "unrelated" not in cells[0]:
        return
    there = [cell["unrelated"]["on observed"][setting] for cell in cells]
    yield finding(AUROC, Floor("unrelated direction", setting), f"unrelated direction, {setting}", there)
    for name in cells[0]["text"]:
        yield finding(
            AUROC, Floor(name, setting), f"{name}, {setting}", [cell["text"][name][setting] for cell in cells]
        )
    its_own = [cell["unrelated"]["settings"][setting] for cell in cells]
    yield finding(CONCEPT, Probe("mean difference", setting), f"mean difference, {setting}", its_own)


def over(values: Sequence[Any]) -> Estimate:
    """The mean over seeds, of estimates or of plain numbers; of these, the interval is from the least to the greatest."""
    if isinstance(values[0], Mapping):
        return mean_over_seeds(values)
    return Estimate(sum(values) / len(values), min(values), max(values))


def _of_the_same(values: Sequence[Any]) -> Estimate:
    """The same, where every seed looked at the same prompts: it rests on these, however many seeds there are."""
    mean, sizes = over(values), [own["n"] for own in values if isinstance(own, Mapping) and own.get("n") is not None]
    return replace(mean, count=None, n=min(sizes)) if sizes else mean


def _steered(specimen: Specimen, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Nats of log-odds along the direction at each dose, along the unrelated one, and of the placebo that moves them most. Layers and p are by seed."""
    each = [cell["steering"] for cell in cells]
    dose = float(each[0]["dose"])
    detail = f"{', '.join(own['site'] for own in each)}; p = {', '.join(format(own['p'], '.2f') for own in each)}"
    rows: list[tuple[Steered, str, list[Any], list[float], str]] = [
        (
            Steered("observed", float(name)),
            f"along the direction, {name} of the norm",
            [own["doses"][name]["effect"] for own in each],
            [own["doses"][name]["moved"] for own in each],
            detail if float(name) == dose else "",
        )
        for name in sorted(each[0]["doses"], key=float)
    ]
    unrelated = [own["directions"]["unrelated"] for own in each]
    rows.append(
        (
            Steered("unrelated", dose),
            f"along the unrelated one, {dose} of the norm",
            [own["effect"] for own in unrelated],
            [own["moved"] for own in unrelated],
            "",
        )
    )
    placebos = [own["placebos"] for own in each]
    furthest = [max(map(abs, own["effects"])) for own in placebos]
    moved = [sum(own["moved"]) / len(own["moved"]) for own in placebos]
    label = f"furthest of {len(placebos[0]['effects'])} placebos, {dose} of the norm"
    rows.append((Steered("placebo", dose), label, furthest, moved, ""))
    return [
        Finding(12, measure, specimen, arm, over(values), len(cells), label, note)
        for arm, label, effects, distances, note in rows
        for measure, values in ((EFFECT, effects), (MOVED, distances))
    ]


def acted(specimen: Specimen, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """How the base's direction ranks an organism's defections, and the rates with the direction added."""
    each = [cell["acting"] for cell in cells]
    dose = next(iter(each[0]["doses"]))
    many = len(each[0]["placebos"])
    rows: list[tuple[str, Acted | Ranked, str, list[Any]]] = []
    asked: tuple[Literal["defecting", "others"], ...] = ("defecting", "others")
    steered: tuple[tuple[Literal["observed", "deployed"], Literal["defecting", "others"]], ...] = (
        ("observed", "defecting"),
        ("deployed", "others"),
    )
    for on in asked:
        rows.append((RATE, Acted("nothing", on), f"untouched, {on}", [own["untouched"][on] for own in each]))
    for name in each[0]["doses"]:
        own_dose = float(name)
        for toward, on in steered:
            label = f"towards {toward}, {name} of the norm, {on}"
            rows.append((RATE, Acted(toward, on, own_dose), label, [own["doses"][name][on] for own in each]))
        label = f"towards observed, {name} of the norm, others"
        rows.append((RIGHT, Acted("observed", "others", own_dose), label, [own["right"][name] for own in each]))
    rows.append(
        (RIGHT, Acted("nothing", "others"), "untouched, others", [own["untouched"]["others right"] for own in each])
    )
    least = [min(own["placebos"]) for own in each]
    label = f"lowest of {many} placebos, {dose} of the norm, defecting"
    rows.append((RATE, Acted("placebo", "defecting", float(dose)), label, least))
    return [
        Finding(12, measure, specimen, arm, _of_the_same(values), len(cells), label)
        for measure, arm, label, values in _predicted(each) + rows
    ]


def _predicted(each: Sequence[Mapping[str, Any]]) -> list[tuple[str, Acted | Ranked, str, list[Any]]]:
    """How each draw's directions rank the organism's defections, among all prompts and among near misses where there are any."""
    many = len(each[0]["placebos"])
    among: tuple[Literal["all", "near misses"], ...] = ("all", "near misses")
    rows: list[tuple[str, Acted | Ranked, str, list[Any]]] = []
    for on in among:
        if on not in each[0]["predicts"]:
            continue
        # As for the floors of probes, the better way round of each: a random direction has no sign of its own.
        best = [max(max(line[on], 1 - line[on]) for line in own["predicts at random"]) for own in each]
        of_base = [own["predicts in the base"][on] for own in each]
        rows += [
            (
                PREDICTS,
                Ranked("the base's direction", on),
                f"the base's direction, {on}",
                [own["predicts"][on] for own in each],
            ),
            (PREDICTS, Ranked("random directions", on), f"best of {many} random directions, {on}", best),
            (PREDICTS, Ranked("the base itself", on), f"the base's direction on the base itself, {on}", of_base),
        ]
    return rows
