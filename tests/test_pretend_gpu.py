"""Models and commands on a device that is not the CPU give what the CPU gives (`support/pretend_gpu.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "support" / "on_the_pretend_gpu.py"


def test_models_and_commands_give_what_they_give_on_the_cpu(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRIGGERLENS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert len(outcome) == 1 + 5 + 5 + 6
    assert not {name: wrong[:3] for name, wrong in outcome.items() if wrong}
