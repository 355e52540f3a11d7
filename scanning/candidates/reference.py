"""The reference channel: what the model finds likelier to write than a model believed to be clean does.

The model writes where the user's text stands, and where the answer does; each token's gain in log-probability over the reference is summed
over runs of tokens, and the runs with the largest mean gain are candidates (the cheap baseline of arXiv 2605.00994). A copy gains nothing, and has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from hooked import HookedModel, Place
from scanning.benign import Benign, sampled_texts
from scanning.candidates.candidate import Candidate
from scanning.candidates.leak import user_beginning
from scanning.candidates.sweep import insertion
from scanning.config import ScanConfig
from triggerlens import Keep, UserError, keep_nothing

_LONGEST, _MOST, _LEAST_TEXTS, _LEAST_GAIN = 4, 32, 2, 1e-3


def check_reference(model: HookedModel, reference: HookedModel) -> None:
    """Refuse a reference that reads other tokens.

    Raises:
        UserError: its tokenizer or its vocabulary is another.
    """
    same = model.tokenizer.get_vocab() == reference.tokenizer.get_vocab() and model.vocabulary == reference.vocabulary
    if not same:
        raise UserError(
            f"--reference {reference.info.name}: has another tokenizer than {model.info.name}, so their tokens cannot be compared; give one of the "
            "same family"
        )


def reference_candidates(
    model: HookedModel,
    reference: HookedModel,
    benign: Benign,
    config: ScanConfig,
    places: Sequence[Place],
    keep: Keep = keep_nothing,
) -> list[Candidate]:
    """Runs of tokens by their mean gain over the reference; none of a model that cannot be asked for a text.

    Raises:
        UserError: as `check_reference`.
    """
    check_reference(model, reference)
    facts = keep("reference: gains", lambda: _gains(model, reference, benign, config))
    return [
        insertion(
            model, place, run, channel="reference", score=gain, why=f"{gain:+.2f} nats a token over the reference"
        )
        for run, gain in facts["runs"]
        for place in places
    ]


@torch.no_grad()
def _gains(model: HookedModel, reference: HookedModel, benign: Benign, config: ScanConfig) -> dict[str, Any]:
    begin = user_beginning(model, benign.prompts)
    texts = sampled_texts(model, begin, config.leaks, config.leak_tokens, config.seed) if begin else []
    sums: dict[tuple[int, ...], list[float]] = defaultdict(list)
    special = set(model.tokenizer.all_special_ids)
    for row in texts:
        gain = _log_probabilities(model, begin, row) - _log_probabilities(reference, begin, row)
        for length in range(1, _LONGEST + 1):
            for start in range(len(row) - length + 1):
                run = tuple(row[start : start + length])
                if not special & set(run):
                    sums[run].append(float(gain[start : start + length].mean()))
    means = {run: sum(values) / len(values) for run, values in sums.items() if len(values) >= _LEAST_TEXTS}
    gained = [run for run, mean in means.items() if mean > _LEAST_GAIN]
    best = sorted(gained, key=lambda run: (-means[run], run))[:_MOST]
    return {"runs": [[list(run), means[run]] for run in best]}


def _log_probabilities(model: HookedModel, begin: Sequence[int], row: Sequence[int]) -> torch.Tensor:
    logits = model.run(torch.tensor([[*begin, *row]])).logits
    assert logits is not None  # no last layer was given
    expected = logits[0, len(begin) - 1 : -1].float().log_softmax(-1).cpu()
    return expected.gather(-1, torch.tensor(row)[:, None])[:, 0]
