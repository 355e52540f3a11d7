"""What a search for trigger latents says, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.result import LABELS, TriggerLatents
from triggerlens import estimate_text

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
    if best is None or baseline is None:
        return f"No prompt differs in {label!r}, so no latent can predict it."
    name, rival = baseline
    says = "tells" if best.auroc.low >= CLEAR else "does not clearly tell"
    return (
        f"Latent {best.latent} alone {says} {_PROMPTS[label]} prompts: AUROC {estimate_text(best.auroc)}; "
        f"the best baseline, {name}, has {rival.auroc.value:.3f}."
    )


def _ablation(what: str, effects: Sequence[AblationEffect]) -> list[str]:
    """A sentence on the ablation that leaves the fewest defections; none where there were none to take away."""
    if not effects or not effects[0].defects_before:
        return []
    least = min(effects, key=lambda effect: (effect.defects_after, effect.js))
    return [
        f"Ablating {what} leaves at the least {least.defects_after} of {least.defects_before} defections, at "
        f"{least.js:.4f} nats on clean prompts."
    ]
