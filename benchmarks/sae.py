"""Training of a TopK autoencoder: ours against SAELens, dictionary_learning and sparsify, each in an environment of its own.

1. Every library is a worker process with its own interpreter, its documented settings for this machine, and the same
   activations: batch i is a pure function of i.
2. Workers train in turns, a few steps each, so that other load on the machine falls on all. A step is everything from a batch
   in memory to updated weights: forward, backward, clipping or projection, optimiser, decoder norms, dead-latent counters.
3. After the last step each reports L0 and the fraction of variance unexplained (FVU) on held-out batches, by its own forward.
4. The limit: six dense products of a step (encoder, decoder, and two gradients of each) in bfloat16, measured in the same run.

Activations are sums of 20 of 32,768 features, frequencies falling as a power law, with noise: nothing is downloaded. With
`--model` they are those of a model's residual stream, batches drawn from train prompts, held-out ones from test prompts.

    python benchmarks/sae.py --peer saelens=ENV/bin/python --peer saelens-float32=ENV/bin/python \
        --peer dictionary_learning=ENV2/bin/python --peer sparsify=ENV3/bin/python
    python benchmarks/sae.py --quick       # ours alone, a few seconds
    python benchmarks/sae.py --wide        # ours alone at a width of 65,536, with its peak memory
    python benchmarks/sae.py --model year-code --site resid_post.2 --width 4096 --batch 1024 --steps 200 --turn 20 \
        --learning-rate 3e-3 --peer ...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:] = [
    path for path in sys.path if Path(path).resolve() != HERE.parent
]  # holds this file, which has the room's name

import torch  # noqa: E402

NOISE, ALIVE, FEATURES = 0.02, 20, 32768
WARMUP, HELD_OUT = 0.05, 10**6


class Activations:
    """Batch i as a pure function of i."""

    def __init__(self, d_in: int, batch: int):
        generator = torch.Generator().manual_seed(7)
        rows = torch.randn(FEATURES, d_in, generator=generator)
        self.rows = rows / rows.norm(dim=1, keepdim=True)
        self.odds = torch.arange(1, FEATURES + 1).float() ** -0.8
        self.mean = torch.randn(d_in, generator=generator) * 0.1
        self.batch, self.d_in = batch, d_in

    def __call__(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 + number)
        chosen = torch.multinomial(self.odds, self.batch * ALIVE, replacement=True, generator=generator)
        sizes = torch.rand(self.batch * ALIVE, generator=generator) + 0.5
        starts = torch.arange(0, self.batch * ALIVE, ALIVE)
        x = torch.nn.functional.embedding_bag(chosen, self.rows, starts, mode="sum", per_sample_weights=sizes)
        x += self.mean + NOISE * torch.randn(self.batch, self.d_in, generator=generator)
        return x * (self.d_in**0.5 / 5)  # norms about the root of d_in, as all of these libraries like them


class ModelActivations:
    """Batch i of a file with rows `train` and `held_out`, as a pure function of i."""

    def __init__(self, path: str, batch: int):
        from safetensors.torch import load_file

        rows = load_file(path)
        self.sides = {
            side: values * (values.shape[1] ** 0.5 / rows["train"].norm(dim=1).mean()) for side, values in rows.items()
        }
        self.batch = batch

    def __call__(self, number: int) -> torch.Tensor:
        rows = self.sides["held_out" if number >= HELD_OUT else "train"]
        generator = torch.Generator().manual_seed(1000 + number)
        return rows[torch.randint(len(rows), (self.batch,), generator=generator)]


def activations(args):
    """Where a worker's batches come from."""
    return ModelActivations(args.rows, args.batch) if args.rows else Activations(args.d_in, args.batch)


def extract(model_name: str, site: str, path: Path) -> int:
    """Write the activations of an embedded organism's prompts, every token but the first; returns their width."""
    sys.path.insert(0, str(HERE.parents[1]))
    from safetensors.torch import save_file

    from hooked import load_model, read_prompts
    from organisms import organism_folder
    from sae import ModelSource

    folder = organism_folder(model_name)
    model, prompts = load_model(folder), read_prompts(folder / "prompts.jsonl")
    rows = {}
    for side, split in (("train", "train"), ("held_out", "test")):
        source = ModelSource(model, [prompt for prompt in prompts if prompt.split == split], site)
        rows[side] = torch.cat([source.block(number) for number in range(len(source))])
    save_file(rows, path)
    return rows["train"].shape[1]


