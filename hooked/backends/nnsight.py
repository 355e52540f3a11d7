"""The nnsight backend: edits are made in a trace, which leaves the `transformers` model as it was.

A run that only reads needs no trace: forward hooks on the same modules see the same tensors. On a small bfloat16 model a
trace takes 2 to 3 ms of a batch of 50 ms, and keeps every activation alive to its end.
"""

from __future__ import annotations

import gc
import warnings
from functools import reduce
from typing import Any

import nnsight
import torch
from torch import Tensor

from hooked.backends.anatomy import Anatomy
from hooked.backends.attention_patterns import attending
from hooked.backends.visits import Visit, first_of, module_of, with_first
from hooked.model import HookedModel, ModelInfo


class _Stopped(Exception):
    pass


class NnsightModel(HookedModel):
    """A `HookedModel` over nnsight; `traced` is the nnsight model, for traces of one's own."""

    backend = "nnsight"

    def __init__(self, hf_model: Any, tokenizer: Any, anatomy: Anatomy, info: ModelInfo):
        super().__init__(hf_model, tokenizer, anatomy, info)
        # nnsight makes a `transformers` pipeline, which moves a model to the first GPU unless told where it is.
        place = {} if self.device_map else {"device": self.device}
        self.traced = nnsight.TransformersModel(hf_model, tokenizer=tokenizer, **place)

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
        patterns, visits = _parted(visits)
        handles = [self._read_hook(visit) for visit in visits]
        if last_layer is not None:
            handles.append(self._module(last_layer, "").register_forward_hook(_stop))
        try:
            with attending(self.hf_model, self.anatomy, patterns):
                return self.hf_model(tokens, use_cache=False).logits
        except _Stopped:
            return None
        finally:
            for handle in handles:
                handle.remove()

    def _read_hook(self, visit: Visit) -> Any:
        module, is_input = module_of(self.anatomy, visit.layer, visit.point)
        if is_input:
            return self._module(visit.layer, module).register_forward_pre_hook(
                lambda _, args, kwargs: _nothing(visit.handle(next(iter((*args, *kwargs.values()))))), with_kwargs=True
            )
        return self._module(visit.layer, module).register_forward_hook(
            lambda _, args, output: _nothing(visit.handle(first_of(output)))
        )

    def _module(self, layer: int, module: str) -> torch.nn.Module:
        return self.hf_model.get_submodule(self.anatomy.block_path(layer, module))

    def _generate(self, tokens: Tensor, mask: Tensor, visits: list[Visit], max_new_tokens: int) -> Tensor:
        inputs = {"input_ids": tokens, "attention_mask": mask}
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": self.pad_id}
        patterns, visits = _parted(visits)
        if not visits:
            with attending(self.hf_model, self.anatomy, patterns):
                return self.hf_model.generate(**inputs, **options)[:, tokens.shape[1] :]
        # Greedy decoding picks the most likely token, so the logits of each step tell it.
        with (
            warnings.catch_warnings(action="ignore"),  # nnsight warns where every answer ends before the last step
            attending(self.hf_model, self.anatomy, patterns),
            self.traced.generate(inputs, **options) as tracer,
        ):
            chosen = nnsight.save([])
            for _ in tracer.iter[:max_new_tokens]:
                torch.set_grad_enabled(False)
                for visit in visits:
                    self._visit(visit)
                chosen.append(self.traced.lm_head.output[:, -1].argmax(-1))
        return torch.stack(chosen, dim=1)

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


def _nothing(_: Any) -> None:
    """A hook that returned a value would replace what it saw."""
