"""The nnsight backend: visits are carried out in a trace, which leaves the `transformers` model as it was."""

from __future__ import annotations

import gc
from functools import reduce
from typing import Any

import nnsight
import torch
from torch import Tensor

from hooked.anatomy import Anatomy
from hooked.model import HookedModel, ModelInfo
from hooked.patterns import attending
from hooked.visits import Visit, module_of


class NnsightModel(HookedModel):
    """A `HookedModel` over nnsight; `traced` is the nnsight model, for traces of one's own."""

    backend = "nnsight"

    def __init__(self, hf_model: Any, tokenizer: Any, anatomy: Anatomy, info: ModelInfo):
        super().__init__(hf_model, tokenizer, anatomy, info)
        self.traced = nnsight.TransformersModel(hf_model, tokenizer=tokenizer)

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

    def _generate(self, tokens: Tensor, mask: Tensor, visits: list[Visit], max_new_tokens: int) -> Tensor:
        inputs = {"input_ids": tokens, "attention_mask": mask}
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": self.pad_id}
        patterns, visits = _parted(visits)
        if not visits:
            with attending(self.hf_model, self.anatomy, patterns):
                return self.hf_model.generate(**inputs, **options)[:, tokens.shape[1] :]
        # Greedy decoding picks the most likely token, so the logits of each step tell it.
        with (
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
        module, is_input = module_of(self.anatomy, visit.point)
        envoy = self._envoy(visit.layer, module)
        value = envoy.input if is_input else envoy.output
        replaced = visit.handle(value)
        if replaced is not value and is_input:
            envoy.input = replaced
        elif replaced is not value:
            envoy.output = replaced

    def _envoy(self, layer: int, module: str) -> Any:
        path = self.anatomy.block_path(layer, module)
        return reduce(
            lambda envoy, name: envoy[int(name)] if name.isdecimal() else getattr(envoy, name),
            path.split("."),
            self.traced,
        )


def _parted(visits: list[Visit]) -> tuple[list[Visit], list[Visit]]:
    """Visits of attention patterns, which no module gives (`hooked.patterns`), and the others."""
    return [visit for visit in visits if visit.point == "pattern"], [v for v in visits if v.point != "pattern"]
