"""What a saved artefact has to remember of the model that it was made with, and how another model differs from that.

An artefact that is applied to a model later (a probe, an autoencoder, stored activations) is right for the model that it was made
with alone. The weights do not say that by themselves: another rotary base in config.json is another function of the same weights,
and another chat template or another date in it gives it other tokens to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from hooked.identity import identity_sha256
from hooked.model import HookedModel
from hooked.prompts.rendering import prints_date

_MOST = 3
"""Fields of a configuration that a line names."""


def provenance_of(model: HookedModel) -> dict[str, Any]:
    """What decides the numbers of a model, as strict JSON: what it computes, its tokenizer with the template, and its date where the
    template prints one; and, for the last digits, how it is computed."""
    identity = model.identity()
    return {
        "model": _strict(identity["model"]),
        "computation": _strict(identity["computation"]),
        "tokenizer_sha256": model.info.tokenizer_sha256,
        "today": model.today.isoformat() if prints_date(model.tokenizer) else None,
    }


def differences(saved: Mapping[str, Any], model: HookedModel, weights_sha256: str = "") -> list[str]:
    """In which ways a model is another one than an artefact was made with, in words; none where it is the same.

    Args:
        saved: what `provenance_of` gave then; empty for an artefact that did not keep it.
        model: which it is applied to now.
        weights_sha256: of the weights then, which is all that older artefacts know.
    """
    now = provenance_of(model)
    if not saved:
        return ["other weights"] if weights_sha256 and weights_sha256 != now["model"]["weights"] else []
    differing = _of_model(saved.get("model", {}), now["model"])
    if saved.get("tokenizer_sha256") not in (None, now["tokenizer_sha256"]):
        differing.append("another tokenizer or chat template")
    if saved.get("today") and now["today"] and saved["today"] != now["today"]:
        differing.append(f"another date in the chat template ({saved['today']}, not {now['today']})")
    return differing


def computed_otherwise(saved: Mapping[str, Any], model: HookedModel) -> list[str]:
    """In which ways the same model is computed otherwise than when an artefact was made, in words: then, and now. Its numbers move by the
    rounding of either: in another precision, or by another engine or version of one, a score near a threshold may fall on its other side.

    Args:
        saved: what `provenance_of` gave then; nothing is said of what it did not keep.
        model: as it is computed now.
    """
    then, now = saved.get("computation", {}), _strict(model.identity()["computation"])
    if not then:
        return []
    named = (("dtypes", "precision"), ("devices", "device"), ("backend", "backend"), ("attention", "attention"))
    ways = [f"{word} {_said(then.get(key))}, now {_said(now[key])}" for key, word in named if then.get(key) != now[key]]
    before, after = then.get("libraries", {}), now["libraries"]
    ways += [
        f"{name} {before.get(name, 'not there')}, now {after.get(name, 'not there')}"
        for name in ("torch", "transformers")
        if before.get(name) != after.get(name)
    ]
    return ways


def _said(value: Any) -> str:
    return " and ".join(str(own).removeprefix("torch.") for own in (value if isinstance(value, list) else [value]))


def _of_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if identity_sha256(then) == identity_sha256(now):
        return []
    differing = ["other weights"] if then.get("weights") != now["weights"] else []
    before, after = then.get("config", {}), now["config"]
    fields = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if fields:
        more = f" and {len(fields) - _MOST} more" if len(fields) > _MOST else ""
        differing.append(f"another configuration ({', '.join(fields[:_MOST])}{more})")
    if then.get("adapters") != now["adapters"]:
        differing.append("other adapters")
    if then.get("class") != now["class"]:
        differing.append(f"another architecture ({then.get('class')}, not {now['class']})")
    return differing or ["another state (in training, not in evaluation)"]


def _strict(value: Any) -> Any:
    """A value as JSON gives it back; what JSON cannot hold, infinity among it, as text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)
