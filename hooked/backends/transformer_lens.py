"""The TransformerLens backend: visits are hooks of a `TransformerBridge`, which takes the model over for good."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from hooked.backends.anatomy import Anatomy
from hooked.backends.visits import Visit
from hooked.model import HookedModel, ModelInfo

_HOOKS = {
    "block_in": "hook_in",
    "q": "attn.q.hook_out",
    "k": "attn.k.hook_out",
    "v": "attn.v.hook_out",
    "pattern": "attn.hook_pattern",
    "heads": "attn.o.hook_in",
    "projection": "attn.o.hook_out",
    "attn_out": "attn.o.hook_out",
    "mlp_out": "mlp.hook_out",
    "block_out": "hook_out",
}
_POST_NORM_HOOKS = _HOOKS | {"attn_out": "ln1_post.hook_out", "mlp_out": "ln2_post.hook_out"}


class TransformerLensModel(HookedModel):
    """A `HookedModel` over TransformerLens; `bridge` is the `TransformerBridge`, for its own analyses."""

    backend = "transformer-lens"

    def __init__(self, hf_model: Any, tokenizer: Any, anatomy: Anatomy, info: ModelInfo):
        super().__init__(hf_model, tokenizer, anatomy, info)
        if (
            not hf_model.config.architectures
        ):  # a model made in memory does not name its class, and the bridge looks there
            hf_model.config.architectures = [type(hf_model).__name__]
        with TemporaryDirectory() as folder:  # the bridge loads the tokenizer again, from a folder that may be gone
            tokenizer.save_pretrained(folder)
            copy = type(tokenizer).from_pretrained(folder)
            # Unless it is told, the bridge assumes that the model lies on the first GPU, and may send its tokens there.
            place = {} if self.device_map else {"device": self.device}
            self.bridge = TransformerBridge.boot_transformers(info.name, hf_model=hf_model, tokenizer=copy, **place)
        self.remember_weights()

    def _forward(self, tokens: Tensor, visits: list[Visit], last_layer: int | None) -> Tensor | None:
        stop = None if last_layer is None else last_layer + 1
        output = self.bridge.run_with_hooks(tokens, fwd_hooks=self._hooks(visits), stop_at_layer=stop, use_cache=False)
        return output if last_layer is None else None

    @contextmanager
    def _hooks_on(self, visits: list[Visit]) -> Iterator[None]:
        with self.bridge.hooks(fwd_hooks=self._hooks(visits)):
            yield

    def _hooks(self, visits: list[Visit]) -> list[tuple[str | Callable, Callable]]:
        handlers: dict[str, list[Callable[[Tensor], Tensor]]] = defaultdict(list)
        for visit in visits:
            handlers[f"blocks.{visit.layer}.{self._hook_of(visit)}"].append(visit.handle)
        return [(name, _in_turn(chain)) for name, chain in handlers.items()]

    def _hook_of(self, visit: Visit) -> str:
        """The bridge's name, within a block, of the tensor that a visit is to."""
        anatomy = self.anatomy
        if visit.point == "attn_out" and not anatomy.has_attention(visit.layer):
            return f"{anatomy.other_mixers[visit.layer]}.hook_out"
        if anatomy.post_norms:
            return _POST_NORM_HOOKS[visit.point]
        if visit.point == "mlp_out" and anatomy.mlp_out != anatomy.mlp:
            return "mlp.out.hook_out"
        return _HOOKS[visit.point]


def _in_turn(chain: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor, Any], Tensor | None]:
    """One hook that hands the tensor through all handlers; None tells the bridge that nothing changed."""

    def hook(value: Tensor, hook: Any) -> Tensor | None:
        result = value
        for handle in chain:
            result = handle(result)
        return None if result is value else result

    return hook
