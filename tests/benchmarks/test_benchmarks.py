"""The benchmarks run, and report ratios to named references."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def quick(name):
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_extraction_benchmark():
    result = quick("extraction.py")
    (row,) = result["speed"]
    assert set(row["times_as_fast_as"]) == {"bare", "transformer-lens", "nnsight"}
    assert row["tokens_per_second"] > 0
    assert {way["way"] for way in result["memory"]} == {"store", "stream"}
    assert all(ratio > 0.9 for ratio in (way["ratio"] for way in result["memory"]))


def test_probe_fit_benchmark():
    assert quick("probe_fit.py")
