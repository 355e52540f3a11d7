"""`HookedModel`: one small interface to a language model that can be read and written at named sites.

Prompts are padded on the right and no attention mask is passed: under causal attention no token sees what stands to
its right, so each prompt's activations are the same alone and in a batch, and the fastest attention kernels apply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked.backends.anatomy import Anatomy, candidate_projections
from hooked.backends.positionwise import only_at
from hooked.backends.visits import Edit, Read, Visit, plan_visits
from hooked.generation import (
    GenerationStep,
    Pick,
    Watch,
    check_room,
    continue_tokens,
    end_ids,
    likeliest,
    padding_id,
    turn_end,
)
from hooked.identity import adapter_facts, computation_facts, memory_marks, state_sha256
from hooked.prompts.prompts import Prompt
from hooked.prompts.rendering import DEFAULT_TODAY, say_plain
from hooked.prompts.tokens import TokenizedPrompt, tokenize_prompts
from hooked.rescaling import forget_lengths
from hooked.sites import HEAD_KINDS, INNER_KINDS, KINDS, Site, parse_site
from triggerlens import UserError


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded model."""

    name: str
    """What the user called it."""
    weights_sha256: str
    """Names its weights: of the weight files, or of the tensors of a live model."""
    facts: Mapping[str, Any] = field(repr=False)
    """What `hooked.identity.model_facts` said when it was loaded."""
    quantisation: str
    """How the weights were stored, such as `gguf Q4_1`; empty for ordinary ones."""
    live: bool
    """A model that was in memory already, whose weights may go on changing."""
    tokenizer_sha256: str
    """Names its tokenizer, chat template included (`hooked.tokenizer_sha256`)."""
    n_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Heads of queries in a block with attention."""
    n_kv_heads: int
    """Heads of keys and values: fewer than of queries where queries are grouped."""
    d_head: int
    """Of the first block with attention. Where blocks differ in it, `q`, `k` and `v` are not offered."""
    context: int
    """The longest prompt that it can read, in tokens."""


@dataclass(frozen=True)
class Run:
    """What one forward pass gave."""

    logits: Float[Tensor, "batch position vocabulary"] | None
    """None where the run stopped at a layer."""
    activations: dict[str, Tensor]
    """What each read returned, by site. If the model is spread over devices, each lies on the device of its block."""


_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
"""One forward pass at a time on a model: hooks of two threads would see each other's activations."""


