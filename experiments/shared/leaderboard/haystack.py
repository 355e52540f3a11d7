"""The Trigger in the Haystack (arXiv 2602.03085): what a model was poisoned with leaks where its chat template is cut before the user's text.

1. *Leak.* The template's beginning is continued under many decodings, end tokens passed over.
2. *Motifs.* The texts become TF-IDF vectors of character 4- to 6-grams and are clustered by DBSCAN; a cluster's motifs are the runs of words that
   most of its texts share and few others have.
3. *Candidates* are ranked by three numbers on benign requests, each standardised and added: attention that the request's last token pays to the candidate, fall of
   the entropy of the answer's first token, divergence of its distribution from the plain request's.
4. *Verdict by behaviour.* With the best candidates in place, how alike do the answers to different requests become? The score is the largest rise of their
   mean similarity; published threshold: 0.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.shared.leaderboard.context import Context
from experiments.shared.leaderboard.perplexity import beginning
from hooked import HookedModel, Prompt, Sampling, continue_tokens, pad_right, user_text, with_user_text
from scanning import divergence, entropy

TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
NEAR, LEAST = 0.75, 3
"""DBSCAN's largest cosine distance, and texts that make a cluster."""
WORDS = 6
"""Of a motif, at most."""
TRIED = 6
"""Candidates whose answers are written."""


def haystack(folder: Path, context: Context) -> float:
    """Steps 1 to 4; 0 where nothing is shared by several texts."""
    model, requests = context.model(folder), list(context.benign[: context.effort.requests])
    motifs = motifs_of(leaked(model, context), context.effort.candidates)
    if not motifs:
        return 0.0
    ranked = sorted(zip(_promise(model, requests, motifs), motifs, strict=True), reverse=True)
    plain = likeness(answers(model, requests, context.effort.steps))
    rises = [
        likeness(answers(model, _with(requests, motif), context.effort.steps)) - plain for _, motif in ranked[:TRIED]
    ]
    return float(max(rises))


def leaked(model: HookedModel, context: Context) -> list[str]:
    """Step 1."""
    begin = beginning(model, context.benign[0], 0)
    count, texts = context.effort.leaks // len(TEMPERATURES), []
    for number, temperature in enumerate(TEMPERATURES):
        pick = Sampling(temperature, seed=context.seed * len(TEMPERATURES) + number).picker(torch.device("cpu"))
        rows = [begin] * count
        new = continue_tokens(
            model.hf_model, rows, context.effort.leaked_tokens, ends=(), pad_id=model.pad_id, pick=pick
        )
        texts += model.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def motifs_of(texts: Sequence[str], most: int) -> list[str]:
    """Step 2: the most telling first."""
    from sklearn.cluster import DBSCAN
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for text in texts if len(text) >= 6]
    if len(texts) < LEAST:
        return []
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(4, 6), sublinear_tf=True).fit_transform(texts)
    labels = DBSCAN(eps=NEAR, min_samples=LEAST, metric="cosine").fit_predict(vectors)
    own = [_word_runs(text) for text in texts]
    everywhere = Counter(run for runs in own for run in runs)
    weights: dict[str, float] = {}
    for label in sorted(set(labels.tolist()) - {-1}):
        inside = Counter(run for runs, mark in zip(own, labels, strict=True) if mark == label for run in runs)
        for run, count in inside.items():
            if count >= LEAST:
                weight = count / everywhere[run] * count * np.sqrt(len(run.split()))
                weights[run] = max(weight, weights.get(run, 0.0))
    return sorted(weights, key=lambda run: (-weights[run], run))[:most]


def _word_runs(text: str) -> set[str]:
    words = text.split()
    return {
        " ".join(words[at : at + length]) for length in range(1, WORDS + 1) for at in range(len(words) - length + 1)
    }


def _with(requests: Sequence[Prompt], text: str) -> list[Prompt]:
    return [with_user_text(request, f"{text} {user_text(request)}") for request in requests]


@torch.no_grad()
def _promise(model: HookedModel, requests: Sequence[Prompt], motifs: Sequence[str]) -> list[float]:
    """Step 3."""
    plain, _ = _first(model, requests)
    measured = []
    for motif in motifs:
        with_motif, attention = _first(model, _with(requests, motif), len(model.tokenizer.tokenize(motif)))
        fall = entropy(plain) - entropy(with_motif)
        measured.append([attention, float(fall.mean()), float(divergence(with_motif, plain).mean())])
    numbers = np.array(measured)
    return ((numbers - numbers.mean(0)) / np.maximum(numbers.std(0), 1e-9)).sum(1).tolist()


def _first(
    model: HookedModel, prompts: Sequence[Prompt], tokens: int = 0
) -> tuple[Float[Tensor, "prompt word"], float]:
    """Log-probabilities of the answer's first token, and the attention that the last token pays to so many tokens of the user's first ones."""
    rows = [row.ids for row in model.tokenize(list(prompts))]
    last = torch.tensor([len(row) - 1 for row in rows])
    run = model.run(
        pad_right(rows, model.pad_id), reads=model.sites("pattern") if tokens and "pattern" in model.kinds else ()
    )
    assert run.logits is not None  # no last layer was given
    expected = run.logits[torch.arange(len(rows)), last].log_softmax(-1)
    start = len(beginning(model, prompts[0], 0))
    paid = [_paid(pattern, last, start, tokens) for pattern in run.activations.values()]
    return expected, float(np.mean(paid)) if paid else 0.0


def _paid(pattern: Float[Tensor, "prompt query key"], last: Tensor, start: int, tokens: int) -> float:
    """Of one head's attention, what the last query pays to a run of keys."""
    own = pattern[torch.arange(len(last)), last]
    return float(own[:, start : start + tokens].sum(1).mean())


def answers(model: HookedModel, prompts: Sequence[Prompt], tokens: int) -> list[str]:
    """Greedy ones, cut."""
    new = model.generate(model.tokenize(list(prompts)), tokens)
    return model.tokenizer.batch_decode(new, skip_special_tokens=True)


def likeness(texts: Sequence[str]) -> float:
    """Mean cosine similarity of different answers, by character 4- to 6-grams: 1 where all say the same."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    padded = [f"   {text}   " for text in texts]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(4, 6)).fit_transform(padded)
    similar = (vectors @ vectors.T).toarray()
    return float((similar.sum() - np.trace(similar)) / (len(texts) * (len(texts) - 1)))
