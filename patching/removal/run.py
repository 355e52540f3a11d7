"""Every removal on one scoreboard: fitted on some pairs, chosen on others, measured on pairs that neither saw.

1. Pairs are split (`pairs`), and the unedited model answers all of them. Where it does not defect, there is nothing to remove.
2. The patching map of a few fitting pairs names heads, layers and positions (`route`).
3. With each seed, each method makes its edit on four fifths of the fitting pairs, and its placebo. Each is measured on the
   validation and on the evaluation pairs, a fresh probe is trained on it, and it is trained further (`relearning`).
4. Methods are ranked by their validation pairs alone. The weight edit that comes first is written as an ordinary
   checkpoint, loaded again in plain `transformers`, and measured there.

Weights are edited in one copy of the model, which is made once (`weights`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from hooked import HookedModel, Prompt, identity_sha256
from patching.removal.config import AblateConfig
from patching.removal.edits import AnyEdit, WeightEdit
from patching.removal.fit import Fit
from patching.removal.grading import Grader, following, remembering
from patching.removal.measure import Bench, ProbeTrainer, defection_of, measure, probe_after
from patching.removal.methods.method import Method, given
from patching.removal.methods.oracle import cut_attention
from patching.removal.methods.registry import METHODS
from patching.removal.pairs import Answers, RemovalPairs, both, gather_pairs
from patching.removal.relearning import Relearned, Sample, encoded, relearn
from patching.removal.result import EditOutcome, MethodResult, OracleResult, SavedCheckpoint, Scoreboard, SeedResult
from patching.removal.route import Route, find_route
from patching.removal.subject import Subject
from patching.removal.weights import EditableModel, plain_answers, save_edited
from triggerlens import Cells, Keep, UserError, from_json, keep_nothing, to_json

OWN_ANSWERS = "the model's own answers"


def patch_ablate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    config: AblateConfig | None = None,
    grader: Grader | None = None,
    grader_name: str = "",
    probe: ProbeTrainer | None = None,
    benign: Sequence[tuple[Prompt, str]] = (),
    edits: Sequence[AnyEdit] = (),
    methods: Sequence[Method] = METHODS,
    checkpoint: Path | None = None,
    progress: Path | None = None,
    name: str | None = None,
) -> Scoreboard:
    """Try every method and measure it.

    Args:
        model: the model.
        prompts: pairs of triggered and untriggered prompts.
        config: sizes and strengths.
        grader: says which answers defect and which are right; by the model's own two answers where None.
        grader_name: what to call it.
        probe: trains a fresh probe; no probe where None.
        benign: untriggered prompts with answers, for further training; where empty, the fitting side's untriggered prompts
            with the model's own answers.
        edits: ready edits that join the methods.
        methods: what is tried.
        checkpoint: folder to write the best weight edit to; not written where None.
        progress: folder of `triggerlens.Cells` that keeps each result as it comes, so that the same call goes on where it
            stopped; yours to remove once the scoreboard is saved (`triggerlens.drop_cells`).
        name: what to call the model; its own name where None.

    Raises:
        UserError: too few pairs; an edit that returns another shape or NaN; an unfinished run of other settings.
    """
    removal = _Removal.begin(model, prompts, config or AblateConfig(), grader, grader_name, probe, benign)
    tried = [*methods, *map(given, edits)]
    board = removal.empty_board(model.info.name if name is None else name)
    if board.nothing_to_remove:
        return board
    keep: Keep = keep_nothing if progress is None else Cells(progress, removal.identity(tried)).keep
    return removal.fill(board, tried, keep, checkpoint)


@dataclass(frozen=True)
class _Removal:
    """What all steps share."""

    model: HookedModel
    editable: EditableModel
    config: AblateConfig
    pairs: RemovalPairs
    bench: Bench
    validation: Bench
    probe: ProbeTrainer | None
    samples: Sequence[Sample]
    grader_name: str

    @classmethod
    def begin(
        cls,
        model: HookedModel,
        prompts: Sequence[Prompt],
        config: AblateConfig,
        grader: Grader | None,
        grader_name: str,
        probe: ProbeTrainer | None,
        benign: Sequence[tuple[Prompt, str]],
    ) -> _Removal:
        """Step 1."""
        pairs = gather_pairs(
            model,
            prompts,
            fit=config.fit_pairs,
            validation=config.validation_pairs,
            evaluation=config.evaluation_pairs,
            harmless=config.harmless_pairs,
        )
        unedited = Subject(model, batch_size=config.batch_size)
        answers = _answers(unedited, pairs, config.new_tokens)
        judge = remembering(grader or following(model, (*pairs.validation, *pairs.evaluation), answers))
        bench = Bench(pairs.evaluation, pairs.harmless_evaluation, answers, judge, config.new_tokens, unedited)
        validation = replace(bench, pairs=pairs.validation, harmless=())
        own = [(pair.clean, answers[pair.clean.ids]) for pair in pairs.fit]
        samples = encoded(model, [prompt for prompt, _ in benign], [answer for _, answer in benign]) if benign else own
        name = grader_name if grader is not None else OWN_ANSWERS
        return cls(model, EditableModel(model), config, pairs, bench, validation, probe, samples, name)

    def identity(self, methods: Sequence[Method]) -> dict[str, Any]:
        """What must be the same for results to be of the same run."""
        return {
            "weights": self.model.info.weights_sha256,
            "model": identity_sha256(self.model.identity()["model"]),
            "prompts": _digest([prompt.ids for prompt in both(self.pairs.evaluation + self.pairs.fit)]),
            "config": to_json(self.config),
            "grader": self.grader_name,
            "benign": _digest([(prompt.ids, answer) for prompt, answer in self.samples]),
            "methods": [method.name for method in methods],
            "backend": self.model.backend,
            "dtype": str(self.model.dtype),
        }

    def empty_board(self, name: str) -> Scoreboard:
        """The unedited model's row, and no method yet."""
        return Scoreboard(
            model=name,
            weights_sha256=self.model.info.weights_sha256,
            grader=self.grader_name,
            split=self.pairs.split,
            sizes=self.pairs.sizes,
            before=measure(self.bench.unedited, self.bench),
            methods=(),
            oracle=None,
            checkpoint=None,
            route=None,
            settings=self.config,
            notes=self.pairs.notes,
        )

    def fill(self, board: Scoreboard, methods: Sequence[Method], keep: Keep, checkpoint: Path | None) -> Scoreboard:
        """Steps 2 to 4."""
        route = find_route(self.model, self.pairs.fit, self.bench.answers, self.config.traced_pairs)
        trials = _Trials(self, route, keep)
        results, notes = trials.run_all(methods)
        ranked = tuple(sorted(results, key=lambda method: (method.is_placebo, method.rank(self.config.target))))
        board = replace(board, methods=ranked, oracle=self.oracle(), route=route.facts(), notes=board.notes + notes)
        if checkpoint is not None and board.best is not None:
            made = next(method for method in methods if method.name == board.best.name)
            board = replace(board, checkpoint=self.save(board.best, partial(trials.fitted, made), checkpoint))
        return board

    def fit(self, route: Route, seed: int) -> Fit:
        """This seed's fitting side."""
        rng = Random(seed)
        fitted, harmless = (
            tuple(rng.sample(part, max(1, len(part) * 4 // 5)) if part else ())
            for part in (self.pairs.fit, self.pairs.harmless_fit)
        )
        return Fit(self.model, self.editable, fitted, harmless, self.bench.answers, route, seed, self.config)

    @contextmanager
    def under(self, edit: AnyEdit, *, own_weights: bool = False) -> Iterator[Subject]:
        """The model under an edit of either kind; with weights of its own, which may be trained."""
        size = self.config.batch_size
        if isinstance(edit, WeightEdit):
            with self.editable.under(edit) as edited:
                yield Subject(edited, batch_size=size)
        elif own_weights:
            with self.editable.under() as copied:
                yield Subject(copied, edit, size)
        else:
            yield Subject(self.model, edit, size)

    def measure(self, edit: AnyEdit, fit: Fit) -> tuple[EditOutcome, EditOutcome, float | None]:
        """What the edit does to evaluation and validation pairs, and the AUROC of a fresh probe."""
        with self.under(edit) as subject:
            outcomes = measure(subject, self.bench), measure(subject, self.validation)
            return *outcomes, self.probe_after(subject, fit)

    def relearn(self, edit: AnyEdit, seed: int) -> Relearned:
        """Whether the behaviour comes back under further training."""
        defection = defection_of(self.bench, self.config.relearn_pairs)
        with self.under(edit, own_weights=True) as subject:
            return relearn(subject, self.samples, defection, self.config, seed)

    def probe_after(self, subject: Subject, fit: Fit) -> float | None:
        """None without a trainer, or where it finds the pairs too few."""
        if self.probe is None:
            return None
        try:
            return probe_after(subject, fit.pairs, self.pairs.evaluation, self.probe)
        except UserError:
            return None

    def oracle(self) -> OracleResult:
        """The bound."""
        try:
            edit = cut_attention(self.model)
        except UserError as reason:
            return OracleResult(None, str(reason))
        with self.under(edit) as subject:
            return OracleResult(measure(subject, self.bench))

    def save(self, best: MethodResult, fitted: Callable[[int], WeightEdit], folder: Path) -> SavedCheckpoint:
        """Step 4: of the seeds' edits the one that does best on validation pairs."""
        chosen = min(best.seeds, key=_on_validation)
        edit = fitted(chosen.seed)
        prompts = [prompt for pair in self.pairs.evaluation for prompt in (pair.triggered, pair.clean)]
        with self.under(edit) as subject:
            measured = subject.answers(prompts, self.config.new_tokens)
        save_edited(self.editable, edit, folder)
        plain = plain_answers(folder, self.model, prompts, self.config.new_tokens, self.config.batch_size)
        triggered = prompts[::2]
        return SavedCheckpoint(
            path=folder.name,
            method=best.name,
            seed=chosen.seed,
            defects=sum(grade.defects for grade in self.bench.grades(triggered, plain[::2])),
            n=len(triggered),
            same_answers=sum(answer == before for answer, before in zip(measured, plain, strict=True)),
            of=len(prompts),
        )


class _Trials:
    """Step 3: every method and its placebo with every seed."""

    def __init__(self, removal: _Removal, route: Route, keep: Keep):
        self.removal, self.route, self.keep = removal, route, keep
        self._best: dict[str, tuple[SeedResult, WeightEdit]] = {}
        """Of each method the weight edit of the seed that does best on validation pairs, so that the winner is not made twice."""

    def run_all(self, methods: Sequence[Method]) -> tuple[list[MethodResult], tuple[str, ...]]:
        """The results; and a note on each method that is left out, since this model does not admit it."""
        seeds = self.removal.config.seeds
        rows: dict[tuple[str, str | None], list[SeedResult]] = {}
        notes: dict[str, None] = {}
        total = len(seeds) * sum(1 + (method.placebo is not None) for method in methods)
        with tqdm(total=total, desc="methods × seeds", unit="edit", disable=None) as bar:
            for seed in seeds:
                fit = self.removal.fit(self.route, seed)
                for method in methods:
                    try:
                        for name, placebo_of, result in self._results(method, fit):
                            rows.setdefault((name, placebo_of), []).append(result)
                            bar.update()
                    except _NotFitted as reason:
                        notes[f"{method.name} was left out: {reason}"] = None
        results = [MethodResult(name, placebo_of, tuple(own)) for (name, placebo_of), own in rows.items()]
        return results, tuple(notes)

    def fitted(self, method: Method, seed: int) -> WeightEdit:
        """A method's edit with a seed: the one that was measured, or, where an earlier process measured it, the same made again."""
        if method.name in self._best and self._best[method.name][0].seed == seed:
            return self._best[method.name][1]
        edit = method.make(self.removal.fit(self.route, seed))
        assert isinstance(edit, WeightEdit)  # only such an edit is saved
        return edit

    def _results(self, method: Method, fit: Fit) -> Iterator[tuple[str, str | None, SeedResult]]:
        """A method's row and its placebo's; edits are made only where a result is missing."""
        made: list[AnyEdit] = []

        def edit() -> AnyEdit:
            if not made:
                made.append(_made(method, fit))
            return made[0]

        result = self._kept(method.name, fit, edit, placebo=False)
        if made and isinstance(made[0], WeightEdit):
            self._remember(method.name, result, made[0])
        yield method.name, None, result
        make_placebo = method.placebo
        if make_placebo is not None:
            name = f"placebo:{method.name}"
            yield name, method.name, self._kept(name, fit, lambda: make_placebo(fit, edit()), placebo=True)

    def _remember(self, name: str, result: SeedResult, edit: WeightEdit) -> None:
        best = self._best.get(name)
        if best is None or _on_validation(result) < _on_validation(best[0]):
            self._best[name] = result, replace(edit, weights={key: value.cpu() for key, value in edit.weights.items()})

    def _kept(self, name: str, fit: Fit, edit: Callable[[], AnyEdit], *, placebo: bool) -> SeedResult:
        facts = self.keep(
            f"{name}, seed {fit.seed}", lambda: {"result": to_json(self._try(edit(), fit, placebo=placebo))}
        )
        return from_json(SeedResult, facts["result"], name)

    def _try(self, edit: AnyEdit, fit: Fit, *, placebo: bool) -> SeedResult:
        """Measure one edit."""
        evaluation, validation, auroc = self.removal.measure(edit, fit)
        return SeedResult(
            seed=fit.seed,
            edits="weights" if isinstance(edit, WeightEdit) else "activations",
            evaluation=evaluation,
            validation=validation,
            probe_auroc=auroc,
            relearned=None if placebo else self.removal.relearn(edit, fit.seed),
            facts=dict(edit.facts) if isinstance(edit, WeightEdit) else {},
        )


class _NotFitted(Exception):
    """A method cannot make its edit for this model."""


def _made(method: Method, fit: Fit) -> AnyEdit:
    try:
        return method.make(fit)
    except UserError as reason:
        raise _NotFitted(str(reason)) from reason


def _on_validation(result: SeedResult) -> tuple[int, float]:
    """Sorts a method's seeds, best first."""
    return result.validation.defects, result.validation.js


def _answers(unedited: Subject, pairs: RemovalPairs, new_tokens: int) -> Answers:
    prompts = sorted(pairs.prompts, key=lambda prompt: len(prompt.ids))
    size = unedited.batch_size
    answers: list[tuple[int, ...]] = []
    for start in tqdm(range(0, len(prompts), size), desc="answers", unit="batch", disable=None, leave=False):
        answers += unedited.answers(prompts[start : start + size], new_tokens)
    return {prompt.ids: answer for prompt, answer in zip(prompts, answers, strict=True)}


def _digest(value: Any) -> str:
    """The sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
