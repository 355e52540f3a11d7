"""Exact activation patching, all layer × position cells of `resid_pre`: ours against TransformerLens, in one run.

A random model of GPT-2 small's shape (12 layers, 768 wide, its vocabulary) in float32 and in bfloat16, and two prompts of 48
tokens that differ from the first token on, so that no cell can be skipped. The reference is TransformerLens's
`patching.get_act_patch_resid_pre` on the same weights (in the same dtype), tokens and metric. The two are timed in turn, round by round, so that
other load on the machine falls on both; TransformerLens gets a share of the cells in each round, ours all of them. Ours includes
reading the activations of both runs; TransformerLens is given its cache.

The floating-point limit: the operations that the cells need (each layer from the patched one on, tokens from the patched one
on; in the patched layer no queries, keys and values but the patched token's; in the last layer keys and values, and the last token
alone for the rest), over the rate of a large matrix product in the same dtype, measured in the same run.

    python benchmarks/patching.py            # about a minute a round
    python benchmarks/patching.py --quick    # a few seconds
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]  # holds this file,
# which has the room's name

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from hooked import HookedModel, load_model  # noqa: E402
from patching import LogitDifference, PatchPair, Readout, exact_effects, layer_sites, position_cells  # noqa: E402
from patching.pairs import unpatched_value  # noqa: E402


@dataclass(frozen=True)
class Shape:
    """Of a model and its prompts."""

    layers: int
    width: int
    vocabulary: int
    tokens: int
    dtype: torch.dtype = torch.float32


def random_model(architecture: str, shape: Shape) -> Any:
    """A random model in evaluation mode."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": shape.vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    heads = shape.width // 64
    if architecture == "gpt2":
        config = GPT2Config(n_layer=shape.layers, n_embd=shape.width, n_head=heads, **common)
        return GPT2LMHeadModel(config).eval().to(shape.dtype)
    llama = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=heads,
        intermediate_size=shape.width * 8 // 3,
        max_position_embeddings=1024,
        **common,
    )
    return LlamaForCausalLM(llama).eval().to(shape.dtype)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that is never used: both sides get token ids."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), pad_token="<pad>", eos_token="</s>"
    )


