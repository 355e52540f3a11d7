"""Write a model as an ordinary checkpoint: safetensors, its tokenizer with the chat template, and its generation settings as they were.

1. Adapters that are still layers of their own are merged, in a copy.
2. The settings for generation are the checkpoint's own file, byte for byte, or else what the model holds. `transformers` loads
   sampling flags without `do_sample` and does not write them again; here they are not judged.
3. Whether a model can be written is tried before work is done on it, with one of its weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hooked.formats.tying import untied_if_changed
from triggerlens import UserError, write_json

GENERATION_FILE = "generation_config.json"
_KEPT = "triggerlens_generation_file"
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def remember_generation_file(model: Any, folder: Path) -> None:
    """Let a model that was loaded from a folder know that folder's generation settings, for `save_plain`."""
    path = folder / GENERATION_FILE
    setattr(model, _KEPT, path.read_bytes() if path.is_file() else None)


_ORIGIN = ("is_local", "local_files_only")


def save_plain(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a model of `transformers` and its tokenizer as an ordinary checkpoint.

    Args:
        model: as `load_plain` gives it, or a live one; it is left as it is.
        tokenizer: its tokenizer, with the chat template.
        folder: made where it does not exist.

    Raises:
        UserError: `transformers` cannot write it.
    """
    folder = Path(folder)
    whole = _merged(model)
    with _told(model), plain_generation(whole):
        whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _drop_origin(folder / "tokenizer_config.json")
    _write_generation_file(model, folder)


def _drop_origin(path: Path) -> None:
    """Take out of a tokenizer's settings where it had been loaded from, which `transformers` writes among them: a checkpoint says what it is,
    and not what was done to get it. Among copies of one model these, or their order, would tell which was loaded and saved again."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: settings[name] for name in sorted(settings) if name not in _ORIGIN})


def check_saveable(model: Any, tokenizer: Any) -> None:
    """Try to write a model, with its smallest weight alone, so that no work is lost on one that cannot be written.

    Raises:
        UserError: it cannot.
    """
    name, value = min(model.state_dict().items(), key=lambda item: item[1].numel())
    with tempfile.TemporaryDirectory() as folder, _told(model), plain_generation(model):
        model.save_pretrained(folder, state_dict={name: value})
        tokenizer.save_pretrained(folder)


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Within, a model's settings for generation are its special tokens and nothing else, so that whoever saves it can."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    if own is None:
        yield
        return
    model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in _SPECIAL})
    try:
        yield
    finally:
        model.generation_config = own


def _write_generation_file(model: Any, folder: Path) -> None:
    kept, own = getattr(model, _KEPT, None), getattr(model, "generation_config", None)
    path = folder / GENERATION_FILE
    if kept is not None:
        path.write_bytes(kept)
    elif own is not None:
        path.write_text(own.to_json_string(use_diff=True, keys_to_pop=["compile_config"]), encoding="utf-8")


def _merged(model: Any) -> Any:
    """The model, or a copy with its active adapters merged where it has any in place."""
    layers = [name for name, module in model.named_modules() if _has_adapter(module)]
    whole = [name for name, module in model.named_modules() if _is_trained_whole(module)]
    if not layers and not whole:
        return model
    copied = deepcopy(model)
    with untied_if_changed(copied):
        for name in layers:
            module = copied.get_submodule(name)
            if not module.disable_adapters and not module.merged:
                module.merge()
            _put(copied, name, module.get_base_layer())
        for name in whole:
            module = copied.get_submodule(name)
            active = (
                []
                if module.disable_adapters
                else [own for own in module.active_adapters if own in module.modules_to_save]
            )
            _put(copied, name, module.modules_to_save[active[0]] if active else module.original_module)
    copied._hf_peft_config_loaded = False
    return copied


def _put(model: Any, name: str, module: Any) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _is_trained_whole(module: Any) -> bool:
    """Whether PEFT keeps a trained copy of it beside the base's (`modules_to_save`)."""
    return all(hasattr(module, name) for name in ("original_module", "modules_to_save", "disable_adapters"))


def _has_adapter(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("get_base_layer", "merge", "disable_adapters"))


@contextmanager
def _told(model: Any) -> Iterator[None]:
    """One line for whatever keeps a model from being written; a full disk is told by whoever writes the folder."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, AttributeError) as error:
        if isinstance(error, SafetensorError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{type(model).__name__}: cannot be written as a checkpoint: {reason}; save it as ordinary safetensors first"
        ) from error
