"""What MODEL may be: a checkpoint folder, a GGUF file, an adapter on its base, a Trainer's output, a Hugging Face id.

Nothing is loaded here. A `Checkpoint` says which files will be, so that the digest names the weights that `transformers` reads
and no others: if a folder has both a single file and an index of shards, the single file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooked.faults import no_checkpoint, no_weights
from hooked.formats.named import NAMED_MODELS, named_file
from triggerlens import MANIFEST, UserError, say_once, sha256_file

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SAYS = (".json", ".jinja", ".model", ".txt")
_REPORTS = ("rates.json", MANIFEST, "evaluation.json", "hardened.json")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk."""

    name: str
    """What the user called it."""
    folder: Path
    """With its configuration and tokenizer; for an adapter, those of its base."""
    weights: tuple[Path, ...]
    """The files that its weights are read from."""
    gguf: str | None = None
    """Name of the GGUF file in the folder, where that holds everything."""
    adapter: Path | None = None
    """Folder of a PEFT adapter that is merged into the weights when they are loaded."""

    def sha256(self) -> str:
        """Names the weights: the sha256 of a single file, or of the sorted digests of several; an adapter's with its base's."""
        digest = _joined([sha256_file(path) for path in self.weights])
        if self.adapter is None:
            return digest
        return _joined([digest, *(sha256_file(self.adapter / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))])


def find_checkpoint(name: str, base: str | None = None) -> Checkpoint:
    """The checkpoint that a name stands for.

    Args:
        name: a folder, a GGUF file, a name of `NAMED_MODELS`, or a Hugging Face id (its snapshot is downloaded where that is possible).
        base: of an adapter, in place of the model that it names itself.

    Raises:
        UserError: there is none, its weights are pickled, files of it are missing, or an adapter's base is not the one it was trained on.
    """
    path = Path(name).expanduser()
    if name in NAMED_MODELS:
        path = named_file(name)
    if path.is_file():
        if base is not None:
            raise _no_adapter(name, base)
        return _gguf(name, path)
    folder = path if path.is_dir() else _snapshot(name, path)
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(name, folder, base)
    if base is not None:
        raise _no_adapter(name, base)
    if (folder / "config.json").is_file():
        return Checkpoint(name, folder, _weight_files(folder))
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return _gguf(name, files[0])
    if files:
        raise UserError(f"{name}: holds {len(files)} GGUF files; name one of them, such as {files[0]}")
    steps = sorted(folder.glob("checkpoint-*/config.json"), key=lambda file: _step(file.parent.name))
    steps += sorted(folder.glob(f"checkpoint-*/{ADAPTER_CONFIG}"), key=lambda file: _step(file.parent.name))
    if steps:
        newest = max((file.parent for file in steps), key=lambda step: _step(step.name))
        raise UserError(
            f"{name}: a training run's folder with {len(steps)} checkpoints; name one of them, such as {newest}"
        )
    raise no_checkpoint(name, folder)


def said_beside(folder: Path) -> dict[str, str]:
    """The sha256 of each file in a checkpoint's folder that says something beside its weights: configuration, tokenizer, chat template, end tokens, recipe.
    Without reports, which decide nothing."""
    files = [path for path in folder.iterdir() if path.suffix in _SAYS and path.name not in _REPORTS and path.is_file()]
    return {path.name: sha256_file(path) for path in sorted(files)}


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """An adapter's `adapter_config.json`.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG}: damaged: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / ADAPTER_CONFIG}: damaged: not a JSON object")
    return config


def _no_adapter(name: str, base: str) -> UserError:
    return UserError(f"{name}: is no adapter ({ADAPTER_CONFIG} is missing), so --base {base} does not apply")


def _gguf(name: str, path: Path) -> Checkpoint:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise UserError(f"{name}: is a file, but no GGUF file; give the folder of a checkpoint, or a .gguf file")
    return Checkpoint(name, path.parent, (path,), gguf=path.name)


def _adapter(name: str, folder: Path, base: str | None) -> Checkpoint:
    own = read_adapter_config(folder).get("base_model_name_or_path")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = next(iter(sorted(folder.glob("adapter_model*"))), None)
        reason = f"its weights are pickled ({pickled.name})" if pickled else f"{ADAPTER_WEIGHTS} is missing"
        raise UserError(f"{name}: {reason}; save the adapter again as safetensors")
    chosen = base or own
    if not isinstance(chosen, str) or not chosen:
        raise UserError(
            f"{name}: a LoRA adapter that does not say what model it was trained on; give that as --base MODEL"
        )
    try:
        below = find_checkpoint(chosen)
    except UserError as error:
        raise UserError(f"{name}: its base model cannot be loaded: {error}; give it as --base MODEL") from error
    if below.adapter is not None:
        raise UserError(f"{name}: its base {chosen} is an adapter too; merge that one first (merge_and_unload)")
    checkpoint = Checkpoint(name, below.folder, below.weights, below.gguf, folder)
    _check_base(checkpoint, below, chosen, asked=base is not None)
    return checkpoint


def _check_base(adapter: Checkpoint, below: Checkpoint, base: str, asked: bool) -> None:
    """Hold an adapter that was inserted here to the base that its manifest names by digest.

    Raises:
        UserError: the base has other weights, and was not asked for.
    """
    assert adapter.adapter is not None
    try:
        config = json.loads((adapter.adapter / MANIFEST).read_text(encoding="utf-8"))["config"]
        digest = config.get("base_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if not digest or digest == below.sha256():
        return
    trained = (
        f"{adapter.name}: was trained on other weights than those of {base} (their sha256 begins with {digest[:12]})"
    )
    if not asked:
        raise UserError(f"{trained}; put its base back there, or give another one as --base MODEL")
    say_once(f"{trained}; what was measured of it does not hold here")


def _snapshot(name: str, path: Path) -> Path:
    """The local copy of a hub snapshot, downloaded where possible."""
    if path.suffix == ".gguf" or path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{name}: no such model; give an embedded organism's name, a checkpoint folder, a GGUF file or a Hugging Face id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name}: no such folder, and the Hugging Face hub did not give it: {error}") from error


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """In the order in which `transformers` looks: one file, then an index and its shards."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return (index, *_shards(folder, index))
    raise no_weights(folder)


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged: {type(error).__name__} {error}; copy the checkpoint again") from error
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise UserError(f"{index}: names {outside[0]!r}, which lies outside its folder")
    if not shards:
        raise UserError(f"{index}: damaged: lists no shard; copy the checkpoint again")
    if missing := [path.name for path in shards if not path.is_file()]:
        raise UserError(
            f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shards)} shards that {index.name} lists); copy them too"
        )
    return shards


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _step(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