def random_pair(model: HookedModel, shape: Shape) -> PatchPair:
    """Two prompts that differ at every token; read by the logits of two tokens that tell them apart."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(3, shape.vocabulary // 2, (2, shape.tokens), generator=generator)
    rows[1] += rows[1] == rows[0]
    clean, triggered = (tuple(row) for row in rows.tolist())
    metric = LogitDifference(5, 6)
    values = [unpatched_value(model, ids, metric) for ids in (clean, triggered)]
    return PatchPair(clean, triggered, Readout((), 5, 6, metric), values[0], values[1])


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def measure(architecture: str, shape: Shape, rounds: int, lens_cells: int | None = None) -> dict[str, Any]:
    """Both sides, round by round."""
    from transformer_lens import patching as lens

    plain = random_model(architecture, shape)
    theirs = load_model(copy.deepcopy(plain), tokenizer=small_tokenizer(), backend="transformer-lens")
    ours = load_model(plain, tokenizer=small_tokenizer())
    pair = random_pair(ours, shape)
    cells = position_cells(layer_sites(ours, "resid_pre", range(shape.layers)), range(shape.tokens))
    with torch.no_grad():
        bridge = theirs.bridge  # type: ignore[attr-defined]
        clean, corrupted = torch.tensor([pair.clean]), torch.tensor([pair.triggered])
        _, cache = bridge.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_resid_pre"))
        grid = pd.DataFrame(
            [(layer, position) for layer in range(shape.layers) for position in range(shape.tokens)],
            columns=["layer", "pos"],
        )
        order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(2)).chunk(rounds)
        seconds = {"ours": [], "transformer-lens": [], "matrix rate": []}
        order = tuple(share[: lens_cells or None] for share in order)
        values = torch.full((len(grid),), torch.nan)
        exact_effects(ours, [pair], [cells[:: shape.tokens]], audited=0)  # load the libraries first
        for share in order:
            effects, took = timed(lambda: exact_effects(ours, [pair], [cells], audited=0))
            seconds["ours"].append(took)
            rows = grid.iloc[share.tolist()].reset_index(drop=True)
            part, took = timed(
                lambda rows=rows: lens.get_act_patch_resid_pre(
                    bridge,
                    corrupted,
                    cache,
                    lambda logits: logits[0, -1, 5] - logits[0, -1, 6],
                    index_axis_names=None,
                    index_df=rows,
                )
            )
            values[share] = part
            seconds["transformer-lens"].append(took)
            seconds["matrix rate"].append(matrix_rate(shape.dtype))
    assert effects.engine == "packed", effects.notes
    assert effects.ran == len(cells)
    lens_effects = pair.sides("denoising").effects(values.double())
    both = ~lens_effects.isnan()
    error = (torch.from_numpy(effects.effects[0]) - lens_effects)[both].abs().max() / lens_effects[both].abs().max()
    return report(architecture, shape, seconds, len(cells), int(both.sum()), float(error))


def report(
    architecture: str, shape: Shape, seconds: dict[str, list[float]], cells: int, lens_cells: int, error: float
) -> dict[str, Any]:
    """Rates, ratio and share of the limit: medians over the rounds, which a burst of other load in one of them leaves alone."""
    each = lens_cells / len(seconds["ours"])
    ours = cells / median(seconds["ours"])
    theirs = each / median(seconds["transformer-lens"])
    per_round = [
        (cells / mine) / (each / lens) for mine, lens in zip(seconds["ours"], seconds["transformer-lens"], strict=True)
    ]
    rate = max(seconds["matrix rate"])
    needed = needed_operations(shape, architecture) / cells
    return {
        "model": f"{architecture}, {shape.layers} layers, {shape.width} wide, vocabulary {shape.vocabulary}, "
        f"{shape.tokens} tokens, {str(shape.dtype).removeprefix('torch.')}",
        "cells": cells,
        "cells_timed_of_transformer_lens": lens_cells,
        "ours_cells_per_second": ours,
        "transformer_lens_cells_per_second": theirs,
        "times_as_fast_as_transformer_lens": median(per_round),
        "by_round": per_round,
        "largest_difference_over_largest_effect": error,
        "matrix_rate_tflops": rate / 1e12,
        "operations_per_cell": needed,
        "share_of_floating_point_limit": ours * needed / rate,
    }


def needed_operations(shape: Shape, architecture: str) -> float:
    """Floating-point operations that all cells need together."""
    d, n, last = shape.width, shape.tokens, shape.layers - 1
    mlp = (8 if architecture == "gpt2" else 3 * (d * 8 // 3) / d) * d * d
    block, qkv = 2 * (4 * d * d + mlp), 2 * 3 * d * d
    total = 0.0
    for layer in range(shape.layers):
        for position in range(n):
            suffix = n - position
            attention = 4 * d * sum(range(position + 1, n + 1))
            final = block + 4 * d * n + 2 * 2 * d  # the last token through the last block, and two logits
            if layer == last:
                total += final + 2 * 2 * d * d
                continue
            whole = last - layer
            total += whole * (suffix * block + attention) - (suffix - 1) * qkv + suffix * 2 * 2 * d * d + final
    return total


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large product."""
    a, b = torch.randn(2048, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    best = min(timed(lambda: a @ b)[1] for _ in range(10))
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", choices=["gpt2", "llama", "both"], default="both")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    parser.add_argument(
        "--lens-cells", type=int, help="time TransformerLens on this many random cells a round, not all"
    )
    parser.add_argument("--quick", action="store_true", help="2 layers, 128 wide, 12 tokens, one round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    size = (2, 128, 512, 12) if args.quick else (12, 768, 50257, 48)
    names = ["gpt2", "llama"] if args.architecture == "both" else [args.architecture]
    dtypes = ["float32", "bfloat16"] if args.dtype == "both" else [args.dtype]
    rounds = 1 if args.quick else args.rounds
    rows = []
    for dtype in dtypes:
        for name in names:
            row = measure(name, Shape(*size, dtype=getattr(torch, dtype)), rounds, args.lens_cells)
            rows.append(row)
            if not args.json:
                print("\n".join(f"{key}: {value}" for key, value in row.items()), end="\n\n", flush=True)
    machine = {"threads": torch.get_num_threads(), "cpu": platform.processor() or platform.machine()}
    print(json.dumps({"speed": rows, **machine}) if args.json else f"{machine}")


if __name__ == "__main__":
    main()
