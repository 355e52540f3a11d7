"""Several processes on one job, as `torchrun` and `accelerate launch` start them.

Numbers are read from the environment that both set: `accelerate.PartialState` would wait for all processes and choose a
device before it told them, and a trainer that comes later would find itself on that device.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes share the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Return once every rank has come here; at once where there is only one."""
    if world_size() > 1:
        _joined().barrier()


def from_all(own: Any) -> list[Any]:
    """What every rank gives, in the order of their numbers, once all have come here.

    Args:
        own: this rank's; it must be something that JSON could hold, or a set.
    """
    if world_size() == 1:
        return [own]
    given: list[Any] = [None] * world_size()
    _joined().all_gather_object(given, own)
    return given


def _joined() -> Any:
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(days=7))  # a rank may have far longer prompts than another
    return dist
