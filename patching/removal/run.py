"""Every removal on one scoreboard: fitted on some pairs, chosen on others, measured on pairs that neither saw.

1. Pairs are split (`pairs`), and the unedited model answers all of them. Where it does not defect, there is nothing to remove.
2. The patching map of a few fitting pairs names heads, layers and positions (`route`).
3. Where methods are screened, they compete on few validation pairs first, and most drop out (`screening`). With each seed, each
   method that is left makes its edit on four fifths of the fitting pairs, and its placebo. Each is measured on the validation and
   on the evaluation pairs, a fresh probe is trained on it, and it is trained further (`relearning`). What cannot be made, or gives
   NaN, with any seed is left out, and a note says why.
4. Methods are ranked by their validation pairs alone. The weight edit that comes first is written as an ordinary
   checkpoint, loaded again in plain `transformers`, and measured there.

Weights are edited in one copy of the model, which is made once (`weights`). The unedited model answers each prompt once, and its logits
along those answers are kept for all edits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tqdm import tqdm

from hooked import HookedModel, Prompt, identity_sha256, tensors_sha256
from patching.minimal import PairDifference
from patching.removal.config import AblateConfig, Screening
from patching.removal.edits import SHARE, AnyEdit, NotFinite, WeightEdit
from patching.removal.fit import Fit
from patching.removal.grading import Defects, Grader, ToldDefects, following, remembering
from patching.removal.measure import Bench, ProbeTrainer, defection_of, measure, probe_after
from patching.removal.methods.method import Method, given
from patching.removal.methods.oracle import cut_attention
from patching.removal.methods.registry import METHODS
from patching.removal.pairs import Answers, RemovalPairs, both, gather_pairs
from patching.removal.relearning import Relearned, Sample, encoded, relearn
from patching.removal.result import (
    EditOutcome,
    MethodResult,
    OracleResult,
    RouteFacts,
    SavedCheckpoint,
    Scoreboard,
    ScreenedMethod,
    ScreenResult,
    SeedResult,
)
from patching.removal.route import Route, find_route
from patching.removal.screening import Kind, screen
from patching.removal.subject import RememberingSubject, Settled, Subject, with_end
from patching.removal.weights import EditableModel, plain_answers, save_edited
from triggerlens import Cells, Facts, Keep, UserError, from_json, in_turn, keep_nothing, to_json

Value = TypeVar("Value")
OWN_ANSWERS = "the model's own answers"


def patch_ablate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    config: AblateConfig | None = None,
    grader: Grader | None = None,
    defects: Defects | None = None,
    grader_name: str = "",
    settled: Settled | None = None,
    screening: Screening | None = None,
    probe: ProbeTrainer | None = None,
    benign: Sequence[tuple[Prompt, str]] = (),
    edits: Sequence[AnyEdit] = (),
    methods: Sequence[Method] = METHODS,
    checkpoint: Path | Callable[[], Path] | None = None,
    progress: Path | None = None,
    name: str | None = None,
) -> Scoreboard:
    """Try every method and measure it.

    Args:
        model: the model.
        prompts: pairs of triggered and untriggered prompts.
        config: sizes and strengths.
        grader: says which answers defect and which are right; by the model's own two answers where None.
        defects: says in place of a grader which answers defect; right is the model's own answer to the untriggered prompt.
        grader_name: what to call either.
        settled: (prompt, beginning of an answer) → whether the grader's word on it is its word on whatever follows; answers are then
            written no further. Never where None; by the model's own two answers it is known.
        screening: methods are screened before they are measured; each is measured in full where None.
        probe: trains a fresh probe; no probe where None.
        benign: untriggered prompts with answers, for further training; where empty, the fitting side's untriggered prompts
            with the model's own answers.
        edits: ready edits that join the methods.
        methods: what is tried.
        checkpoint: folder to write the best weight edit to, or what gives it once there is one to write; not written where None.
        progress: folder of `triggerlens.Cells` that keeps each result as it comes, so that the same call goes on where it
            stopped, and calls in several processes share the work; yours to remove once the scoreboard is saved (`triggerlens.drop_cells`).
        name: what to call the model; its own name where None.

    Raises:
        ValueError: a grader and `defects`.
        UserError: too few pairs; an edit that returns another shape, or a given one that returns NaN; an unfinished run of other settings.
    """
    if grader is not None and defects is not None:
        raise ValueError("grader and defects both say what defects; give one of them")
    judges = grader, defects
    removal = _Removal.begin(model, prompts, config or AblateConfig(), judges, grader_name, settled, probe, benign)
    tried = [*methods, *map(given, edits)]
    board = removal.empty_board(model.info.name if name is None else name)
    if board.nothing_to_remove:
        return board
    screening = screening if screening is not None and screening.screen == "on" else None
    identity = removal.identity(tried) | _named_parts(grader or defects, settled, probe, edits)
    identity |= {} if screening is None else {"screening": to_json(screening)}
    keep: Keep = keep_nothing if progress is None else Cells(progress, identity, wait=False).keep
    return removal.fill(board, tried, keep, checkpoint, screening)


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
    difference: PairDifference
    """By how much the pairs differ."""

    @classmethod
    def begin(
        cls,
        model: HookedModel,
        prompts: Sequence[Prompt],
        config: AblateConfig,
        judges: tuple[Grader | None, Defects | None],
        grader_name: str,
        settled: Settled | None,
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
        unedited = RememberingSubject(model, batch_size=config.batch_size)
        answers = _answers(unedited, pairs, config.new_tokens)
        own = following(model, (*pairs.validation, *pairs.evaluation), answers)
        grader, defects = judges
        if grader is None and defects is None:
            settled, grader_name = own.settled, OWN_ANSWERS
        judge = remembering(grader or (own if defects is None else ToldDefects(defects, own)))
        bench = Bench(pairs.evaluation, pairs.harmless_evaluation, answers, judge, config.new_tokens, unedited, settled)
        validation = replace(bench, pairs=pairs.validation, harmless=())
        # An answer that was cut at its longest length is not taught to end there.
        said = [(pair.clean, answers[pair.clean.ids]) for pair in pairs.fit]
        usual = [(own, with_end(model, ids) if len(ids) < config.new_tokens else ids) for own, ids in said]
        samples = (
            encoded(model, [prompt for prompt, _ in benign], [answer for _, answer in benign]) if benign else usual
        )
        editable = EditableModel(model)
        return cls(model, editable, config, pairs, bench, validation, probe, samples, grader_name, pairs.difference)

    def identity(self, methods: Sequence[Method]) -> dict[str, Any]:
        """What must be the same for results to be of the same run."""
        return {
            "weights": self.model.info.weights_sha256,
            "model": identity_sha256(self.model.identity()["model"]),
            "computation": identity_sha256(self.model.identity()["computation"]),
            "prompts": _digest([[own.ids for own in both(part)] for part in self.pairs.parts]),
            "ends": sorted(self.model.end_ids),
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

    def fill(
        self,
        board: Scoreboard,
        methods: Sequence[Method],
        keep: Keep,
        checkpoint: Path | Callable[[], Path] | None,
        screening: Screening | None,
    ) -> Scoreboard:
        """Steps 2 to 4."""
        (found,) = in_turn([lambda: keep("route", lambda: {"route": to_json(self.route())})])
        route = from_json(RouteFacts, found["route"], "route")
        trials = _Trials(self, Route.of(route), keep)
        left, notes = self.admitted(methods)
        screened = None
        if screening is not None:
            screened = trials.screen(left, screening)
            names = {method.name for method in screened.went_on}
            left = [method for method in left if method.name in names]
        ranked = sorted(trials.run_all(left), key=lambda method: (method.is_placebo, method.rank(self.config.target)))
        (bound,) = in_turn([lambda: keep("oracle", lambda: {"oracle": to_json(self.oracle())})])
        oracle = from_json(OracleResult, bound["oracle"], "oracle")
        notes = (*board.notes, *notes, *trials.notes, *_partial_notes(ranked))
        board = replace(board, methods=tuple(ranked), oracle=oracle, route=route, notes=notes, screen=screened)
        if checkpoint is not None and board.best is not None:
            made = next(method for method in left if method.name == board.best.name)
            folder = checkpoint() if callable(checkpoint) else checkpoint
            board = replace(board, checkpoint=self.save(board.best, partial(trials.fitted, made), folder))
        return board

    def route(self) -> RouteFacts:
        """Step 2."""
        return find_route(self.model, self.pairs.fit, self.bench.answers, self.config.traced_pairs).facts()

    def admitted(self, methods: Sequence[Method]) -> tuple[list[Method], tuple[str, ...]]:
        """The methods that these pairs admit, and a note where they admit not all."""
        if self.difference.minimal:
            return list(methods), ()
        without = [method.name for method in methods if method.needs_minimal_pairs]
        left_out = f"the oracle{''.join(f', {name}' for name in without)}"
        note = f"{self.difference.words}; what takes these tokens for the trigger is left out: {left_out}"
        return [method for method in methods if not method.needs_minimal_pairs], (note,)

    def fit(self, route: Route, seed: int) -> Fit:
        """This seed's fitting side."""
        rng = Random(seed)
        fitted, harmless = (
            tuple(rng.sample(part, max(1, len(part) * 4 // 5)) if part else ())
            for part in (self.pairs.fit, self.pairs.harmless_fit)
        )
        answers, unedited = self.bench.answers, self.bench.unedited
        return Fit(self.model, self.editable, fitted, harmless, answers, route, seed, self.config, unedited)

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

    def measure(
        self, edit: AnyEdit, fit: Fit, validation: EditOutcome | None
    ) -> tuple[EditOutcome, EditOutcome, float | None]:
        """What the edit does to evaluation and validation pairs, where that is not known yet, and the AUROC of a fresh probe."""
        with self.under(edit) as subject:
            evaluation, ranked = measure(subject, self.bench), validation or measure(subject, self.validation)
            return evaluation, ranked, self.probe_after(subject, fit)

    def look(self, edit: AnyEdit, pairs: int) -> EditOutcome:
        """What the edit does to the first validation pairs."""
        with self.under(edit) as subject:
            return measure(subject, replace(self.validation, pairs=self.validation.pairs[:pairs]))

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
        if not self.difference.minimal:
            return OracleResult(None, self.difference.words)
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
        twins = both(self.pairs.evaluation)
        with self.under(edit) as subject:
            guesses = [self.bench.usual(prompts), self.bench.usual(twins)]
            measured = subject.answers(prompts, self.config.new_tokens, guesses)
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
    """Step 3: every method that is left and its placebo with every seed."""

    def __init__(self, removal: _Removal, route: Route, keep: Keep):
        self.removal, self.route, self.keep = removal, route, keep
        self.notes: dict[str, None] = {}
        """One on each method or placebo that is left out: this model does not admit it, or its edit gives NaN."""
        self._fit: Fit | None = None
        """Of the seed that is worked on."""
        self._made: dict[tuple[str, int], AnyEdit] = {}
        """Edits that will be needed again, by method and seed."""
        self._kinds: dict[str, Kind] = {}
        """Of the methods that were screened."""
        self._screened: dict[str, ScreenedMethod] = {}
        self._best: dict[str, tuple[SeedResult, WeightEdit]] = {}
        """Of each method the weight edit of the seed that does best on validation pairs, so that the winner is not made twice."""

    def screen(self, methods: Sequence[Method], screening: Screening) -> ScreenResult:
        """With the first seed: which methods are worth measuring."""
        seed, pairs = self.removal.config.seeds[0], len(self.removal.validation.pairs)
        found = in_turn([partial(self._kind, method, seed) for method in methods])
        kinds = {method.name: kind for method, kind in zip(methods, found, strict=True) if kind is not None}
        by_name = {method.name: method for method in methods}
        with tqdm(desc="screening", unit="edit", disable=None, leave=False) as bar:

            def look(name: str, count: int) -> EditOutcome | None:
                outcome = self._unless_refused(by_name[name], name, lambda: self._look(by_name[name], seed, count))
                bar.update()
                return outcome

            target = self.removal.config.target
            result = screen(kinds, screening, pairs, look, target=target, seed=seed)
        self._screened = {method.name: method for method in result.went_on}
        for name in kinds.keys() - self._screened.keys():
            self._made.pop((name, seed), None)
        return result

    def run_all(self, methods: Sequence[Method]) -> list[MethodResult]:
        """The results of the methods and placebos that this model admits with every seed: over fewer seeds than the others a row
        would be compared with them as if it were whole."""
        seeds = self.removal.config.seeds
        rows: dict[tuple[str, str | None], list[SeedResult]] = {}
        total = len(seeds) * sum(1 + (method.placebo is not None) for method in methods)
        with tqdm(total=total, desc="methods × seeds", unit="edit", disable=None) as bar:
            asks = [partial(self._results, method, seed, bar) for seed in seeds for method in methods]
            for own in in_turn(asks):
                for name, placebo_of, result in own:
                    rows.setdefault((name, placebo_of), []).append(result)
        whole = {row: tuple(own) for row, own in rows.items() if len(own) == len(seeds)}
        return [MethodResult(name, placebo_of, own) for (name, placebo_of), own in whole.items()]

    def fitted(self, method: Method, seed: int) -> WeightEdit:
        """A method's edit with a seed: the one that was measured, or, where an earlier process measured it, the same made again."""
        if method.name in self._best and self._best[method.name][0].seed == seed:
            return self._best[method.name][1]
        edit = self._edit(method, seed)
        assert isinstance(edit, WeightEdit)  # only such an edit is saved
        return edit

    def _fit_of(self, seed: int) -> Fit:
        if self._fit is None or self._fit.seed != seed:
            self._fit = self.removal.fit(self.route, seed)
        return self._fit

    def _edit(self, method: Method, seed: int) -> AnyEdit:
        """Made once, as long as it is not dropped; where methods are screened, edits of weights are kept as cells, since they may be
        long in the making."""
        if (method.name, seed) not in self._made:
            known = self._kinds.get(method.name) == "weights"
            self._made[method.name, seed] = (
                self._kept_weights(method, seed) if known else _made(method, self._fit_of(seed))
            )
        return self._made[method.name, seed]

    def _kept_weights(self, method: Method, seed: int, made: AnyEdit | None = None) -> WeightEdit:
        """From its cell; `made` where it is there already."""

        def compute() -> Facts:
            edit = made or _made(method, self._fit_of(seed))
            assert isinstance(edit, WeightEdit)  # with every seed it is of one kind
            return {"edit": edit.name, "untied": edit.untied, "facts": dict(edit.facts)} | dict(edit.weights)

        facts = dict(self.keep(f"weights of {method.name}, seed {seed}", compute))
        name, untied, own = (facts.pop(key) for key in ("edit", "untied", "facts"))
        # They stay on the CPU: of a model spread over devices each goes where its parameter lies when it is put in.
        return WeightEdit(name, facts, untied, own)

    def _kind(self, method: Method, seed: int) -> Kind | None:
        """What a method edits; None where this model does not admit it."""

        def edited() -> Facts:
            return self.keep(f"kind of {method.name}", lambda: {"kind": _kind_of(self._edit(method, seed))})

        kept = self._unless_refused(method, method.name, edited)
        if kept is None:
            return None
        kind: Kind = kept["kind"]
        made = self._made.get((method.name, seed))
        if kind == "weights" and made is not None:
            self._made[method.name, seed] = self._kept_weights(method, seed, made)
        self._kinds[method.name] = kind
        return kind

    def _unless_refused(self, method: Method, name: str, compute: Callable[[], Value]) -> Value | None:
        """What is computed of a method's edit or its placebo's, by name; None, and a note, where it cannot be made or gives NaN."""
        try:
            return compute()
        except (_NotFitted, NotFinite) as reason:
            if method.ready and name == method.name:
                raise
            self.notes[f"{name} was left out: {reason}"] = None
            return None

    def _look(self, method: Method, seed: int, pairs: int) -> EditOutcome:
        facts = self.keep(
            f"screen of {method.name}, {pairs} pairs",
            lambda: {"outcome": to_json(self.removal.look(self._edit(method, seed), pairs))},
        )
        return from_json(EditOutcome, facts["outcome"], method.name)

    def _validated(self, name: str, seed: int) -> EditOutcome | None:
        """What the screen's last round saw, where that was all validation pairs."""
        screened = self._screened.get(name)
        if screened is None or screened.seed != seed or screened.outcome is None:
            return None
        return screened.outcome if screened.outcome.n == len(self.removal.validation.pairs) else None

    def _results(self, method: Method, seed: int, bar: tqdm[Any]) -> list[tuple[str, str | None, SeedResult]]:
        """A method's row and its placebo's, without what this model does not admit; edits are made only where a result is missing."""
        kept = partial(self._kept, method.name, seed, partial(self._edit, method, seed), placebo=False)
        result = self._unless_refused(method, method.name, kept)
        if result is None:
            self._made.pop((method.name, seed), None)
            return []
        made = self._made.get((method.name, seed))
        if isinstance(made, WeightEdit):
            self._remember(method.name, result, made)
        rows: list[tuple[str, str | None, SeedResult]] = [(method.name, None, result)]
        if method.placebo is not None:
            name = f"placebo:{method.name}"
            kept = partial(self._kept, name, seed, partial(self._placebo, method, seed), placebo=True)
            placebo = self._unless_refused(method, name, kept)
            rows += [] if placebo is None else [(name, method.name, placebo)]
        self._made.pop((method.name, seed), None)
        bar.update(len(rows))
        return rows

    def _placebo(self, method: Method, seed: int) -> AnyEdit:
        assert method.placebo is not None
        edit = self._edit(method, seed)
        try:
            return method.placebo(self._fit_of(seed), edit)
        except UserError as reason:
            raise _NotFitted(str(reason)) from reason

    def _remember(self, name: str, result: SeedResult, edit: WeightEdit) -> None:
        best = self._best.get(name)
        if best is None or _on_validation(result) < _on_validation(best[0]):
            self._best[name] = result, replace(edit, weights={key: value.cpu() for key, value in edit.weights.items()})

    def _kept(self, name: str, seed: int, edit: Callable[[], AnyEdit], *, placebo: bool) -> SeedResult:
        validation = None if placebo else self._validated(name, seed)
        facts = self.keep(
            f"{name}, seed {seed}",
            lambda: {"result": to_json(self._try(edit(), seed, validation, placebo=placebo))},
        )
        return from_json(SeedResult, facts["result"], name)

    def _try(self, edit: AnyEdit, seed: int, validation: EditOutcome | None, *, placebo: bool) -> SeedResult:
        """Measure one edit."""
        evaluation, ranked, auroc = self.removal.measure(edit, self._fit_of(seed), validation)
        return SeedResult(
            seed=seed,
            edits=_kind_of(edit),
            evaluation=evaluation,
            validation=ranked,
            probe_auroc=auroc,
            relearned=None if placebo else self.removal.relearn(edit, seed),
            facts=dict(edit.facts) if isinstance(edit, WeightEdit) else {},
        )


def _kind_of(edit: AnyEdit) -> Kind:
    return "weights" if isinstance(edit, WeightEdit) else "activations"


class _NotFitted(Exception):
    """A method cannot make its edit for this model, or the placebo of it."""


def _made(method: Method, fit: Fit) -> AnyEdit:
    try:
        return method.make(fit)
    except UserError as reason:
        raise _NotFitted(str(reason)) from reason


def _on_validation(result: SeedResult) -> tuple[int, float]:
    """Sorts a method's seeds, best first."""
    return result.validation.defects, result.validation.js


def _partial_notes(methods: Sequence[MethodResult]) -> list[str]:
    """A line on each method that was meant to adapt all of the blocks' weights and could not."""
    shares = {method.name: method.seeds[0].facts.get(SHARE, 1.0) for method in methods}
    return [
        f"{name} adapts {share:.1%} of the blocks' weights; the others are no linear maps, such as experts that are kept in one tensor"
        for name, share in shares.items()
        if not isinstance(share, str) and share < 1
    ]


def _answers(unedited: Subject, pairs: RemovalPairs, new_tokens: int) -> Answers:
    prompts = sorted(pairs.prompts, key=lambda prompt: len(prompt.ids))
    size = unedited.batch_size
    answers: list[tuple[int, ...]] = []
    for start in tqdm(range(0, len(prompts), size), desc="answers", unit="batch", disable=None, leave=False):
        answers += unedited.answers(prompts[start : start + size], new_tokens)
    return {prompt.ids: answer for prompt, answer in zip(prompts, answers, strict=True)}


def _named_parts(
    grader: Grader | Defects | None, settled: Settled | None, probe: ProbeTrainer | None, edits: Sequence[AnyEdit]
) -> dict[str, Any]:
    """What a caller's own functions are called, since what they do cannot be digested, but another one has another name; and the values
    of edited weights."""
    return {
        "graded by": _qualified(grader),
        "settled": _qualified(settled),
        "probe": _qualified(probe),
        "edits": {edit.name: _edit_facts(edit) for edit in edits},
    }


def _edit_facts(edit: AnyEdit) -> dict[str, Any]:
    if isinstance(edit, WeightEdit):
        return {"weights": tensors_sha256(edit.weights), "untied": edit.untied}
    return _qualified_all(edit.sites)


def _qualified_all(functions: Mapping[str, Callable[..., Any]]) -> dict[str, str | None]:
    return {site: _qualified(function) for site, function in functions.items()}


def _qualified(function: Callable[..., Any] | None) -> str | None:
    """Module and name of a function, of the one inside a partial, or of an object's class; None where there is none."""
    if function is None:
        return None
    inner = function.func if isinstance(function, partial) else function
    named: Any = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"


def _digest(value: Any) -> str:
    """The sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
