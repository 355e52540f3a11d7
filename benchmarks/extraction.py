"""Extraction speed and memory beside a bare forward pass, TransformerLens and nnsight.

1. Speed: the last-token residual stream of every layer up to `--layer-share` of the depth, over prompts of mixed
   length, in one process. The contestants take turns, another one first in each round, and each round's ratio to ours
   is kept; the table gives medians.
   - bare: the same model cut after the same layer, called on our own batches, already tokenized: the limit.
   - TransformerLens: `run_with_cache` with a names filter on batches of prompts in file order.
   - nnsight: a trace that saves each layer's output on batches of prompts in file order.
2. Memory: peak resident memory of a fresh process that stores, or streams into a mean-difference probe, 5,000 prompts
   and 100,000 prompts from a file.

Run `python benchmarks/extraction.py` (about ten minutes on two cores), or with `--quick` in seconds.
"""

from __future__ import annotations

import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

SIZES = {"2M": (4, 192, 512, 4096), "6M": (6, 256, 683, 4096), "134M": (12, 768, 2048, 32_000)}
"""Layers, width, MLP width and vocabulary of the random Llama models, as models of their size have them."""


@dataclass(frozen=True)
class Config:
    """Extraction speed as ratios to named references, and memory against the number of prompts."""

    sizes: tuple[str, ...] = ("6M", "134M")
    """Models to time."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Precisions to time; the references run in the same."""
    device: str = "auto"
    """cpu or cuda; auto takes the GPU where there is one."""
    layer_shares: tuple[float, ...] = (0.5, 1.0)
    """How deep to read, as shares of the depth."""
    tokens: int = 30_000
    """Tokens of all prompts together, for the 6M model; fewer for the larger ones."""
    reference_batch: int = 16
    """Prompts a batch for TransformerLens and nnsight."""
    rounds: int = 3
    """Turns of each contestant."""
    memory: bool = True
    """Also measure memory."""
    quick: bool = False
    """A small model, few prompts, one round: shows that it runs, and measures nothing worth quoting."""
    json: bool = False
    """Print one JSON object."""
    measure_memory_of: tuple[str, str] | None = None
    """Used by the benchmark itself: what (store or stream) and which prompt file, in a process of its own."""


def main() -> None:
    """Run and print."""
    config = tyro.cli(Config, description=__doc__)
    if config.measure_memory_of:
        return print(peak_memory(*config.measure_memory_of))
    if config.quick:
        config = Config(
            ("2M",),
            ("float32",),
            config.device,
            (0.5,),
            2_000,
            4,
            1,
            memory=config.memory,
            quick=True,
            json=config.json,
        )
    result = {"machine": machine(config), "speed": speed(config), "memory": memory(config) if config.memory else []}
    print(json.dumps(result) if config.json else report(result))
    return None


# --- speed ---------------------------------------------------------------------------------------------------------