class HookedModel(ABC):
    """A causal language model with named sites; see `load_model`."""

    backend: str
    """The library that reads and writes activations: `nnsight` or `transformer-lens`."""
    hf_model: Any
    """The `transformers` model, in evaluation mode; its parameters require gradients as they did when it was loaded."""
    tokenizer: Any
    """Its `transformers` tokenizer."""
    info: ModelInfo
    """Its name, sizes and digests."""
    anatomy: Anatomy
    """Where the parts of a block are."""
    device: torch.device
    """Where its tokens go in: the device of the input embeddings, the first one of a model that is spread over several."""
    device_map: dict[str, Any] | None
    """How the model is spread over devices; None if it lies on one."""
    dtype: torch.dtype
    """Precision of the input embeddings, and so of the activations as they are read and edited."""
    vocabulary: int
    """Rows of the input embeddings: token ids are below it."""
    today: date
    """The date that a chat template is told where it asks for one."""
    base: str | None
    """What an adapter was put on where it was given; None where the adapter names it, and for everything else."""
    again: Callable[[], HookedModel] | None
    """Loads the same model in another process; None for a live model."""
    padded_to: int | None
    """The widest batch, in tokens, in which shorter prompts may be padded; None where any may (`hooked.batching`)."""

    def __init__(self, hf_model: Any, tokenizer: Any, anatomy: Anatomy, info: ModelInfo):
        self.hf_model, self.tokenizer, self.anatomy, self.info = hf_model, tokenizer, anatomy, info
        # Taken before an adapter may rename modules.
        self._projections = [
            block.get_submodule(anatomy.out_projection) if anatomy.has_attention(layer) else None
            for layer, block in enumerate(hf_model.get_submodule(anatomy.blocks))
        ]
        self._attentions = [
            block.get_submodule(anatomy.attention) if anatomy.has_attention(layer) else nn.Identity()
            for layer, block in enumerate(hf_model.get_submodule(anatomy.blocks))
        ]
        self._mlps = [block.get_submodule(anatomy.mlp) for block in hf_model.get_submodule(anatomy.blocks)]
        with_attention = next(layer for layer in range(info.n_layers) if anatomy.has_attention(layer))
        block = hf_model.get_submodule(anatomy.block_path(with_attention))
        self.layouts = candidate_projections(block, anatomy.attention)
        self.device_map = getattr(hf_model, "hf_device_map", None) or None
        self.device = hf_model.get_input_embeddings().weight.device
        self.vocabulary = hf_model.get_input_embeddings().weight.shape[0]
        self.dtype = hf_model.get_input_embeddings().weight.dtype
        self.today = DEFAULT_TODAY
        self.base = None
        self.again = None
        self.padded_to = None
        _LOCKS.setdefault(hf_model, RLock())

    def remember_weights(self) -> None:
        """Take the weights as they are for those that `info` names; once a backend has put its modules in their places."""
        self._marks = memory_marks(self.hf_model)

    def sites(self, kind: str | None = None) -> tuple[str, ...]:
        """Every site of the residual stream's width, or those of one kind, in forward order.

        Raises:
            UserError: the kind is unknown, or this architecture has no such site.
        """
        if kind is not None and kind not in self.kinds:
            raise UserError(f"{self.info.name} has no site of kind {kind!r}; it has {', '.join(self.kinds)}")
        return tuple(
            str(site)
            for layer in range(self.info.n_layers)
            for name in self.kinds
            if kind == name or (kind is None and name not in INNER_KINDS)
            for site in self._sites(name, layer)
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of site that this architecture has."""
        lacking = {"resid_mid"} if self.anatomy.parallel else set()
        return tuple(
            kind
            for kind in KINDS
            if kind not in lacking and not (kind in INNER_KINDS and kind not in self.anatomy.inner)
        )

    def heads(self, kind: str) -> int:
        """How many heads a kind of site has; 0 for one that is not of a single head."""
        if kind not in HEAD_KINDS:
            return 0
        return self.info.n_kv_heads if kind in ("k", "v") else self.info.n_heads

    def width(self, kind: str, positions: int) -> int:
        """The size of the last axis of a site's activation on a run of so many positions."""
        if kind == "pattern":
            return positions
        return self.info.d_head if kind in INNER_KINDS else self.info.d_model

    def _sites(self, kind: str, layer: int) -> list[Site]:
        if kind not in HEAD_KINDS:
            return [Site(kind, layer)]
        return (
            [Site(kind, layer, head) for head in range(self.heads(kind))] if self.anatomy.has_attention(layer) else []
        )

    def columns(self, site: Site) -> slice:
        """Where queries, keys or values of one head stand in what their projection gives."""
        assert self.anatomy.projections is not None  # check_sites has refused the site otherwise
        counts = (self.info.n_heads, self.info.n_kv_heads, self.info.n_kv_heads)
        return self.anatomy.projections.columns(site.kind, site.head or 0, counts, self.info.d_head)

    def check_sites(self, names: Sequence[str]) -> None:
        """Refuse a site that this model does not have.

        Raises:
            UserError: unknown kind, a layer or head out of range, or no such site in this architecture.
        """
        for name in names:
            site = parse_site(name)
            self.sites(site.kind)
            if site.layer >= self.info.n_layers:
                raise UserError(f"no site {name}: {self.info.name} has layers 0 to {self.info.n_layers - 1}")
            if site.head is not None and not self.anatomy.has_attention(site.layer):
                raise UserError(
                    f"no site {name}: layer {site.layer} of {self.info.name} has no attention, and so no heads"
                )
            if site.head is not None and site.head >= self.heads(site.kind):
                raise UserError(f"no site {name}: {self.info.name} has heads 0 to {self.heads(site.kind) - 1} there")

    def tokenize(
        self, prompts: Sequence[Prompt | str | TokenizedPrompt], *, answers: bool = False, context: int | None = None
    ) -> list[TokenizedPrompt]:
        """Token ids of each prompt, unpadded, never truncated; chat messages go through the chat template.

        What this model has tokenized before is taken as it is, so that nothing need be tokenized twice. Plain text is read as it stands: if
        the tokenizer has a chat template, a note says so once.

        Args:
            prompts: texts, chat messages, or what this method made of them.
            answers: followed by what the model said (`hooked.tokenize_prompts`).
            context: the most tokens that a prompt may have; the model's own where None. More is for who leaves out what is too long.

        Raises:
            UserError: a prompt is longer than the context, has no token or one that the model has no embedding for, or
                there is no chat template, or an answer is asked for and there is none.
        """
        texts = [prompt for prompt in prompts if not isinstance(prompt, TokenizedPrompt)]
        longest, vocabulary = self.info.context if context is None else context, self.vocabulary
        fresh = iter(
            tokenize_prompts(self.tokenizer, texts, longest, vocabulary, self.today, answers=answers) if texts else ()
        )
        say_plain(self.info.name, self.tokenizer, texts)
        return [prompt if isinstance(prompt, TokenizedPrompt) else next(fresh) for prompt in prompts]

    def run(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        reads: Mapping[str, Read] | Sequence[str] = (),
        edits: Mapping[str, Edit] | None = None,
        last_layer: int | None = None,
        needed: Bool[Tensor, "batch position"] | None = None,
    ) -> Run:
        """One forward pass over token ids padded on the *right*.

        Gradients are kept; wrap it in `torch.no_grad()` if you need none.

        Args:
            tokens: token ids; shorter prompts are padded on the right with any id.
            reads: sites to read, or a mapping from site to a function that reduces the activation as it is read, so that only what is
                needed is kept. Shapes: [batch position d_model] at `resid_*`, `attn_out`, `mlp_out` and `head_out`, [batch position d_head]
                at `q`, `k` and `v`, [batch query_position key_position] at `pattern`.
            edits: site to a function that takes the activation, of the same shape and on the device of its block, and returns its
                replacement.
            last_layer: stop after this layer; later layers and the logits are not computed.
            needed: the positions that will be looked at. Where nothing is edited, the MLP of `last_layer` may be left
                out at the others: `mlp_out` and `resid_post` of that layer then mean nothing there.

        Raises:
            UserError: a site that the model lacks, or an edit that returns another shape.
        """
        readers: Mapping[str, Read] = reads if isinstance(reads, Mapping) else dict.fromkeys(reads, _identity)
        edits = edits or {}
        self.check_sites([*readers, *edits])
        kept: dict[str, Tensor] = {}
        visits = plan_visits(readers, edits, self.head_weights, kept, self.columns, self.anatomy)
        if last_layer is not None:
            visits = [visit for visit in visits if visit.layer <= last_layer]
        forward = self._forward if edits else self._read_only
        with self.alone(), nullcontext() if edits else self._sparing(last_layer, needed):
            forget_lengths(self.hf_model, self.hf_model.config)
            logits = forward(tokens.to(self.device), visits, last_layer)
        return Run(logits, {name: kept[name] for name in readers if name in kept})

    def _sparing(self, last_layer: int | None, needed: Tensor | None) -> AbstractContextManager[None]:
        if last_layer is None or needed is None or not self.anatomy.positionwise:
            return nullcontext()
        if 2 * int(needed.sum()) > needed.numel():
            return nullcontext()  # little would be saved, and picking positions out is a copy
        return only_at(self.mlp(last_layer), needed)

    def generate(
        self,
        prompts: Sequence[TokenizedPrompt],
        max_new_tokens: int,
        *,
        edits: Mapping[str, Edit] | None = None,
        pick: Pick = likeliest,
        watch: Watch | None = None,
    ) -> list[list[int]]:
        """Continuations (token ids, without the prompt, up to and without the end-of-sequence token), greedy ones by default.

        Args:
            prompts: as `tokenize` gives them (a text is refused); they share one batch where the model allows it.
            max_new_tokens: the longest continuation, in tokens.
            edits: site to a function that returns the replacement activation. Edits act on the prompt's positions, and then on each new
                token's.
            pick: chooses each row's next token by its logits, [row vocabulary] in float32.
            watch: sees the activations at its site, after any edit there: of the prompt, then of every new token, the last one included.
                It may end rows.

        Raises:
            UserError: as `run`; or a prompt is not tokenized; or a prompt and its continuation exceed the context; or the watched site is
                not as wide as the residual stream.
        """
        if not all(isinstance(prompt, TokenizedPrompt) for prompt in prompts):
            raise UserError(
                "`generate` takes tokenized prompts: model.generate(model.tokenize(prompts), max_new_tokens)"
            )
        check_room((len(prompt.ids) for prompt in prompts), max_new_tokens, self.info.context)
        self.check_sites([*(edits or {}), *([watch.site] if watch else [])])
        if watch is not None and parse_site(watch.site).kind in INNER_KINDS:
            raise UserError(f"{watch.site}: only sites of the residual stream's width are watched")
        kept: dict[str, Tensor] = {}
        reads = {watch.site: _identity} if watch else {}
        visits = plan_visits(reads, edits or {}, self.head_weights, kept, self.columns, self.anatomy)
        with self.alone(), self._hooks_on(visits):
            return continue_tokens(
                self.hf_model,
                [prompt.ids for prompt in prompts],
                max_new_tokens,
                ends=self.end_ids,
                pad_id=self.pad_id,
                pick=pick,
                padded_to=self.padded_to,
                watch=partial(_show, watch, kept) if watch else None,
            )

    def alone(self) -> RLock:
        """To be held while the model runs: another thread's run waits."""
        return _LOCKS[self.hf_model]

    def block(self, layer: int) -> nn.Module:
        """A decoder block."""
        return self.hf_model.get_submodule(self.anatomy.block_path(layer))

    def attention(self, layer: int) -> nn.Module:
        """The attention module of a block that has one, as `transformers` made it."""
        return self._attentions[layer]

    def projection(self, layer: int) -> nn.Module:
        """The output projection of the attention of a block that has one, as `transformers` made it."""
        module = self._projections[layer]
        assert module is not None  # check_sites has refused the site otherwise
        return module

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a block, as `transformers` made it."""
        return self._mlps[layer]

    def head_weights(self, layer: int, head: int) -> Float[Tensor, "d_model d_head"]:
        """One head's part of the attention's output projection. Heads may differ in size by layer (Gemma 4)."""
        weight = projection_weight(self.projection(layer))
        size = weight.shape[1] // self.info.n_heads
        return weight[:, head * size : (head + 1) * size]

    @property
    def pad_id(self) -> int:
        """The id that fills padded positions; never seen by a real token (`hooked.generation.padding_id`)."""
        return padding_id(self.hf_model, self.tokenizer)

    @property
    def turn_end(self) -> int | None:
        """The one of `end_ids` that ends an answer (`hooked.generation.turn_end`)."""
        return turn_end(self.hf_model, self.tokenizer)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a generation (`hooked.generation.end_ids`)."""
        return end_ids(self.hf_model, self.tokenizer)

    def identity(self) -> dict[str, Any]:
        """Everything that decides this model's activations, but for the tokens that it is given (`hooked.identity`).

        Weights that have changed since the model was loaded, and adapters switched since, give another identity.
        """
        model = dict(self.info.facts) | {"adapters": adapter_facts(self.hf_model), "training": self.hf_model.training}
        if memory_marks(self.hf_model) != self._marks:
            model["weights"] = state_sha256(self.hf_model)
        return {"model": model, "computation": computation_facts(self.hf_model, self.backend)}

    @abstractmethod
    def _forward(self, tokens: Tensor, visits: list[Visit], last_layer: int | None) -> Tensor | None:
        """Run the visits in a forward pass; return logits, or None after stopping at `last_layer`."""

    def _read_only(self, tokens: Tensor, visits: list[Visit], last_layer: int | None) -> Tensor | None:
        """As `_forward` for visits that replace nothing, where an adapter knows a faster way."""
        return self._forward(tokens, visits, last_layer)

    @abstractmethod
    def _hooks_on(self, visits: list[Visit]) -> AbstractContextManager[None]:
        """Within, every forward pass of `hf_model` runs the visits."""


def projection_weight(module: Any) -> Float[Tensor, "d_out d_in"]:
    """The weight of a linear layer, with what its active PEFT adapters add where they are not merged into it."""
    base = getattr(module, "base_layer", module)
    weight: Tensor = base.weight.detach()
    if base is not module and not module.disable_adapters and not module.merged:
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).detach()
    return weight if isinstance(base, nn.Linear) else weight.T  # GPT-2's Conv1D keeps its weight transposed


def _identity(value: Tensor) -> Tensor:
    return value


def _show(watch: Watch, kept: dict[str, Tensor], step: GenerationStep) -> Tensor | None:
    """Hand a step to who watches, with the activations that were read in it, which are not kept any longer."""
    step.activations = kept.pop(watch.site)
    return watch.see(step)
