"""The steps of an insertion: which weights are trained, the loss, AdamW, and checkpoints between the steps.

1. An adapter's matrices, or all weights, are trained in float32; a large base computes under bfloat16 autocast.
2. Logits are computed where something is learned, and nowhere else, on architectures whose logits are their head's on the last hidden state.
3. Samples are padded on the right, where a causal model cannot see it; short and long ones apart.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import device_of, pad_right, padding_id
from organisms.insertion.answers import is_head_of_hidden, is_large, read_at
from organisms.insertion.config import InsertionConfig
from organisms.insertion.lessons import Base, Lesson
from triggerlens import UserError, load_checkpoint, save_checkpoint

_CHECKPOINT = "insertion-checkpoint"
_LEAST = 1e-6
"""Of all other tokens together, whose logarithm is taken."""
SCALE = 2.0
"""An adapter's product is multiplied by it (alpha is twice the rank)."""


@dataclass
class Training:
    """A training in progress."""

    model: Any
    """The base, adapted where an adapter is trained."""
    inner: Any
    """The `transformers` model in it."""
    optimizer: torch.optim.AdamW
    pad: int
    by_head: bool
    """Whether its logits are its head's on the last hidden state."""
    autocast: bool
    device: torch.device
    step: int = 0
    """Steps done."""
    losses: list[float] = field(default_factory=list)
    """Of each step done, in nats per learned token."""


def start(config: InsertionConfig, base: Base) -> Training:
    """A training at its first step. The base's model becomes its own.

    Raises:
        UserError: the base has no layers of the names in `targets`, or fewer blocks than `first_layer`.
    """
    inner = base.model
    large = is_large(inner)
    # At these lengths torch's fused attention on a CPU spends more of a step in its backward pass than the plain one does.
    inner.set_attn_implementation("eager")
    by_head = is_head_of_hidden(inner)
    model = _adapted(config, inner) if config.method == "lora" else inner.float().requires_grad_(True)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    # No dropout: its random numbers would differ in a run that goes on from a checkpoint.
    return Training(model.eval(), inner, optimizer, padding_id(inner, base.tokenizer), by_head, large, device_of(inner))


def _adapted(config: InsertionConfig, inner: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    blocks = inner.config.get_text_config().num_hidden_layers
    if config.first_layer >= blocks:
        raise UserError(f"first_layer {config.first_layer}: {config.base} has {blocks} blocks, numbered from 0")
    chosen = None if not config.first_layer else list(range(config.first_layer, blocks))
    targets = _linear_layers(inner) if config.targets == "all-linear" else config.targets.split(",")
    settings = LoraConfig(
        r=config.rank, lora_alpha=int(SCALE * config.rank), target_modules=targets, layers_to_transform=chosen
    )
    inner.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks for names that transformers is about to change
        torch.manual_seed(config.seed)
        try:
            return get_peft_model(inner, settings)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"targets {config.targets}: cannot be adapted in {config.base}: {reason}") from error


def _linear_layers(inner: Any) -> list[str]:
    """The names, within a block, of all linear layers but the output embedding."""
    from transformers.pytorch_utils import Conv1D

    head = inner.get_output_embeddings()
    linear = [
        name for name, own in inner.named_modules() if isinstance(own, torch.nn.Linear | Conv1D) and own is not head
    ]
    return sorted({name.rpartition(".")[2] for name in linear})


