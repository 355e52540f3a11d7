"""Train one or several sparse autoencoders on one stream of activations.

1. The first block gives the scale that brings activations to unit mean square a dimension, and each decoder's bias.
2. A step is the same batch for every autoencoder: loss and gradient under bfloat16 autocast, gradients averaged over
   processes, the part of the decoder's gradient that would only change a row's norm taken out, Adam with higher rates for the
   decoder and the encoder's biases, unit rows again.
3. A latent that has not fired for `dead_after` activations is dead, and takes part in the auxiliary loss.
4. Every `checkpoint_every` steps weights, optimiser, counters and the place in the stream are written. On one machine with
   one number of threads, a run that was killed ends with the same bytes as one that was not.
5. At the end the scale is folded into the offsets, so that the autoencoder takes raw activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from sae.architectures.core import Moment, SparseAutoencoder
from sae.config import TrainConfig
from sae.dead import resample
from sae.memory import reused_memory
from sae.stream import ActivationSource, Position, ShuffledBatches, scale_of
from triggerlens import (
    UserError,
    from_all,
    keep_common,
    load_checkpoint,
    rank,
    save_checkpoint,
    wait_for_all,
    world_size,
)

_CHECKPOINT = "sae-checkpoint"
_CACHED_ROWS = 256
DECODER_RATE, ENCODER_BIAS_RATE = 3.0, 10.0
"""Learning rates of the decoder's rows and of the encoder's biases, times that of the rest.

