"""An experiment whose cells take a moment and note who computed them; importable in another process."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from experiments.experiment import Experiment
from experiments.result import Finding, Result, Specimen
from experiments.shared.subjects import ExperimentConfig
from triggerlens import Estimate, keep_nothing, over_seeds


@dataclass(frozen=True)
class Coin:
    side: str
    kind: Literal["coin"] = "coin"


@dataclass(frozen=True, kw_only=True)
class TossConfig(ExperimentConfig):
    journal: str = ""
    raises: int = -1


class Toss(Experiment):
    name, title, claims = "toss", "whether a coin is fair", (99,)
    VERSION, Config, QUICK, Arm = 1, TossConfig, {}, Coin

    def run(self, config, keep=keep_nothing):
        cells = {f"seed-{seed}": keep(f"seed-{seed}", partial(toss, config, seed)) for seed in config.seeds}
        estimate = over_seeds([Estimate(cell["value"], 0.0, 1.0) for cell in cells.values()])
        return Result((Finding(99, "heads", Specimen("a coin"), Coin("heads"), estimate, len(cells), "heads"),), cells)


def toss(config, seed):
    with Path(config.journal).open("a") as journal:
        journal.write(f"{seed} {os.getpid()}\n")
    time.sleep(0.1)
    if seed == config.raises:
        raise ValueError(f"seed {seed}")
    return {"value": seed / 10}