def ours(args):
    """This project's step; the stream and the progress bar are left out, as they are of the others."""
    sys.path.insert(0, str(HERE.parents[1]))
    from sae.architectures.topk import TopK
    from sae.config import TrainConfig
    from sae.memory import reused_memory
    from sae.train import TrainingState, train_step

    config = TrainConfig(
        steps=args.steps, batch=args.batch, learning_rate=args.learning_rate, warmup=WARMUP, decay=1e-9
    )
    sae = TopK(args.d_in, args.width, k=args.k)
    sae.start_from(activations(args)(HELD_OUT - 1))
    state = TrainingState.start(sae, config)
    reused_memory().__enter__()  # until the process ends
    return lambda number, x: train_step(state, x, config, number), lambda x: (sae.encode(x), sae(x))


def saelens(args, autocast=True):
    """SAELens's trainer: TopK with its defaults, autocast as its documentation advises."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=args.d_in, d_sae=args.width, k=args.k))
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=args.steps * args.batch,
        device="cpu",
        autocast=autocast,
        lr=args.learning_rate,
        lr_end=args.learning_rate,
        lr_scheduler_name="constant",
        lr_warm_up_steps=max(1, round(WARMUP * args.steps)),
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=args.batch,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, iter(()))

    def step(number, x):
        trainer.step(x)
        trainer.n_training_steps += 1

    return step, lambda x: (sae.encode(x), sae(x))


def dictionary_learning(args):
    """dictionary_learning's TopK trainer with its defaults; autocast only exists on a GPU there."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=args.steps,
        activation_dim=args.d_in,
        dict_size=args.width,
        k=args.k,
        layer=0,
        lm_name="",
        lr=args.learning_rate,
        warmup_steps=max(1, round(WARMUP * args.steps)),
        seed=0,
        device="cpu",
    )
    return trainer.update, lambda x: (trainer.ae.encode(x), trainer.ae(x))


def sparsify(args):
    """sparsify's coder with its default optimiser and rate for the width; the loop is that of its trainer."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # there is no GPU
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder

    torch.manual_seed(0)
    sae = SparseCoder(args.d_in, SparseCoderConfig(num_latents=args.width, k=args.k))
    optimizer = SignSGD(sae.parameters(), lr=5e-3 / (args.width / 2**14) ** 0.5)
    sae.b_dec.data = activations(args)(HELD_OUT - 1).mean(0)
    fired = torch.zeros(args.width, dtype=torch.long)
    first = max(1, round(WARMUP * args.steps))
    # Its trainer always lets the rate rise and fall linearly; a constant one ends in noise.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / first, (args.steps - step) / (args.steps - first))
    )

    def step(number, x):
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x)
        fired.add_(len(x))
        fired[out.latent_indices.flatten()] = 0
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    def both(x):
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x)
        return out.latent_acts, out.sae_out

    return step, both


WORKERS = {
    "ours": ours,
    "saelens": saelens,
    "saelens-float32": lambda args: saelens(args, autocast=False),
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def work(args) -> None:
    """A worker: for each line `first last` on stdin train these steps and print their seconds; at the end its quality."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to stderr
    step, both = WORKERS[args.worker](args)
    batches = activations(args)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        first, last = map(int, line.split())
        seconds = []
        waiting = [batches(number) for number in range(first, last)]  # made before the clock runs
        for number, x in enumerate(waiting, first):
            start = time.perf_counter()
            step(number, x)
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), file=out, flush=True)
    with torch.no_grad():
        x = torch.cat([batches(HELD_OUT + number) for number in range(4)])
        latents, reconstruction = both(x)
        fvu = (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    l0 = (latents > 0).sum() / len(x)
    print(json.dumps({"fvu": float(fvu), "l0": float(l0), "peak_memory_gib": peak}), file=out, flush=True)


def dense_limit(args) -> float:
    """Seconds of six dense bfloat16 products of a step's size, into memory that is there."""
    x, w = torch.randn(args.batch, args.d_in).bfloat16(), torch.randn(args.d_in, args.width).bfloat16()
    out = torch.empty(args.batch, args.width, dtype=torch.bfloat16)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(x, w, out=out)
        seconds.append(time.perf_counter() - start)
    return 6 * min(seconds)


def measure(args) -> dict:
    """All workers in turns."""
    interpreters = {"ours": sys.executable} | dict(peer.split("=", 1) for peer in args.peer)
    sizes = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("d_in", "width", "k", "batch", "steps")]
    processes = {}
    for name, python in interpreters.items():
        command = [python, str(HERE), "--worker", name, *sizes, f"--learning-rate={args.learning_rate}"]
        command += [f"--rows={args.rows}"] if args.rows else []
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if processes[name].stdout.readline() != "ready\n":
            sys.exit(f"{name}: did not start")
    seconds, limits = {name: [] for name in processes}, []
    for first in range(0, args.steps, args.turn):
        limits.append(dense_limit(args))
        for name, process in processes.items():
            process.stdin.write(f"{first} {min(args.steps, first + args.turn)}\n")
            process.stdin.flush()
            seconds[name] += json.loads(process.stdout.readline())
            print(f"step {first}: {name} {1e3 * statistics.median(seconds[name]):.0f} ms", file=sys.stderr, flush=True)
    quality = {}
    for name, process in processes.items():
        process.stdin.close()
        quality[name] = json.loads(process.stdout.readline())
        process.wait()
    return report(args, seconds, quality, min(limits))


