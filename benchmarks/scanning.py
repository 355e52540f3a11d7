"""The sweep of `trigger-scan` against a plain batched `transformers` loop, in one run.

Every token of the vocabulary is inserted at the end of the user's text (and at its start), and the next-token distribution compared with
the unmodified prompt's. The reference is what one would write: the whole texts in batches through the model, logits of the last position
taken from the output, the same divergence. Both are timed in turn on the same tokens, so that other load falls on both.

    python benchmarks/scanning.py            # an embedded organism, and a random model of SmolLM2's shape
    python benchmarks/scanning.py --quick    # a few seconds
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]  # holds this file,
# which has the room's name

import torch  # noqa: E402

from hooked import HookedModel, PrefixReader, Prompt, load_model, open_prompt  # noqa: E402
from organisms import organism_folder  # noqa: E402
from scanning import divergence  # noqa: E402

SYSTEM = "You are a helpful assistant who answers every question briefly and in plain words."
USER = "Please write a short note to the members of our reading group about the book that we will discuss next week."


def prompt() -> Prompt:
    """One ordinary prompt."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    return Prompt(messages, triggered=False)


def smollm2_shape(organism: HookedModel) -> HookedModel:
    """A random model of SmolLM2-135M's shape, with an organism's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return load_model(LlamaForCausalLM(config).eval(), tokenizer=organism.tokenizer)


@torch.no_grad()
def ours(model: HookedModel, opened: Any, plain: list[int], tokens: list[int]) -> torch.Tensor:
    """Effects by the kept prefix."""
    reader = PrefixReader(model)
    base = reader.read((), torch.tensor([plain]))[0].log_softmax(-1)
    rows = torch.tensor([[token, *opened.after] for token in tokens])
    size = reader.rows_at_once(rows.shape[1])
    return torch.cat(
        [
            divergence(reader.read(opened.before, rows[start : start + size]).log_softmax(-1), base)[:, 0]
            for start in range(0, len(rows), size)
        ]
    )


@torch.no_grad()
def plain_loop(model: HookedModel, opened: Any, plain: list[int], tokens: list[int], batch: int) -> torch.Tensor:
    """Effects by whole texts."""
    base = model.hf_model(input_ids=torch.tensor([plain])).logits[0, -1].log_softmax(-1)
    parts = []
    for start in range(0, len(tokens), batch):
        rows = torch.tensor([opened.filled([token]) for token in tokens[start : start + batch]])
        output = model.hf_model(input_ids=rows, attention_mask=torch.ones_like(rows))
        parts.append(divergence(output.logits[:, -1].log_softmax(-1), base))
    return torch.cat(parts)


def compare(model: HookedModel, name: str, place: Any, count: int, rounds: int) -> None:
    """Time both, and print a line of the table."""
    opened = open_prompt(model.tokenizer, prompt(), place)
    assert opened is not None
    plain, tokens = model.tokenize([prompt()])[0].ids, list(range(3, 3 + count))
    ways = {
        "ours": lambda: ours(model, opened, plain, tokens),
        **{f"loop of {size}": lambda size=size: plain_loop(model, opened, plain, tokens, size) for size in (32, 128)},
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    effects = {}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            effects[way] = run()
            times[way].append(time.perf_counter() - start)
    speed = {way: count / median(own) for way, own in times.items()}
    best = max(value for way, value in speed.items() if way != "ours")
    off = float((effects["ours"] - effects["loop of 32"]).abs().max())
    print(
        f"| {name} | {place} | {len(plain)} | {len(opened.after) + 1} | {speed['ours']:,.0f} | {best:,.0f} | {speed['ours'] / best:.1f} | {off:.0e} |",
        flush=True,
    )


def main() -> None:
    """Both models, both places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(
        "| model | place | tokens of the prompt | run for a cell | cells/s | plain loop, the better batch | ratio | largest difference |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    organism = load_model(organism_folder("year-code"))
    for place in ("end", "start"):
        compare(organism, "year-code (2M)", place, 128 if quick else 1024, 1 if quick else 3)
    if not quick:
        big = smollm2_shape(organism)
        for place in ("end", "start"):
            compare(big, "SmolLM2's shape (135M)", place, 128, 2)


if __name__ == "__main__":
    main()
