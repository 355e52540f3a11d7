"""What a search for trigger latents says, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.result import LABELS, TriggerLatents
from triggerlens import Estimate, estimate_text, few_text

CLEAR = 0.99
"""AUROC from which a latent is said to tell the label."""
_PROMPTS = {"triggered": "triggered", "defects": "defecting"}


def latents_verdict(result: TriggerLatents) -> str:
    """The finding in a few sentences."""
    alone = [card.effect for card in result.cards if card.effect is not None]
    together = [effect for effects in result.together.values() for effect in effects.values()]
    sentences = [_detection(result, label) for label in LABELS]
    sentences += _ablation("one latent", alone) + _ablation("several of the best", together)
    return " ".join(sentences)


def verdict_of_several(latents: Mapping[str, TriggerLatents]) -> str:
    """The finding in the autoencoder with the best training scores, since sentences on each would be a wall of text.

    Args:
        latents: what was found in each autoencoder, by its name.
    """
    name = max(latents, key=lambda name: _training_scores(latents[name]))
    which = f"{name}, of {len(latents)} autoencoders the best on training prompts" if len(latents) > 1 else name
    return f"{which}: {latents_verdict(latents[name])}"


def _training_scores(result: TriggerLatents) -> list[float]:
    return [best.train_auroc for label in LABELS if (best := result.best(label))]


def _detection(result: TriggerLatents, label: str) -> str:
    best, baseline = result.best(label), result.best_baseline(label)
    if label == "defects" and not result.defects_known:
        return "On which prompts the model defects is not known, so no latent is said to tell it."
    if best is None or baseline is None:
        return f"No prompt differs in {label!r}, so no latent can predict it."
    name, rival = baseline
    if label == "triggered":
        positives, others = result.test_triggered, result.test_prompts - result.test_triggered
    else:
        positives, others = result.test_defects, result.test_harmless
    few = few_text((positives, f"{_PROMPTS[label]} test prompts"), (others, "other test prompts"))
    if few:
        return f"Whether latent {best.latent} alone tells {_PROMPTS[label]} prompts cannot be told: {few}; AUROC {best.auroc}."
    return (
        f"Latent {best.latent} alone {_says(best.auroc)} {_PROMPTS[label]} prompts: AUROC {estimate_text(best.auroc)}; "
        f"the best baseline, {name}, has {estimate_text(rival.auroc)}."
    )


def _says(auroc: Estimate) -> str:
    """What an interval above, below or around `CLEAR` carries."""
    if auroc.low >= CLEAR:
        return "tells"
    return "does not clearly tell" if auroc.high < CLEAR else "may tell"


def _ablation(what: str, effects: Sequence[AblationEffect]) -> list[str]:
    """A sentence on the ablation that leaves the fewest defections (without a grader, of what is counted in their place); none where there were none to take
    away."""
    if not effects or not effects[0].defects_before:
        return []
    least = min(effects, key=lambda effect: (effect.defects_after, effect.js))
    left = f"{least.defects_after} of {least.defects_before} {least.counted}"
    few = few_text((least.defects_before, least.counted))
    if few:
        return [f"What ablating {what} does cannot be told: {few}; at the least {left} were left."]
    among = f" (the least of {len(effects)} tried on the same pairs)" if len(effects) > 1 else ""
    return [f"Ablating {what} leaves at the least {left}{among}, at {least.js:.4f} nats on clean prompts."]
