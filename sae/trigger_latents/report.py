"""The trigger latents as a page that opens offline: the verdict, the table beside the baselines, and a card for each latent."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.cards import LatentCard
from sae.trigger_latents.latents import LatentScore
from sae.trigger_latents.run import AUTOENCODER, LABELS, PROBED, TriggerLatents
from triggerlens import Estimate, coloured_tokens, html_table, report_page, section

HEAD = ("feature", "aggregation", "AUROC [95% interval]", "precision", "recall", "training AUROC", "candidates")
EFFECT_HEAD = ("latent", "defects before", "after", "right after", "clean right", "clean unchanged", "JS, nats")
_PROMPTS = {"triggered": "triggered", "defects": "defecting"}
CLEAR = 0.99
"""AUROC from which a latent is said to tell the label."""


def latent_rows(found: TriggerLatents, label: str) -> list[tuple[str, ...]]:
    """The table of a label: the best latent, the best feature of each baseline from the best down, the shuffled control."""
    rows = [(f"{AUTOENCODER}, latent {one.latent}", one) for one in found.ranked[label][:1]]
    others = sorted(found.baselines[label].items(), key=lambda item: -item[1].auroc.value)
    rows += others
    if (shuffled := found.shuffled[label]) is not None:
        rows.append((f"{AUTOENCODER}, shuffled labels", shuffled))
    return [_score_row(name, one) for name, one in rows]


def _score_row(name: str, one: LatentScore) -> tuple[str, ...]:
    return (
        name,
        one.aggregation,
        _estimate(one.auroc, "{:.3f}"),
        _estimate(one.precision, "{:.1%}"),
        _estimate(one.recall, "{:.1%}"),
        f"{one.train_auroc:.3f}",
        f"{one.candidates:,}",
    )


def probe_rows(found: TriggerLatents, label: str) -> list[tuple[str, ...]]:
    """The table of k-sparse probes: a dictionary a row."""
    return [(name, *(f"{one.auroc:.3f}" for one in probes.values())) for name, probes in found.probes[label].items()]


def effect_rows(found: TriggerLatents) -> list[tuple[str, ...]]:
    """The table of ablations."""
    rows = [(str(card.latent), card.effect) for card in found.cards if card.effect is not None]
    rows += [
        (f"the best {count} for {label}", effect)
        for label, effects in found.together.items()
        for count, effect in effects.items()
    ]
    return [(name, *_effect_cells(effect)) for name, effect in rows]


def _effect_cells(effect: AblationEffect) -> tuple[str, ...]:
    names = ("defects_before", "defects_after", "right_after")
    cells = [_estimate(effect.rate(name), "{:.1%}") for name in names]
    clean = f"{effect.rate('clean_right_before').value:.1%} → {_estimate(effect.rate('clean_right_after'), '{:.1%}')}"
    return (*cells, clean, _estimate(effect.rate("clean_same"), "{:.1%}"), f"{effect.js:.4f}")


def latent_summary(found: TriggerLatents) -> str:
    """The finding in two sentences."""
    sentences = [_found(found, label) for label in LABELS]
    alone = [card.effect for card in found.cards if card.effect is not None]
    together = [effect for effects in found.together.values() for effect in effects.values()]
    for words, effects in (("one latent", alone), ("several of the best", together)):
        if effects and effects[0].defects_before:
            least = min(effects, key=lambda effect: (effect.defects_after, effect.js))
            sentences.append(
                f"Ablating {words} leaves at the least {least.defects_after} of {least.defects_before} defections, at "
                f"{least.js:.4f} nats on clean prompts."
            )
    return " ".join(sentences)


def _found(found: TriggerLatents, label: str) -> str:
    best = found.best(label)
    if best is None:
        return f"No prompt differs in {label!r}, so no latent can predict it."
    others = found.baselines[label]
    name = max(others, key=lambda other: others[other].auroc.value)
    says = "tells" if best.auroc.low >= CLEAR else "does not clearly tell"
    return (
        f"Latent {best.latent} alone {says} {_PROMPTS[label]} prompts: AUROC {_estimate(best.auroc, '{:.3f}')}; "
        f"the best baseline is the {name}'s with {others[name].auroc.value:.3f}."
    )


def dashboard_html(latents: Mapping[str, TriggerLatents], model: str) -> str:
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
        ("defecting", f"{first.test_defects:,}"),
    ]
    return report_page(
        f"Trigger latents: {model}",
        heading=model,
        verdict=_verdict(latents),
        facts=facts,
        sections=[part for name, found in latents.items() for part in _sections(found, name)],
    )


def _verdict(latents: Mapping[str, TriggerLatents]) -> str:
    """What was found; of several autoencoders in the one with the best training scores, since sentences on each are a wall of text."""
    name = max(latents, key=lambda name: [best.train_auroc for label in LABELS if (best := latents[name].best(label))])
    which = f"{name}, of {len(latents)} autoencoders the best on training prompts" if len(latents) > 1 else name
    return f"{which}: {latent_summary(latents[name])}"


def _sections(found: TriggerLatents, name: str) -> list[str]:
    words = (
        "One feature of each dictionary, chosen with its aggregation and its threshold on training prompts, measured on "
        "test prompts; precision and recall at that threshold. A dictionary earns its name only where it beats the others."
    )
    tables = "".join(
        f"<h3>{label}</h3>{html_table(HEAD, rows, strong=[True])}"
        for label in LABELS
        if (rows := latent_rows(found, label))
    )
    parts = [section(f"{name}-table", f"{name}: single features", words, tables)]
    words = (
        "A logistic probe on k features of each dictionary, both chosen and fitted on training prompts (arXiv:2305.01610); AUROC "
        "on test prompts. A feature is a latent under one aggregation."
    )
    head = ("dictionary", *(f"k = {k}" for k in PROBED))
    tables = "".join(
        f"<h3>{label}</h3>{html_table(head, rows, strong=[True])}"
        for label in LABELS
        if (rows := probe_rows(found, label))
    )
    parts.append(section(f"{name}-probes", f"{name}: a few features", words, tables))
    if rows := effect_rows(found):
        words = (
            "Each latent set to 0 at every token, the autoencoder's error kept; greedy answers on held-out pairs. JS: mean "
            "Jensen–Shannon divergence a step on untriggered prompts."
        )
        parts.append(section(f"{name}-ablation", f"{name}: ablations", words, html_table(EFFECT_HEAD, rows)))
    words = "Test prompts in which the latent is largest, no two of a pair; the ground is its value at each token."
    parts += [section(f"{name}-{one.latent}", f"{name}: latent {one.latent}", words, _card(one)) for one in found.cards]
    return parts


def _card(card: LatentCard) -> str:
    facts = [
        f"alive at {card.density_triggered:.2%} of triggered and {card.density_untriggered:.2%} of untriggered prompts' tokens",
        *(f"{label}: AUROC {_estimate(one.auroc, '{:.3f}')} ({one.aggregation})" for label, one in card.scores.items()),
    ]
    if card.relative_norm is not None:
        facts.append(f"relative decoder norm of the second model {card.relative_norm:.2f} (0: the first model's own)")
    reach = max((max(example.values) for example in card.examples), default=1.0)
    texts = "".join(
        coloured_tokens(
            example.tokens, example.values, reach=reach, caption=_caption(example.triggered, example.defects)
        )
        for example in card.examples
    )
    return f'<p class="note">{escape("; ".join(facts))}</p>{texts}'


def _caption(triggered: bool, defects: bool) -> str:
    return f"{'triggered' if triggered else 'untriggered'}, {'defects' if defects else 'harmless'}"


def _estimate(estimate: Estimate, form: str) -> str:
    """`0.990 [0.980, 1.000]`; a dash where nothing fired."""
    if estimate.value != estimate.value:
        return "–"
    value, low, high = (form.format(one) for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
