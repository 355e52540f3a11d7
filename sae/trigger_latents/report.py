"""The trigger latents as a page that opens offline: the verdict, the tables beside the baselines, and a card for each latent."""

from __future__ import annotations

from collections.abc import Mapping

from sae.trigger_latents.ablation import FOLLOWING, AblationEffect
from sae.trigger_latents.latents import LatentScore
from sae.trigger_latents.result import AUTOENCODER, LABELS, TriggerLatents
from sae.trigger_latents.verdict import verdict_of_several
from triggerlens import estimate_text, render_page, value_text

HEAD = ("feature", "aggregation", "AUROC [95% interval]", "precision", "recall", "training AUROC", "candidates")
EFFECT_HEAD = ("after", "right after", "clean right", "clean unchanged", "JS, nats")


def latents_page(latents: Mapping[str, TriggerLatents], model: str) -> str:
    """The page.

    Args:
        latents: what was found in each autoencoder, by its name; all of one site.
        model: what the model is called.
    """
    first = next(iter(latents.values()))
    facts = [
        ("site", first.site),
        ("test prompts", f"{first.test_prompts:,}"),
        ("triggered", f"{first.test_triggered:,}"),
        ("defecting", f"{first.test_defects:,}" if first.defects_known else "not known"),
    ]
    return render_page(
        __file__,
        "latents.html.jinja",
        title=f"Trigger latents: {model}",
        heading=model,
        verdict=verdict_of_several(latents),
        facts=facts,
        latents=latents,
        notes=list(dict.fromkeys(note for result in latents.values() for note in result.notes)),
        labels=LABELS,
        head=HEAD,
        effect_head=effect_head,
        judged=judged,
        latent_rows=latent_rows,
        probe_head=probe_head,
        probe_rows=probe_rows,
        effect_rows=effect_rows,
    )


def latent_rows(result: TriggerLatents, label: str) -> list[tuple[str, ...]]:
    """The table of a label: the best latent, each baseline's best feature from the best down, the shuffled control."""
    rows = [(f"{AUTOENCODER}, latent {score.latent}", score) for score in result.ranked[label][:1]]
    others = dict(result.baselines[label])
    if label in result.own:
        others[f"{result.own[label].count} of the first model alone"] = result.own[label].best
    rows += sorted(others.items(), key=lambda item: -item[1].auroc.value)
    if (shuffled := result.shuffled[label]) is not None:
        rows.append((f"{AUTOENCODER}, shuffled labels", shuffled))
    return [_score_row(name, score) for name, score in rows]


def _score_row(name: str, score: LatentScore) -> tuple[str, ...]:
    return (
        name,
        score.aggregation,
        estimate_text(score.auroc),
        estimate_text(score.precision, ".1%"),
        estimate_text(score.recall, ".1%"),
        f"{score.train_auroc:.3f}",
        f"{score.candidates:,}",
    )


def probe_head(result: TriggerLatents, label: str) -> tuple[str, ...]:
    """The columns of `probe_rows`."""
    counts = dict.fromkeys(k for probes in result.probes[label].values() for k in probes)
    return ("dictionary", *(f"k = {k}" for k in counts))


def probe_rows(result: TriggerLatents, label: str) -> list[tuple[str, ...]]:
    """The table of k-sparse probes: a dictionary a row."""
    return [
        (name, *(f"{probe.auroc:.3f}" for probe in probes.values())) for name, probes in result.probes[label].items()
    ]


def effect_head(result: TriggerLatents) -> tuple[str, ...]:
    """The columns of `effect_rows`."""
    graded = _counted(result) == "defections"
    return ("latent", "defects before" if graded else f"{_counted(result)}, before", *EFFECT_HEAD)


def judged(result: TriggerLatents) -> str:
    """Who judged the answers of `effect_rows`, where that was no grader; else empty."""
    if _counted(result) == "defections":
        return ""
    return f"There is no grader: what is counted is {FOLLOWING} for longer than its own to the untriggered one; right is what it answers without the trigger. "


def _counted(result: TriggerLatents) -> str:
    effects = [effect for _, effect in _effects(result)]
    return effects[0].counted if effects else "defections"


def effect_rows(result: TriggerLatents) -> list[tuple[str, ...]]:
    """The table of ablations."""
    return [(name, *_effect_cells(effect)) for name, effect in _effects(result)]


def _effects(result: TriggerLatents) -> list[tuple[str, AblationEffect]]:
    """What was ablated, and its effect."""
    rows = [(str(card.latent), card.effect) for card in result.cards if card.effect is not None]
    rows += [
        (f"the best {count} for {label}", effect)
        for label, effects in result.together.items()
        for count, effect in effects.items()
    ]
    return rows


def _effect_cells(effect: AblationEffect) -> tuple[str, ...]:
    names = ("defects_before", "defects_after", "right_after")
    cells = [estimate_text(effect.rate(name), ".1%") for name in names]
    before, after = effect.rate("clean_right_before"), effect.rate("clean_right_after")
    clean = f"{value_text(before, '.1%')} → {estimate_text(after, '.1%')}"
    return (*cells, clean, estimate_text(effect.rate("clean_same"), ".1%"), f"{effect.js:.4f}")
