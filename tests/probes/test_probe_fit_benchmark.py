"""The benchmark runs, and both sides reach the same optimum."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_quick_run_reaches_the_same_optimum(tmp_path):
    command = [
        sys.executable,
        "benchmarks/probe_fit.py",
        "--quick",
        "--every",
        "2",
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert "speed_up" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["rows"]) == 2
    for row in written["rows"]:
        best = min(row["objective_sklearn"].values())
        assert abs(best / row["objective_ours"] - 1) < 1e-6
        assert row["gradient_ours"] < 1e-6
    assert written["summary"]["max_coef_difference"] < 1e-4
