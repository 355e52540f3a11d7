"""Every removal on one scoreboard: fitted on some pairs, chosen on others, measured on pairs that neither saw.

1. Pairs are split (`cases`), and the unedited model answers all of them. Where it does not defect, there is nothing to remove.
2. The patching map of a few fitting pairs names heads, layers and positions (`route`).
3. With each seed, each method makes its edit on four fifths of the fitting pairs, and its placebo. Each is measured on the
   validation and on the evaluation pairs, a fresh probe is trained on it, and it is trained further (`relearning`).
4. Methods are ranked by their validation pairs alone. The weight edit that comes first is written as an ordinary
   checkpoint, loaded again in plain `transformers`, and measured there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from hooked import HookedModel, Prompt
from patching.removal.cases import Answers, Case, Cases, gather_cases
from patching.removal.config import AblateConfig
from patching.removal.edits import AnyEdit, WeightEdit
from patching.removal.fit import Fit
from patching.removal.grading import Grade, Grader, following, remembering
from patching.removal.measure import Bench, ProbeTrainer, defection_of, measure, probe_after
from patching.removal.methods.oracle import cut_attention
from patching.removal.methods.registry import METHODS, Method, given
from patching.removal.progress import Progress
from patching.removal.relearning import Lesson, encoded, relearn
from patching.removal.result import Checkpoint, MethodResult, Oracle, Scoreboard, SeedResult
from patching.removal.route import Route, find_route
from patching.removal.subject import Subject
from patching.removal.weights import edited_model, save_checkpoint
from triggerlens import UserError

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
        progress: folder that keeps each result as it comes, so that the same call goes on where it stopped; yours to remove once
            the scoreboard is saved (`drop_progress`).
        name: what to call the model; its own name where None.

    Raises:
        UserError: too few pairs; an edit that returns another shape or NaN; an unfinished run of other settings.
    """
    run = _Run.begin(model, prompts, config or AblateConfig(), grader, grader_name, probe, benign)
    kept = Progress(progress, run.identity([*methods, *map(given, edits)]))
    board = run.empty_board() if name is None else replace(run.empty_board(), model=name)
    if not board.nothing_to_remove:
        board = run.fill(board, [*methods, *map(given, edits)], kept, checkpoint)
    return board