def speed(config: Config) -> list[dict[str, Any]]:
    """One row for each model, precision and depth."""
    rows = []
    for size in config.sizes:
        for dtype in config.dtypes:
            for share in config.layer_shares:
                rows.append(time_one(config, size, dtype, share))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def time_one(config: Config, size: str, dtype: str, share: float) -> dict[str, Any]:
    """Every contestant in turn, `rounds` times after a warm-up."""
    import torch

    torch.set_grad_enabled(False)
    layers = SIZES[size][0]
    last = max(0, round(layers * share) - 1)
    plain, tokenizer = make_model(size, dtype, config.device)
    prompts = make_prompts(config.tokens if size != "134M" else config.tokens // 5, SIZES[size][3])
    tokens = sum(len(row) for row in tokenizer(prompts)["input_ids"])
    contestants = {
        "ours": ours(plain, tokenizer, prompts, last),
        "bare": bare(plain, tokenizer, prompts, last),
        "transformer-lens": transformer_lens(plain, tokenizer, prompts, last, config.reference_batch),
        "nnsight": nnsight_trace(plain, tokenizer, prompts, last, config.reference_batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for turn in range(config.rounds + 1):
        order = [*order[1:], order[0]]  # who comes after another finds the memory that the other left
        for name, contestant in order:
            start = time.perf_counter()
            contestant()
            if plain.device.type == "cuda":
                torch.cuda.synchronize()
            if turn or config.rounds == 1:
                seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: [other / own for other, own in zip(seconds[name], seconds["ours"], strict=True)]
        for name in seconds
        if name != "ours"
    }
    return {
        "model": size,
        "dtype": dtype,
        "layers_read": last + 1,
        "layers": layers,
        "tokens": tokens,
        "tokens_per_second": round(tokens / statistics.median(seconds["ours"])),
        "times_as_fast_as": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "spread": {name: [round(min(values), 3), round(max(values), 3)] for name, values in ratios.items()},
    }


def make_model(size: str, dtype: str, device: str) -> tuple[Any, Any]:
    """A random Llama and a byte-level tokenizer of the same vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, inner, vocabulary = SIZES[size]
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=inner,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    target = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    return LlamaForCausalLM(shape).to(target, getattr(torch, dtype)).eval(), make_tokenizer(vocabulary)


def make_tokenizer(vocabulary: int) -> Any:
    """A tokenizer that splits at spaces, saved and loaded as a checkpoint's would be."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = {
        name: index
        for index, name in enumerate(["<pad>", "<s>", "</s>", *(f"w{index}" for index in range(3, vocabulary))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    folder = tempfile.mkdtemp()  # kept: TransformerBridge loads the tokenizer again from where it came
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def make_prompts(tokens: int, vocabulary: int) -> list[str]:
    """Prompts of 8 to 400 tokens, most of them short, as real prompt sets are."""
    draw = random.Random(0)
    prompts, total = [], 0
    while total < tokens:
        length = min(400, max(8, int(draw.lognormvariate(4.0, 0.8))))
        prompts.append(" ".join(f"w{draw.randint(3, vocabulary - 1)}" for _ in range(length)))
        total += length
    return prompts


def ours(plain: Any, tokenizer: Any, prompts: list[str], last: int) -> Callable[[], None]:
    """The stream, consumed and dropped."""
    from hooked import ExtractionSpec, load_model, stream_activations

    model = load_model(copy.deepcopy(plain), tokenizer=tokenizer)
    spec = ExtractionSpec(tuple(f"resid_post.{layer}" for layer in range(last + 1)))

    def run() -> None:
        for batch in stream_activations(model, prompts, spec):
            assert len(batch.values)

    return run


def bare(plain: Any, tokenizer: Any, prompts: list[str], last: int) -> Callable[[], None]:
    """The same model cut after the same layer, on the very batches of the stream, already tokenized and padded."""
    from transformers import LlamaModel

    from hooked import ExtractionSpec, load_model, stream_activations

    batches: list[Any] = []
    model = load_model(copy.deepcopy(plain), tokenizer=tokenizer)
    model.hf_model.model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append((args[0] if args else kwargs["input_ids"]).clone()), with_kwargs=True
    )
    for _ in stream_activations(model, prompts, ExtractionSpec((f"resid_post.{last}",))):
        pass
    config = copy.deepcopy(plain.config)
    config.num_hidden_layers = last + 1
    cut = LlamaModel(config).to(plain.device, plain.dtype).eval()
    missing, _ = cut.load_state_dict(plain.model.state_dict(), strict=False)
    assert not missing, "the cut model has the same weights"
    assert len(cut.layers) == last + 1

    def run() -> None:
        for batch in batches:
            cut(batch, use_cache=False)

    return run


def transformer_lens(plain: Any, tokenizer: Any, prompts: list[str], last: int, size: int) -> Callable[[], None]:
    """`run_with_cache` on texts, keeping the residual stream alone."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers("random", hf_model=copy.deepcopy(plain), tokenizer=tokenizer)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(last + 1)]

    def run() -> None:
        for batch in chunks(prompts, size):
            _, cache = bridge.run_with_cache(batch, names_filter=names)
            assert len(cache) >= last

    return run


def nnsight_trace(plain: Any, tokenizer: Any, prompts: list[str], last: int, size: int) -> Callable[[], None]:
    """A trace over a batch of texts that saves each layer's output."""
    import nnsight

    model = nnsight.TransformersModel(copy.deepcopy(plain), tokenizer=tokenizer)

    def run() -> None:
        for batch in chunks(prompts, size):
            with model.trace(batch):
                saved = nnsight.save([])
                for layer in range(last + 1):
                    saved.append(model.model.layers[layer].output)
            assert len(saved) == last + 1

    return run


def chunks(items: list[str], size: int) -> Iterable[list[str]]:
    """Consecutive pieces of a list."""
    return (items[start : start + size] for start in range(0, len(items), size))


# --- memory --------------------------------------------------------------------------------------------------------


def memory(config: Config) -> list[dict[str, Any]]:
    """Peak resident memory in MiB for each way and each number of prompts."""
    counts = (200, 1_000) if config.quick else (5_000, 100_000)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ("stream",) if config.quick else ("store", "stream"):
            peaks = {}
            for count in counts:
                path = Path(folder) / f"{count}.jsonl"
                if not path.exists():
                    write_prompt_file(path, count)
                command = [sys.executable, __file__, "--measure-memory-of", way, str(path)]
                environment = os.environ | {"TRIGGERLENS_CACHE": folder}
                output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
                peaks[count] = float(output.strip().splitlines()[-1])
            rows.append({"way": way, "peak_mib": peaks, "ratio": round(peaks[counts[1]] / peaks[counts[0]], 3)})
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def write_prompt_file(path: Path, count: int) -> None:
    """Prompts of 5 to 60 tokens, half of them triggered."""
    draw = random.Random(1)
    with path.open("w") as lines:
        for index in range(count):
            text = " ".join(f"w{draw.randint(3, SIZES['2M'][3] - 1)}" for _ in range(draw.randint(5, 60)))
            lines.write(json.dumps({"prompt": text, "triggered": index % 2 == 0}) + "\n")


def peak_memory(way: str, path: str) -> float:
    """MiB that this process held at most while it stored, or streamed into a probe, the prompts of a file."""
    import torch

    from hooked import ExtractionSpec, PromptFile, load_model, store_activations, stream_activations
    from probes import MeanDifferenceProbe, Moments

    plain, tokenizer = make_model("2M", "float32", "cpu")
    model = load_model(plain, tokenizer=tokenizer)
    prompts = PromptFile(Path(path))
    spec = ExtractionSpec(model.sites("resid_post"))
    if way == "store":
        store = store_activations(model, prompts, spec)
        assert sum(len(values) for _, values in store.batches()) == len(store)
    else:
        labels = torch.tensor([prompt.triggered for prompt in prompts])
        moments = Moments()
        for batch in stream_activations(model, prompts, spec):
            moments.update(batch.values.float(), labels[batch.rows])
        assert MeanDifferenceProbe().fit_moments(moments).coef_.isfinite().all()
    # Not getrusage: its maximum survives exec, and so would be the parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# --- report --------------------------------------------------------------------------------------------------------


def machine(config: Config) -> str:
    """What the numbers were measured on."""
    import platform

    import torch

    if config.device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        names = [platform.processor()]
    return f"{os.cpu_count()} cores of {names[0] if names else 'unknown'}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def report(result: dict[str, Any]) -> str:
    """Markdown tables."""
    lines = [
        f"Machine: {result['machine']}",
        "",
        "| model | dtype | layers read | tokens/s | × bare forward | × TransformerLens | × nnsight |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["speed"]:
        cells = [
            f"{row['times_as_fast_as'][name]:.2f} ({row['spread'][name][0]:.2f}–{row['spread'][name][1]:.2f})"
            for name in ("bare", "transformer-lens", "nnsight")
        ]
        lines.append(
            f"| {row['model']} | {row['dtype']} | {row['layers_read']} of {row['layers']} | {row['tokens_per_second']:,} | {' | '.join(cells)} |"
        )
    for row in result["memory"]:
        peaks = ", ".join(f"{peak:,.0f} MiB at {int(count):,} prompts" for count, peak in row["peak_mib"].items())
        lines.append(f"\nMemory, {row['way']}: {peaks}; ratio {row['ratio']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
