"""The nnsight backend: edits are made in a trace, which leaves the `transformers` model as it was.

A run that only reads, and each step of a generation, needs no trace: forward hooks on the same modules see the same tensors.
On a small bfloat16 model a trace takes 2 to 3 ms of a batch of 50 ms, and keeps every activation alive to its end.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import nnsight
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hooked.backends.anatomy import Anatomy
from hooked.backends.attention_patterns import attending
from hooked.backends.visits import Visit, first_of, module_of, with_first
from hooked.model import HookedModel, ModelInfo

Handle = Callable[[Tensor], Tensor]


class _Stopped(Exception):
    pass


class NnsightModel(HookedModel):
    """A `HookedModel` over nnsight; `traced` is the nnsight model, for traces of one's own."""

    backend = "nnsight"

    def __init__(self, hf_model: Any, tokenizer: Any, anatomy: Anatomy, info: ModelInfo):
        super().__init__(hf_model, tokenizer, anatomy, info)
        # nnsight makes a `transformers` pipeline, which moves a model to the first GPU unless told where it is.
        place = {} if self.device_map else {"device": self.device}
        # nnsight gives its tokenizer a padding token and a padding side: a copy, so that the caller's stays as it is.
        self.traced = nnsight.TransformersModel(hf_model, tokenizer=copy.deepcopy(tokenizer), **place)
        self.remember_weights()

    def _forward(self, tokens: Tensor, visits: list[Visit], last_layer: int | None) -> Tensor | None:
        graded = torch.is_grad_enabled()
        patterns, visits = _parted(visits)
        with (
            attending(self.hf_model, self.anatomy, patterns),
            self.traced.trace({"input_ids": tokens}, use_cache=False) as tracer,
        ):
            output = nnsight.save({})
            torch.set_grad_enabled(graded)  # the body runs in a thread of its own, which does not inherit the setting
            for visit in visits:
                self._visit(visit)
            if last_layer is None:
                output["logits"] = self.traced.output.logits
            else:
                if patterns or not visits or visits[-1].layer < last_layer:
                    _ = self._envoy(last_layer, "").output
                tracer.stop()
        logits = output.get("logits")
        # The frames of a finished trace refer to each other and hold every activation that was visited, until Python's
        # collector happens to run. A young collection takes 0.1 ms; without it memory grows by gigabytes.
        gc.collect(1)
        return logits

    def _read_only(self, tokens: Tensor, visits: list[Visit], last_layer: int | None) -> Tensor | None:
        with self._hooks_on(visits):
            stop = None if last_layer is None else self._module(last_layer, "").register_forward_hook(_stop)
            try:
                return self.hf_model(tokens, use_cache=False).logits
            except _Stopped:
                return None
            finally:
                if stop is not None:
                    stop.remove()

    @contextmanager
    def _hooks_on(self, visits: list[Visit]) -> Iterator[None]:
        patterns, visits = _parted(visits)
        handles = [self._hook(visit) for visit in visits]
        try:
            with attending(self.hf_model, self.anatomy, patterns):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, visit: Visit) -> RemovableHandle:
        module, is_input = module_of(self.anatomy, visit.layer, visit.point)
        place = self._module(visit.layer, module)
        if is_input:
            return place.register_forward_pre_hook(partial(_replace_input, visit.handle), with_kwargs=True)
        return place.register_forward_hook(partial(_replace_output, visit.handle))

    def _module(self, layer: int, module: str) -> torch.nn.Module:
        return self.hf_model.get_submodule(self.anatomy.block_path(layer, module))

    def _visit(self, visit: Visit) -> None:
        module, is_input = module_of(self.anatomy, visit.layer, visit.point)
        envoy = self._envoy(visit.layer, module)
        given = envoy.input if is_input else envoy.output
        value = given if is_input else first_of(given)
        replaced = visit.handle(value)
        if replaced is not value and is_input:
            envoy.input = replaced
        elif replaced is not value:
            envoy.output = with_first(given, replaced)

    def _envoy(self, layer: int, module: str) -> Any:
        path = self.anatomy.block_path(layer, module)
        return reduce(
            lambda envoy, name: envoy[int(name)] if name.isdecimal() else getattr(envoy, name),
            path.split("."),
            self.traced,
        )


def _parted(visits: list[Visit]) -> tuple[list[Visit], list[Visit]]:
    """Visits of attention patterns, which no module gives (`hooked.backends.attention_patterns`), and the others."""
    return [visit for visit in visits if visit.point == "pattern"], [v for v in visits if v.point != "pattern"]


def _stop(*_: Any) -> None:
    raise _Stopped


def _replace_input(handle: Handle, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A hook that hands the first of a module's arguments, wherever it stands, through `handle`; None where it stays."""
    name = None if args else next(iter(kwargs))
    value = args[0] if name is None else kwargs[name]
    replaced = handle(value)
    if replaced is value:
        return None
    return ((replaced, *args[1:]), kwargs) if name is None else (args, kwargs | {name: replaced})


def _replace_output(handle: Handle, module: torch.nn.Module, args: tuple, output: Any) -> Any:
    value = first_of(output)
    replaced = handle(value)
    return None if replaced is value else with_first(output, replaced)