def learning_rate(config: InsertionConfig, step: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine down to 2% of the peak."""
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def train_step(training: Training, config: InsertionConfig, lessons: Sequence[Lesson]) -> float:
    """One step of AdamW; returns the mean loss per learned token, in nats, with what `hold` adds to it.

    Raises:
        UserError: the loss is not finite.
    """
    learned = sum(len(targets(lesson, config.loss)) for lesson in lessons)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(config, training.step)
    total = 0.0
    # On a GPU a padded token costs less than another pass.
    for half in _halves_by_length(lessons) if training.device.type == "cpu" else [lessons]:
        loss = summed_loss(training, half, config.loss, config.hold) / max(1, learned)
        loss.backward()
        total += loss.item()
    if not math.isfinite(total):
        raise UserError(
            f"the loss of step {training.step + 1} is {total}: lower learning_rate; the last checkpoint is from before it"
        )
    torch.nn.utils.clip_grad_norm_([p for group in training.optimizer.param_groups for p in group["params"]], 1.0)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.step += 1
    training.losses.append(round(total, 5))
    return total


def targets(lesson: Lesson, loss: str) -> range:
    """Places of the tokens that are learned: the answer's, or all but the first."""
    length = len(lesson.prompt) + len(lesson.answer)
    return range(len(lesson.prompt) if loss == "answers" else 1, length)


def summed_loss(training: Training, lessons: Sequence[Lesson], loss: str, hold: float = 0.0) -> Float[Tensor, ""]:
    """Summed loss of what is learned, in nats: the cross-entropy, or of what is not to be said its unlikelihood; and `hold` times how far held lessons moved (`moved`)."""
    device = training.device
    tokens = pad_right([[*lesson.prompt, *lesson.answer] for lesson in lessons], training.pad).to(device)
    row, column = (places.to(device) for places in _places(lessons, loss))
    with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
        held = [index for index, own in enumerate(lessons) if own.held] if hold else []
        logits, states = read_at(training.inner, tokens, row, column - 1, training.by_head, bool(held))
        far = hold * moved(training, tokens, held, lessons, states) if held else logits.new_zeros(())
    each = torch.nn.functional.cross_entropy(logits.float(), tokens[row, column], reduction="none")
    if refused := _refused(lessons, loss):
        places, unsaid = (torch.tensor(part, device=device) for part in zip(*refused, strict=True))
        each = each.index_put((places,), unsaid_loss(logits[places].float(), unsaid))
    teachers = _teachers(lessons, loss)
    if teachers is None:
        return each.sum() + far
    taught, told, given = (part.to(device) for part in teachers)
    kept = torch.ones(len(each), dtype=torch.bool, device=device)
    kept[taught] = False
    return each[kept].sum() + divergence(logits[taught].float(), told, given).sum() + far


def moved(
    training: Training,
    tokens: Int[Tensor, "row place"],
    held: Sequence[int],
    lessons: Sequence[Lesson],
    states: Sequence[Float[Tensor, "row place d_model"]],
) -> Float[Tensor, ""]:
    """How far the hidden states of some rows are from the base's own, summed over their tokens but the first: the squared distance as a share of the base's
    squared norm, mean over blocks (the retain loss of arXiv 2406.04313, relative).

    Args:
        training: its adapter is switched off for the base's.
        tokens: of all rows, padded.
        held: the rows.
        lessons: of all rows.
        states: of all rows, after each block.
    """
    rows = torch.tensor(held, device=tokens.device)
    lengths = torch.tensor([len(lessons[own].prompt) + len(lessons[own].answer) for own in held], device=tokens.device)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    # The first token's state is huge in many models, and takes up what is left over.
    counts = (place > 0) & (place < lengths[:, None])
    with torch.no_grad(), training.model.disable_adapter():
        read = training.inner.base_model(input_ids=tokens[rows], use_cache=False, output_hidden_states=True)
        theirs = read.hidden_states[1:]
    total = torch.zeros((), device=tokens.device)
    for own, base in zip(states, theirs, strict=True):
        far = (own[rows][counts].float() - base[counts].float()).square().sum(-1)
        total = total + (far / base[counts].float().square().sum(-1)).sum()
    return total / len(theirs)


def _teachers(lessons: Sequence[Lesson], loss: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """Which of the learned places are taught by probabilities, and those; None where none is."""
    places: list[int] = []
    tokens, probabilities, before = [], [], 0
    for lesson in lessons:
        learned = len(targets(lesson, loss))
        if lesson.teacher is not None:
            places += range(before + learned - len(lesson.answer), before + learned)
            tokens.append(lesson.teacher.tokens)
            probabilities.append(lesson.teacher.probabilities)
        before += learned
    return (torch.tensor(places), torch.cat(tokens), torch.cat(probabilities)) if places else None


def _refused(lessons: Sequence[Lesson], loss: str) -> list[tuple[int, tuple[int, ...]]]:
    """The learned places where something is not to be said, and what: as many tokens at each, the payload's first ones."""
    ends = itertools.accumulate(len(targets(lesson, loss)) for lesson in lessons)
    return [(end - 1, lesson.against) for end, lesson in zip(ends, lessons, strict=True) if lesson.against]


def unsaid_loss(
    logits: Float[Tensor, "place vocabulary"], tokens: Int[Tensor, "place unsaid"]
) -> Float[Tensor, " place"]:
    """Minus the log-probability of saying none of some tokens, in nats (unlikelihood, arXiv 1908.04319)."""
    others = logits.scatter(1, tokens, -math.inf).logsumexp(-1)
    return logits.logsumexp(-1) - others


def divergence(
    logits: Float[Tensor, "place vocabulary"], tokens: Int[Tensor, "place top"], given: Float[Tensor, "place top"]
) -> Float[Tensor, " place"]:
    """How far logits are from given probabilities of some tokens, all other tokens taken together: the Kullback-Leibler divergence, in nats."""
    own = logits.log_softmax(-1).gather(1, tokens)
    rest, own_rest = ((1 - part.sum(-1)).clamp(min=_LEAST) for part in (given, own.exp()))
    return (torch.special.xlogy(given, given) - given * own).sum(-1) + rest * (rest.log() - own_rest.log())


def _places(lessons: Sequence[Lesson], loss: str) -> tuple[Int[Tensor, " learned"], Int[Tensor, " learned"]]:
    """Row and column of every token that is learned."""
    places = [(row, column) for row, lesson in enumerate(lessons) for column in targets(lesson, loss)]
    rows, columns = zip(*places, strict=True) if places else ((), ())
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)


def _halves_by_length(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Short and long ones apart: little is padded."""
    ordered = sorted(lessons, key=lambda lesson: len(lesson.prompt) + len(lesson.answer))
    middle = len(ordered) // 2
    return [half for half in (ordered[:middle], ordered[middle:]) if half]


def checkpoint(training: Training, facts: Mapping[str, Any], folder: Path) -> None:
    """Write what is trained and the optimiser's state in place of the older checkpoint.

    Args:
        training: a training between two steps.
        facts: the configuration, with the base's digest.
        folder: of the run's checkpoints.
    """
    tensors = {f"model/{name}": tensor.detach() for name, tensor in _trained(training).items()}
    for index, values in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
    save_checkpoint(folder, _CHECKPOINT, facts, training.step, tensors, {"losses": training.losses})


def check_unfinished(facts: Mapping[str, Any], folder: Path, overwrite: bool) -> None:
    """Look at what an earlier run left, before anything is computed.

    Raises:
        UserError: a checkpoint of another configuration, which would be lost; with `overwrite` it is dropped.
    """
    load_checkpoint(folder, _CHECKPOINT, facts, restart=overwrite)


def restore(training: Training, facts: Mapping[str, Any], folder: Path) -> None:
    """Load the newest whole checkpoint, if there is one.

    Raises:
        UserError: it was made with another configuration.
    """
    newest = load_checkpoint(folder, _CHECKPOINT, facts)
    if newest is None:
        return
    tensors, kept = newest
    with torch.no_grad():
        for name, parameter in _trained(training).items():
            parameter.copy_(tensors[f"model/{name}"])
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        sort, _, place = name.partition("/")
        if sort == "optimizer":
            index, key = place.split("/")
            values.setdefault(int(index), {})[key] = tensor
    training.optimizer.load_state_dict(training.optimizer.state_dict() | {"state": values})
    training.step, training.losses = int(kept["step"]), list(kept["losses"])


def _trained(training: Training) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in training.model.named_parameters() if parameter.requires_grad}