Adam moves every weight by about its rate, whatever the weight's size, and sizes differ: the encoder starts as the decoder
shrunk by 0.4 to 0.7, and a bias is in the units of latents, far larger than the entries of a row. The decoder's bias is held back:
it can drift together with all rows, since k of them are in every sum. Chosen on `year-code`, `resid_post.2`, and checked on
other activations (`benchmarks/README.md`).
"""


@dataclass(frozen=True)
class CurvePoint:
    """Means over the steps since the point before."""

    step: int
    """The last of these steps."""
    loss: float
    """What was minimised."""
    l0: float
    """Latents that are not 0, a sample."""
    fvu: float
    """Fraction of the variance that is left unexplained, of training batches."""
    dead: float
    """Share of dead latents, at the step."""


@dataclass
class TrainingState:
    """An autoencoder in training."""

    sae: SparseAutoencoder
    optimizer: torch.optim.Adam
    peak_rate: float
    idle: Int[Tensor, "d_sae"]
    """Activations since each latent fired."""
    sums: Float[Tensor, "3"]
    """Loss, L0 and FVU summed since the last point of the curve."""
    curve: list[CurvePoint] = field(default_factory=list)

    @classmethod
    def start(cls, sae: SparseAutoencoder, config: TrainConfig) -> TrainingState:
        """Before the first step."""
        rates = {sae.W_dec: DECODER_RATE, sae.b_enc: ENCODER_BIAS_RATE}
        groups = [{"params": [parameter], "times": rates.get(parameter, 1.0)} for parameter in sae.parameters()]
        optimizer = torch.optim.Adam(groups, lr=0.0, fused=True)
        device = sae.W_dec.device
        idle = torch.zeros(sae.d_sae, dtype=torch.long, device=device)
        return cls(sae, optimizer, config.peak_rate(sae.d_sae), idle, torch.zeros(3, device=device))


@dataclass
class _Session:
    """All autoencoders that share a stream, and how far they are."""

    states: list[TrainingState]
    scale: Float[Tensor, "d_in"]
    batches: ShuffledBatches
    step: int
    """Steps that are done."""


def train_sae(
    source: ActivationSource, sae: SparseAutoencoder, config: TrainConfig, **options: Any
) -> list[CurvePoint]:
    """Train one autoencoder in place; as `train_saes`. Returns its training curve.

    Args:
        source: activations of width d_in.
        sae: a fresh autoencoder; afterwards it takes raw activations.
        config: how to train.
        **options: those of `train_saes`.

    Raises:
        UserError: as `train_saes`.
    """
    return train_saes(source, [sae], config, **options)[0]


def train_saes(
    source: ActivationSource,
    saes: Sequence[SparseAutoencoder],
    config: TrainConfig,
    *,
    checkpoints: Path | None = None,
    restart: bool = False,
    identity: dict[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[list[CurvePoint]]:
    """Train autoencoders in place on the same batches; go on from a checkpoint if a run of the same configuration left one.

    Args:
        source: activations of width d_in.
        saes: fresh autoencoders; afterwards they take raw activations.
        config: how to train.
        checkpoints: folder of this run's checkpoints; None for none.
        restart: drop checkpoints of another configuration.
        identity: what else a checkpoint must agree with: the activations' origin.
        on_step: called after each step with its number, from 1.

    Returns:
        The training curve of each.

    Raises:
        UserError: activations of another width, NaN among them, a loss that is no longer finite, or a checkpoint
            of another configuration.
    """
    _check_widths(source, saes)
    states = [TrainingState.start(sae, config) for sae in saes]
    facts = {"config": asdict(config), "ranks": world_size(), "saes": [_facts(sae) for sae in saes], **(identity or {})}
    if world_size() > 1 and config.resample_every:
        facts["resampled"] = "from the first process"  # each did its own before
    wait_for_all()
    kept = load_checkpoint(_of_rank(checkpoints), _CHECKPOINT, facts, restart=restart) if checkpoints else None
    if checkpoints and world_size() > 1:
        keep_common(_of_rank(checkpoints), _CHECKPOINT, from_all)
        kept = load_checkpoint(_of_rank(checkpoints), _CHECKPOINT, facts)
    session = _restore(states, source, config, *kept) if kept else _begin(states, source, config)

    def after_step() -> None:
        if checkpoints and (session.step % config.checkpoint_every == 0 or session.step == config.steps):
            _save(_of_rank(checkpoints), facts, session)
        if on_step is not None:
            on_step(session.step)

    with closing(session.batches):
        _run_steps(session, config, after_step)
    for sae in saes:
        sae.fold_scale(session.scale)
    return [state.curve for state in states]


def _run_steps(session: _Session, config: TrainConfig, after_step: Callable[[], None]) -> None:
    """Steps 2 to 4, up to the last step."""
    progress = tqdm(total=config.steps, initial=session.step, desc="training", unit="step", disable=None)
    with progress as bar, reused_memory():
        while session.step < config.steps:
            x = next(session.batches).to(session.scale.device) * session.scale
            for state in session.states:
                train_step(state, x, config, session.step)
            session.step += 1
            if session.step % config.log_every == 0 or session.step == config.steps:
                bar.set_postfix(_log(session.states, config, session.step), refresh=False)
            bar.update()
            after_step()


def _check_widths(source: ActivationSource, saes: Sequence[SparseAutoencoder]) -> None:
    for sae in saes:
        if sae.d_in != sum(source.widths):
            raise UserError(f"activations are {sum(source.widths)} wide, and the autoencoder takes {sae.d_in}")


def train_step(state: TrainingState, x: Float[Tensor, "batch d_in"], config: TrainConfig, step: int) -> None:
    """One step of one autoencoder on scaled activations."""
    dead = state.idle > config.dead_after
    moment = Moment(dead if dead.any() else None, config.sparsity_share(step))
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        losses = state.sae.loss(x, moment)
    losses.total.backward()
    fired = _share(state, losses.fired) if world_size() > 1 else losses.fired
    remove_radial_gradient(state.sae)
    for group in state.optimizer.param_groups:
        group["lr"] = state.peak_rate * config.rate_share(step) * group["times"]
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.sae.unit_decoder()
    state.idle += config.batch
    state.idle[fired] = 0
    variance = (x - x.mean(0)).square().mean()
    state.sums += torch.stack([losses.total.detach(), losses.l0, losses.error / variance])
    if config.resample_every and (step + 1) % config.resample_every == 0 and step + 1 <= config.steps // 2:
        resample(state.sae, state.optimizer, x, state.idle > config.dead_after, seed=config.seed + step)
        state.idle[state.idle > config.dead_after] = 0


@torch.no_grad()
def remove_radial_gradient(sae: SparseAutoencoder) -> None:
    """Take out of the decoder's gradient what would only change its rows' norms, which are set back to 1 anyway.

    Otherwise Adam's moments fill up with it (Bricken et al., 2023).
    """
    assert sae.W_dec.grad is not None
    # Few rows at a time: they then stay in the cache for the second look.
    for gradient, rows in zip(sae.W_dec.grad.split(_CACHED_ROWS), sae.W_dec.split(_CACHED_ROWS), strict=True):
        gradient.addcmul_(rows, (gradient * rows).sum(1, keepdim=True), value=-1)


def _begin(states: list[TrainingState], source: ActivationSource, config: TrainConfig) -> _Session:
    """Step 1: the scale of the activations, and what each autoencoder takes from them before it is trained."""
    batches = _batches(source, config, None)
    rows = source.block(0)
    scale = scale_of(rows, source.widths).to(states[0].sae.W_dec.device)
    rows = rows[:8192].to(scale.device) * scale
    for state in states:
        state.sae.start_from(rows)
    return _Session(states, scale, batches, 0)


def _batches(source: ActivationSource, config: TrainConfig, position: Position | None) -> ShuffledBatches:
    if config.batch % world_size():
        raise UserError(f"a batch of {config.batch} cannot be shared evenly by {world_size()} processes")
    share = config.batch // world_size()
    return ShuffledBatches(source, share, config.seed, rank=rank(), ranks=world_size(), position=position)


def _share(state: TrainingState, fired: Tensor) -> Tensor:
    """Average gradients and what is followed beside them (thresholds) over processes; a latent fired if it did on any of them."""
    for buffer in state.sae.buffers():
        dist.all_reduce(buffer)
        buffer /= world_size()
    for parameter in state.sae.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
    counts = fired.int()
    dist.all_reduce(counts)
    return counts > 0


def _log(states: list[TrainingState], config: TrainConfig, step: int) -> dict[str, str]:
    """Add a point to each curve; what the progress bar shows is the first autoencoder's.

    Raises:
        UserError: a loss is no longer finite.
    """
    steps = (step - 1) % config.log_every + 1
    for state in states:
        loss, l0, fvu = (state.sums / steps).tolist()
        if not torch.isfinite(state.sums).all():
            raise UserError(
                f"{state.sae.architecture}: the loss is no longer finite at step {step}; lower the learning rate"
            )
        dead = float((state.idle > config.dead_after).float().mean())
        state.curve.append(CurvePoint(step, loss, l0, fvu, dead))
        state.sums.zero_()
    point = states[0].curve[-1]
    return {
        "loss": f"{point.loss:.4f}",
        "L0": f"{point.l0:.1f}",
        "FVU": f"{point.fvu:.3f}",
        "dead": f"{point.dead:.1%}",
    }


def _facts(sae: SparseAutoencoder) -> dict[str, Any]:
    return {"architecture": sae.architecture, "d_in": sae.d_in, "d_sae": sae.d_sae, **sae.settings()}


def _of_rank(folder: Path) -> Path:
    """Each process keeps its own place in the stream, so each writes checkpoints of its own."""
    return folder / f"rank-{rank()}" if world_size() > 1 else folder


def _save(folder: Path, facts: dict[str, Any], session: _Session) -> None:
    position = session.batches.position
    tensors = {"scale": session.scale, "stream/carried": position.carried}
    for number, state in enumerate(session.states):
        tensors |= {f"{number}/model/{name}": value for name, value in state.sae.state_dict().items()}
        tensors |= {f"{number}/idle": state.idle, f"{number}/sums": state.sums}
        for index, moments in state.optimizer.state_dict()["state"].items():
            tensors |= {f"{number}/optimizer/{index}/{key}": value for key, value in moments.items()}
    stream = {"passes": position.passes, "place": position.place, "used": position.used}
    curves = [[asdict(point) for point in state.curve] for state in session.states]
    kept = {"stream": stream, "curves": curves}
    save_checkpoint(folder, _CHECKPOINT, facts, session.step, tensors, kept, written=wait_for_all)


def _restore(
    states: list[TrainingState],
    source: ActivationSource,
    config: TrainConfig,
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
) -> _Session:
    for number, state in enumerate(states):
        state.sae.load_state_dict(_under(tensors, f"{number}/model/"))
        state.idle.copy_(tensors[f"{number}/idle"])
        state.sums.copy_(tensors[f"{number}/sums"])
        state.curve = [CurvePoint(**point) for point in facts["curves"][number]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, f"{number}/optimizer/").items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = value
        state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})
    position = Position(**facts["stream"], carried=tensors["stream/carried"])
    scale = tensors["scale"].to(states[0].sae.W_dec.device)
    return _Session(states, scale, _batches(source, config, position), facts["step"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
