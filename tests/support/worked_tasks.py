"""Tasks for executors: importable in another process."""

import os
import signal
import time
from pathlib import Path


def squared(number):
    return number * number


def threads(_):
    return os.environ.get("OMP_NUM_THREADS")


def with_a_bar(number):
    """A progress bar has a lock that all processes share, and that must be given back."""
    from tqdm import tqdm

    return sum(tqdm(range(number), disable=True))


def failing(number):
    if number == 2:
        raise ValueError("two")
    return number


def killed_once(folder):
    """Dies at the first try of the task that says so."""
    folder = Path(folder)
    with (folder / "tries").open("a") as file:
        file.write("x")
    if folder.name == "dies" and (folder / "tries").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.name


def killed_always(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def busy_once(folder, number):
    """Somebody else is at a task at first; notes what is begun."""
    from triggerlens import Busy

    with (Path(folder) / "begun").open("a") as begun:
        begun.write(f"{number}\n")
    file = Path(folder) / str(number)
    if file.exists():
        file.unlink()
        raise Busy(str(number))
    return "done"


def begun():
    return []


def counted(held, task):
    """How many tasks this worker has done."""
    held.append(task)
    return os.getpid(), len(held)


def moments(labels, batch):
    from probes.classifiers.moments import Moments

    return Moments(scatter=True).update(batch.values.float(), labels[batch.rows])


def indices_slowly(batch):
    """The first window takes longest."""
    time.sleep(0.3 if batch.indices[0] == 0 else 0)
    return batch.indices.tolist()


def killed_at_window(marker, window, batch):
    """Dies at the first try of a window; each time where there is no marker."""
    if batch.indices[0] == 8 * window and not (marker and Path(marker).exists()):
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return batch.indices.tolist()


def noted_window(folder, batch):
    """Takes a moment, and notes which machine of a cluster was at it."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (Path(folder) / f"{node}-{batch.indices[0]}-{os.getpid()}").touch()
    time.sleep(1)
    return batch.indices.tolist()
