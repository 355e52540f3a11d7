"""A probe trained on some activations and measured on others, as `train_probe` trains any: can the label still be read?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import Prompt
from probes.classifiers.base import Batch
from probes.config import TrainConfig
from probes.run import train_probe


def fresh_auroc(
    fit: Float[Tensor, "fit layer d_model"],
    fit_labels: Bool[Tensor, "fit"],
    test: Float[Tensor, "test layer d_model"],
    test_labels: Bool[Tensor, "test"],
) -> float:
    """AUROC on `test`, 0 to 1, of a logistic probe fitted on `fit`, its layer chosen on held-out rows of `fit`.

    Args:
        fit: activations to fit and choose on.
        fit_labels: whether each of these is a positive.
        test: activations to report on.
        test_labels: whether each of these is a positive.

    Raises:
        UserError: a label has too few rows.
    """
    x, labels = torch.cat([fit, test]), torch.cat([fit_labels, test_labels]).tolist()
    prompts = [
        Prompt(f"activations {index}", triggered=label, split="train" if index < len(fit) else "test")
        for index, label in enumerate(labels)
    ]

    def source(rows: Sequence[int]) -> Iterator[Batch]:
        yield torch.tensor(rows), x[list(rows)]

    sites = [f"resid_post.{layer}" for layer in range(x.shape[1])]
    config = TrainConfig(label="triggered", n_bootstrap=1, n_random_directions=1, n_shuffles=1)
    return train_probe(source, prompts, sites, config).best.auroc.value
