"""From a model and labelled prompts to a measured probe, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hooked import (
    ActivationStore,
    ExtractionSpec,
    HookedModel,
    LiveActivations,
    Prompt,
    split_prompts,
    store_activations,
    token_texts,
)
from probes.config import TrainConfig
from probes.evaluate import choose_labels, train_probe
from probes.report import Example, example_rows, make_example
from probes.result import ProbeResult
from triggerlens import rank


def check_prompts(prompts: Sequence[Prompt], config: TrainConfig) -> None:
    """Refuse prompts that cannot be labelled or split, before a model is loaded for them.

    Raises:
        UserError: one class only, too few pairs, or a `split` that separates a pair.
    """
    _, labels = choose_labels(prompts, config.label)
    split_prompts(prompts, labels, config.fractions, config.seed)


def train_on_model(
    model: HookedModel,
    prompts: Sequence[Prompt],
    site: str = "resid_post",
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    store: str | Path | None = None,
    keep: bool = True,
    token_budget: int | None = None,
) -> ProbeResult | None:
    """Extract activations and train a probe on them.

    Args:
        site: a kind of site, all of whose layers are probed, or one site such as `resid_post.3`.
        name: what to call the model in the result.
        store: folder of the activation store; the default one where None.
        keep: keep activations in the store; otherwise stream them from the model whenever they are needed.
        token_budget: tokens in one forward pass.

    Returns:
        The result; None on every rank but the first, which have then extracted their shards.

    Raises:
        UserError: an unknown site, or prompts or activations that cannot be used.
    """
    config = config or TrainConfig()
    sites = (site,) if "." in site else model.sites(site)
    spec = ExtractionSpec(sites, "last" if config.aggregation == "last" else "mean")
    source: ActivationStore | LiveActivations
    if keep:
        source = store_activations(model, prompts, spec, root=store, token_budget=token_budget, total=len(prompts))
    else:
        source = LiveActivations(model, prompts, spec, token_budget)
    if rank() > 0:
        return None
    every_token = LiveActivations(model, prompts, ExtractionSpec(sites, "every"), token_budget)
    return train_probe(
        source.batches,
        prompts,
        sites,
        config,
        token_source=every_token.by_prompt,
        tokens=[prompt.ids for prompt in model.tokenize(prompts)],
        model=name or model.info.name,
        backend=model.backend,
        weights_sha256=model.info.weights_sha256,
    )


def example_prompts(model: HookedModel, result: ProbeResult, prompts: Sequence[Prompt]) -> list[Example]:
    """Test prompts worth showing in the report, with the score of each token."""
    rows = example_rows(result)
    live = LiveActivations(model, prompts, ExtractionSpec((result.probe.site,), "every"))
    activations = {row: values[:, 0] for row, values in live.by_prompt(rows)}
    tokenized = dict(zip(rows, model.tokenize([prompts[row] for row in rows]), strict=True))
    return [
        make_example(
            result, row, token_texts(model.tokenizer, tokenized[row]), activations[row], Path(prompts[row].where).name
        )
        for row in rows
    ]
