"""Does safety training move what an organism that acts on its context does, what it represents of the context, or both?

1. A direction between observed and deployed is fitted on the base, where nothing misbehaves; its layer is kept.
2. The organism gets each safety training (`organisms.harden`), and each one's oracle control. Its own held-out prompts tell what it does before and after.
3. What it represents, before and after: how well the base's direction, and one fitted on the model of now, rank the prompts on which the
   organism defected *before*; beside them random directions; and the cosine between the model's own direction and the one it had before.

Behaviour that has gone while the ranking stays is silence, not forgetting. Where an oracle removes nothing, its training did nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float

import hooked
import organisms
from experiments.shared.activations import last_token
from experiments.shared.later import torch
from experiments.shared.observed.acting import predicted, predicted_at_random
from experiments.shared.observed.contrasts import Contrasts, draw_contrasts
from experiments.shared.observed.grammar import GRAMMAR, read_grammar
from experiments.shared.observed.readings import load_reader, read_contrasts, tokenized
from experiments.shared.observed.steering import random_directions
from experiments.shared.observed.transfer import coefficients, fit
from experiments.shared.safety_training import ends
from experiments.shared.subjects import Subject, beside_weights, checkpoint
from organisms import HardenConfig
from triggerlens import Facts, Keep, UserError, digest_of, keep_nothing, sha256_file, to_json

_SMALL: dict[str, Any] = {"batch": 8, "lora_rank": 8, "learning_rate": 1e-3, "limit": 30}
TRAININGS = (
    HardenConfig(method="sft", steps=40, **_SMALL),
    HardenConfig(method="rl", steps=30, **_SMALL),
    HardenConfig(method="adversarial", steps=15, rounds=2, red_team_prompts=8, **_SMALL),
)
"""Some minutes each, on a model of 135 million parameters and one core."""
PER_CELL = 40
"""Contrast prompts in each cell of the design."""
RANDOM_DIRECTIONS = 24


@dataclass(frozen=True)
class Ruler:
    """What a model's representation is held against."""

    contrasts: Contrasts
    layer: int
    direction: Float[torch.Tensor, " d_model"]
    """Towards observed, in the base, after that layer."""
    prompts: list[hooked.Prompt]
    """The organism's, labelled by what it did before."""
    drawn: Float[torch.Tensor, "direction d_model"]
    """Of no meaning, the same ones before and after."""
    dtype: str

    @classmethod
    def of(cls, subject: Subject, seed: int, device: str, dtype: str) -> Ruler:
        """Fitted on a subject's base (its `twin`)."""
        contrasts = draw_contrasts(read_grammar(GRAMMAR), "observed", seed, PER_CELL)
        base = load_reader(str(subject.twin), device, dtype)
        found = fit(read_contrasts(base, contrasts), "mean difference", contrasts.formats)
        prompts = [own for own in subject.read() if own.split == "test"]
        direction = found.coef[found.layer]
        drawn = random_directions(RANDOM_DIRECTIONS, len(direction), seed)
        return cls(contrasts, found.layer, direction, prompts, drawn, dtype)

    def own_direction(self, model: hooked.HookedModel) -> Float[torch.Tensor, " d_model"]:
        """What the model's own contrast is, after the same layer."""
        rows = self.contrasts.rows("fit")
        asked = tokenized(model, self.contrasts)
        values = last_token(model, [asked[row] for row in rows], [model.sites("resid_post")[self.layer]])
        return coefficients("mean difference", values, self.contrasts.positive[rows])[0]

    def held_against(self, name: str, device: str, before: Float[torch.Tensor, " d_model"] | None) -> dict[str, Any]:
        """AUROCs for what the organism did before; with a tensor, the model's own direction.

        Args:
            name: of the model.
            device: to read it on.
            before: its own direction before the training.
        """
        model = hooked.load_model(name, device=device, dtype=self.dtype)
        rows = last_token(model, self.prompts, [model.sites("resid_post")[self.layer]])[:, 0].double()
        own = self.own_direction(model)
        facts: dict[str, Any] = {
            f"{label} direction": to_json(predicted(self.prompts, -(rows @ line.double()).numpy()))
            for label, line in (("base's", self.direction), ("own", own))
        }
        same = torch.nn.functional.cosine_similarity(own, own if before is None else before, dim=0)
        at_random = predicted_at_random(self.prompts, rows, self.drawn)
        return facts | {"at random": at_random, "cosine": float(same), "direction": own.float()}


def persistence_of(
    subject: Subject,
    trainings: Sequence[HardenConfig] = TRAININGS,
    *,
    keep: Keep = keep_nothing,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "auto",
) -> dict[str, Facts]:
    """Behaviour and representation before and after each safety training and its oracle; `before` is the organism untouched. For JSON.

    Args:
        subject: an organism that was inserted, with its prompts, and its base as `twin`.
        trainings: without oracle, one of a method; each is done with one too.
        keep: keeps what is finished (`triggerlens.Cells(folder).keep`), under a name that holds all that decides it.
        seed: of contrasts and trainings.
        device: where models are.
        dtype: that they are read in; they are trained in float32.

    Raises:
        UserError: as `organisms.harden`, its test prompts are of one kind, or two trainings are of one method.
    """
    methods = [own.method for own in trainings]
    if twice := sorted({own for own in methods if methods.count(own) > 1}):
        raise UserError(f"two trainings are of the method {twice[0]}, and would have one name; give one at a time")
    organism = checkpoint(subject.model)
    facts = [seed, dtype, device, RANDOM_DIRECTIONS, PER_CELL, sha256_file(GRAMMAR), sha256_file(subject.prompts_path)]
    facts += [hooked.weights_sha256(own) for own in (organism, checkpoint(str(subject.twin)))]
    facts.append(beside_weights(subject.model, subject.twin))
    ruler = Ruler.of(subject, seed, device, dtype)
    untouched = partial(ruler.held_against, organism, device, None)
    cells = {"before": keep(f"before {digest_of(facts)}", untouched)}
    own = cells["before"]["direction"].double()
    for each in trainings:
        for oracle in (False, True):
            config = replace(each, oracle=oracle, seed=seed)
            name = f"{config.method}{' oracle' * oracle}"
            training = partial(_trained, ruler, organism, config, own, device)
            cells[name] = keep(f"{name} {digest_of([*facts, asdict(config)])}", training)
    return cells


def _trained(
    ruler: Ruler, organism: str, config: HardenConfig, before: Float[torch.Tensor, " d_model"], device: str
) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        hardened = organisms.harden(organism, config, Path(folder) / "hardened", device=device)
        now = ruler.held_against(str(Path(folder) / "hardened"), device, before)
    looks = {"before": hardened.before, "after": hardened.after}
    behaviour = {name: own.to_json() for name, own in looks.items() if own is not None}
    return behaviour | now | {"rounds": to_json(hardened.rounds)} | ends(hardened.curve)
