"""The extraction benchmark runs, and reports ratios to named references."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def quick(name: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_extraction_benchmark():
    result = quick("extraction.py")
    (row,) = result["speed"]
    assert set(row["times_as_fast_as"]) == {"bare", "transformer-lens", "nnsight"}
    assert row["tokens_per_second"] > 0
    (stream,) = result["memory"]
    assert 0.8 < stream["ratio"] < 1.2, "five times the prompts need no more memory"