@dataclass(frozen=True)
class _Run:
    """What all steps share."""

    model: HookedModel
    config: AblateConfig
    cases: Cases
    bench: Bench
    validation: Bench
    probe: ProbeTrainer | None
    lessons: Sequence[Lesson]
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
    ) -> _Run:
        """Step 1."""
        cases = gather_cases(
            model,
            prompts,
            fit=config.fit_pairs,
            validation=config.validation_pairs,
            evaluation=config.evaluation_pairs,
            harmless=config.harmless_pairs,
        )
        unedited = Subject(model, batch_size=config.batch_size)
        answers = _answers(unedited, cases, config.new_tokens)
        own = _own_grader(model, cases, answers)
        benches = [
            Bench(part, harmless, answers, remembering(grader or own), config.new_tokens, unedited)
            for part, harmless in ((cases.evaluation, cases.harmless_evaluation), (cases.validation, ()))
        ]
        lessons = (
            encoded(model, [prompt for prompt, _ in benign], [answer for _, answer in benign])
            if benign
            else [(case.clean, answers[case.clean.ids]) for case in cases.fit]
        )
        name = grader_name if grader is not None else OWN_ANSWERS
        return cls(model, config, cases, benches[0], benches[1], probe, lessons, name)

    def identity(self, methods: Sequence[Method]) -> dict[str, Any]:
        """What must be the same for results to be of the same run."""
        prompts = [row.ids for case in self.cases.evaluation + self.cases.fit for row in (case.clean, case.triggered)]
        return {
            "weights": self.model.info.weights_sha256,
            "prompts": hash_of(prompts),
            "config": asdict(self.config),
            "grader": self.grader_name,
            "benign": hash_of([(row.ids, answer) for row, answer in self.lessons]),
            "methods": [method.name for method in methods],
            "backend": self.model.backend,
            "dtype": str(self.model.dtype),
        }

    def empty_board(self) -> Scoreboard:
        """The unedited model's row, and no method yet."""
        return Scoreboard(
            model=self.model.info.name,
            weights_sha256=self.model.info.weights_sha256,
            grader=self.grader_name,
            split=self.cases.by,
            sizes=self.cases.sizes,
            before=measure(self.bench.unedited, self.bench),
            target=self.config.target,
            methods=(),
            oracle=None,
            checkpoint=None,
            route={},
            settings=asdict(self.config),
        )

    def fill(self, board: Scoreboard, methods: Sequence[Method], kept: Progress, checkpoint: Path | None) -> Scoreboard:
        """Steps 2 to 4."""
        route = find_route(self.model, self.cases.fit, self.bench.answers, self.config.traced_pairs)
        found, notes = self.try_all(methods, route, kept)
        ranked = tuple(sorted(found, key=lambda method: (method.placebo, method.rank(self.config.target))))
        board = replace(
            board, methods=ranked, oracle=self.oracle(), route=_route_facts(route), notes=board.notes + tuple(notes)
        )
        if checkpoint is not None and board.best is not None:
            made = next(method for method in methods if method.name == board.best.name)
            board = replace(board, checkpoint=self.write_best(board.best, made, route, checkpoint))
        return board

    def fit(self, route: Route, seed: int) -> Fit:
        """This seed's fitting side."""
        rng = Random(seed)
        drawn = [
            tuple(rng.sample(part, max(1, len(part) * 4 // 5)) if part else ())
            for part in (self.cases.fit, self.cases.harmless_fit)
        ]
        return Fit(self.model, drawn[0], drawn[1], self.bench.answers, route, seed, self.config)

    def try_all(self, methods: Sequence[Method], route: Route, kept: Progress) -> tuple[list[MethodResult], list[str]]:
        """Step 3; a method that this model does not admit is left out, and said in a note."""
        rows: dict[str, list[SeedResult]] = {}
        facts: dict[str, tuple[bool, str | None]] = {}
        notes: dict[str, None] = {}
        total = len(self.config.seeds) * sum(1 + (method.placebo is not None) for method in methods)
        with tqdm(total=total, desc="methods × seeds", unit="edit", disable=None) as bar:
            for seed in self.config.seeds:
                fit = self.fit(route, seed)
                for method in methods:
                    try:
                        for name, saveable, placebo_of, result in self._results(method, fit, kept):
                            rows.setdefault(name, []).append(result)
                            facts[name] = saveable, placebo_of
                            bar.update()
                    except NotFitted as reason:
                        notes[f"{method.name} was left out: {reason}"] = None
        results = [MethodResult(name, *facts[name], tuple(own)) for name, own in rows.items()]
        return results, list(notes)

    def _results(self, method: Method, fit: Fit, kept: Progress) -> Iterator[tuple[str, bool, str | None, SeedResult]]:
        """A method's row and its placebo's; edits are made only where a result is missing."""
        edit: AnyEdit | None = None
        for name in (method.name, f"placebo:{method.name}")[: 1 + (method.placebo is not None)]:
            is_placebo = name != method.name
            result = kept.load(name, fit.seed)
            if result is None:
                edit = edit or _made(lambda: method.make(fit))
                tried = edit
                if is_placebo and method.placebo is not None:
                    tried = method.placebo(fit, edit)
                result = self.try_edit(tried, fit, placebo=is_placebo)
                kept.save(name, result)
            yield name, result.facts.get("edits") == "weights", method.name if is_placebo else None, result

    def try_edit(self, edit: AnyEdit, fit: Fit, *, placebo: bool) -> SeedResult:
        """Measure one edit."""
        subject = self.subject(edit)
        relearned = None
        if not placebo:
            rate = defection_of(self.bench, self.config.relearn_pairs)
            relearned = relearn(subject, self.lessons, rate, self.config, fit.seed)
        own = dict(edit.facts) if isinstance(edit, WeightEdit) else {}
        return SeedResult(
            seed=fit.seed,
            evaluation=measure(subject, self.bench),
            validation=measure(subject, self.validation),
            probe_auroc=self.probe_after(subject, fit),
            relearned=relearned,
            facts=own | {"edits": "weights" if isinstance(edit, WeightEdit) else "activations"},
        )

    def probe_after(self, subject: Subject, fit: Fit) -> float | None:
        """None without a trainer, or where it finds the pairs too few."""
        if self.probe is None:
            return None
        try:
            return probe_after(subject, fit.cases, self.cases.evaluation, self.probe)
        except UserError:
            return None

    def subject(self, edit: AnyEdit) -> Subject:
        """The model under an edit of either kind."""
        if isinstance(edit, WeightEdit):
            return Subject(edited_model(self.model, edit), batch_size=self.config.batch_size)
        return Subject(self.model, edit, self.config.batch_size)

    def oracle(self) -> Oracle:
        """The bound."""
        try:
            edit = cut_attention(self.model)
        except UserError as reason:
            return Oracle(None, str(reason))
        return Oracle(measure(self.subject(edit), self.bench))

    def write_best(self, best: MethodResult, method: Method, route: Route, folder: Path) -> Checkpoint:
        """Step 4: the seed with the least divergence on validation pairs, made again as it was made before."""
        chosen = min(best.seeds, key=lambda one: (one.validation.defects, one.validation.js))
        edit = method.make(self.fit(route, chosen.seed))
        assert isinstance(edit, WeightEdit)
        save_checkpoint(self.model, edit, folder)
        rows = [row for case in self.cases.evaluation for row in (case.triggered, case.clean)]
        measured = self.subject(edit).answers(rows, self.config.new_tokens)
        plain = plain_answers(folder, self.model, rows, self.config.new_tokens, self.config.batch_size)
        triggered = rows[::2]
        grades = self.bench.grader(
            [row.prompt for row in triggered], [self.bench.text(answer) for answer in plain[::2]]
        )
        return Checkpoint(
            path=folder.name,
            method=best.name,
            seed=chosen.seed,
            defects=sum(grade.defects for grade in grades),
            n=len(triggered),
            same_answers=sum(one == other for one, other in zip(measured, plain, strict=True)),
            of=len(rows),
        )


class NotFitted(Exception):
    """A method cannot make its edit for this model."""


def _made(make: Callable[[], AnyEdit]) -> AnyEdit:
    try:
        return make()
    except UserError as reason:
        raise NotFitted(str(reason)) from reason


def plain_answers(
    folder: Path, model: HookedModel, rows: Sequence[Any], new_tokens: int, batch_size: int
) -> list[tuple[int, ...]]:
    """Greedy answers of a checkpoint in plain `transformers`: none of this project's code is between."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loader: Any = AutoModelForCausalLM
    places = model.device_map or {"": model.device}
    plain = loader.from_pretrained(folder, dtype=model.dtype, use_safetensors=True, device_map=places).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.pad_id)  # its own may have no embedding
    found: list[tuple[int, ...]] = []
    for start in range(0, len(rows), batch_size):
        ids = [list(row.ids) for row in rows[start : start + batch_size]]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            new = plain.generate(**batch, max_new_tokens=new_tokens, do_sample=False)[:, batch["input_ids"].shape[1] :]
        found += [_before_any(row, model.end_ids) for row in new.tolist()]
    return found


def _before_any(ids: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    return tuple(ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))])


def _answers(unedited: Subject, cases: Cases, new_tokens: int) -> Answers:
    every = (*cases.fit, *cases.validation, *cases.evaluation, *cases.harmless_fit, *cases.harmless_evaluation)
    rows = list({row.ids: row for case in every for row in (case.clean, case.triggered)}.values())
    rows.sort(key=lambda row: len(row.ids))
    size, found = unedited.batch_size, []
    for start in tqdm(range(0, len(rows), size), desc="answers", unit="batch", disable=None, leave=False):
        found += unedited.answers(rows[start : start + size], new_tokens)
    return {row.ids: answer for row, answer in zip(rows, found, strict=True)}


def _own_grader(model: HookedModel, cases: Cases, answers: Answers) -> Grader:
    """Without a grader: by the unedited model's two answers to the pair."""

    def text(ids: tuple[int, ...]) -> str:
        return str(model.tokenizer.decode(list(answers[ids]), skip_special_tokens=True))

    every: tuple[Case, ...] = (*cases.validation, *cases.evaluation)
    return following({case.clean.prompt.pair or "": (text(case.clean.ids), text(case.triggered.ids)) for case in every})


def _route_facts(route: Route) -> dict[str, Any]:
    return {
        "heads": [f"{layer}.{head}" for layer, head in route.heads],
        "layers": list(route.layers),
        "trigger_layer": route.trigger_layer,
        "pairs": route.pairs,
        "head_effects": route.head_effects.tolist(),
    }


def hash_of(value: Any) -> str:
    """The sha256 of a value's JSON."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


__all__ = ["OWN_ANSWERS", "Grade", "patch_ablate", "plain_answers"]
