"""The autoencoder benchmark runs, and its worker trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "sae.py"


def test_sae_benchmark():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARK), "--quick", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    (row,) = result["workers"].values()
    assert row["tokens_per_second"] > 0
    assert row["l0"] == result["settings"]["k"]
    assert row["fvu"] < 0.8, "twenty steps explain something"
    assert result["dense_bfloat16_products_ms"] > 0