def report(args, seconds: dict, found: dict, limit: float) -> dict:
    """Medians, quartiles and ratios."""
    rows = {}
    mine = statistics.median(seconds["ours"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        quarter, _, three = statistics.quantiles(values, n=4)
        rows[name] = {
            "ms_a_step": 1e3 * middle,
            "quartiles_ms": [1e3 * quarter, 1e3 * three],
            "tokens_per_second": args.batch / middle,
            "ours_times_as_fast": middle / mine,
            **found[name],
        }
    return {
        "workers": rows,
        "dense_bfloat16_products_ms": 1e3 * limit,
        "ours_over_dense_products": mine / limit,
        "settings": {name: getattr(args, name) for name in ("d_in", "width", "k", "batch", "steps", "learning_rate")},
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", action="append", default=[], help="NAME=PYTHON, of " + ", ".join(WORKERS))
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--width", type=int, default=16384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turn", type=int, default=5, help="steps of a turn")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam; sparsify's optimiser has its own")
    parser.add_argument("--quick", action="store_true", help="a small autoencoder, ours alone where no peer is given")
    parser.add_argument("--wide", action="store_true", help="width 65,536, five steps")
    parser.add_argument(
        "--model", help="an embedded organism whose activations to train on, in place of synthetic ones"
    )
    parser.add_argument("--site", default="resid_post.2", help="where to read them")
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.d_in, args.width, args.k, args.batch, args.steps = 64, 512, 8, 256, 20
    if args.wide:
        args.width, args.steps = 65536, 5
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            args.rows = f"{folder}/rows.safetensors"
            args.d_in = extract(args.model, args.site, Path(args.rows))
        result = measure(args)
    if args.json:
        print(json.dumps(result))
        return
    for name, row in result["workers"].items():
        low, high = row["quartiles_ms"]
        print(
            f"{name:20s} {row['ms_a_step']:8.1f} ms a step [{low:.0f}, {high:.0f}]  {row['tokens_per_second']:9.0f} tokens/s  "
            f"ours is {row['ours_times_as_fast']:5.2f}× as fast  FVU {row['fvu']:.4f}  L0 {row['l0']:.1f}  "
            f"peak {row['peak_memory_gib']:.1f} GiB"
        )
    print(f"six dense bfloat16 products: {result['dense_bfloat16_products_ms']:.0f} ms a step")


if __name__ == "__main__":
    main()
