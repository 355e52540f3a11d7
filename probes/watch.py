"""A probe that reads along while a model writes, and can stop it.

1. At each new token the probe's channels of its activation go into the running form of the probe's pooling (`probes.poolings`), whose
   memory does not grow: the score is that of all tokens so far, as the probe would give it to the text up to there.
2. The probe fires at the first token whose score is above `watch_threshold`, which was frozen on the highest score that whole answers
   of calibration negatives reach: the false-positive rate is an answer's, not a token's.
3. A probe of answers sees the answer alone; one of both, or of the onset, sees the prompt first, of which the last token is the first
   that can fire it; one of prompts has said all that it says before the first token is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import GenerationStep, HookedModel, Pick, Prompt, TokenizedPrompt, Watch, likeliest
from probes.poolings import new_pooling
from probes.poolings.arrays import Array, as_array, double, library_of
from probes.probe import LinearProbe
from triggerlens import UserError


class Watcher:
    """The running score of a probe, for any loop that writes text.

    >>> watcher = Watcher(probe)
    >>> for activation in stream:  # of each new token at probe.site
    ...     watcher.update(activation)
    ...     if watcher.fired:
    ...         break
    """

    def __init__(self, probe: LinearProbe, threshold: float | None = None) -> None:
        """Watch with a probe, from nothing.

        Args:
            probe: a trained probe.
            threshold: a score strictly above it fires; the one that was frozen for whole answers where None.

        Raises:
            UserError: the probe has no such threshold, or its pooling cannot be known before the text is whole.
        """
        self.probe, self.threshold = probe, threshold_of(probe) if threshold is None else threshold
        self.seen = 0
        """Tokens that counted so far."""
        # Of numpy, or of torch on a GPU; what has fired stays so, and the last counts the tokens before it did.
        self._score: Any = None
        self._highest: Any = None
        self._fired: Any = False
        self._quiet: Any = 0
        self._running = probe.running()
        self._tensors = _weights_of(probe)
        self._weights: Any
        self._bias: Any
        self._weights, self._bias = (tensor.numpy() for tensor in self._tensors)

    @property
    def score(self) -> float | Float[Tensor, "row"] | None:
        """Of all tokens so far; None before the first."""
        return None if self._score is None else _given(self._score)

    @property
    def highest(self) -> float | Float[Tensor, "row"] | None:
        """The highest score so far; None before the first."""
        return None if self._highest is None else _given(self._highest)

    @property
    def fired(self) -> bool | Bool[Tensor, "row"]:
        """Whether the score has been above the threshold, at this token or an earlier one; of a batch, which rows' has."""
        return False if self._highest is None else _given(self._fired)

    @property
    def fired_after(self) -> int | Int[Tensor, "row"]:
        """How many tokens had been seen when it fired, 0 where the prompt fired; -1 where it has not."""
        if self._highest is None:
            return -1
        return _given(library_of(self._highest).where(self._fired, self._quiet + 1, -1))

    def update(
        self,
        activation: Float[Tensor, "*row d_model"] | Float[np.ndarray, "*row d_model"],
        live: Bool[Tensor, "row"] | Bool[np.ndarray, "row"] | None = None,
    ) -> float | Float[Tensor, "row"]:
        """Take in the next token, and give the score of all tokens so far.

        Args:
            activation: at the probe's site: of one text, or of a batch whose rows have the same number of tokens so far.
            live: the rows that are not over; the others keep their score.

        Raises:
            UserError: the activations have another width than the probe, or the score of a live row is NaN or infinite.
        """
        return _given(self.take(as_array(activation), None if live is None else as_array(live)))

    def take(self, activation: Any, live: Any = None) -> Array:
        """As `update`, of arrays where the score may stay: numpy's, or tensors on a GPU. Few operations: on a small model each counts."""
        score = self._running.update(self._channels(activation))
        library = library_of(score)
        finite = library.isfinite(score)
        if not (finite if live is None else finite | ~live).all():
            raise _not_finite(self.probe)
        self.seen += 1
        if self._score is None:
            self._score = self._highest = library.full_like(score, -np.inf)
        if live is not None:
            score = library.where(live, score, self._score)
        self._score, self._highest = score, library.maximum(self._highest, score)
        self._fired = self._fired | (score > self.threshold)
        self._quiet = self._quiet + ~self._fired
        return score

    def of(self, member: int) -> tuple[float, float, int]:
        """Score, highest score and `fired_after` of one row, or of the one text."""
        values = (torch.as_tensor(value).reshape(-1) for value in (self._score, self._highest, self.fired_after))
        score, highest, fired_after = (value[member if len(value) > 1 else 0].item() for value in values)
        return float(score), float(highest), int(fired_after)

    def begin(self, activations: Float[Tensor, "*row token d_model"] | Float[np.ndarray, "*row token d_model"]) -> None:
        """Take in the prompt, as far as the probe reads it: its last token can fire, and is not counted as seen."""
        activations = as_array(activations)
        self.read(activations[..., :-1, :])
        self.take(activations[..., -1, :])
        self.seen, self._quiet = self.seen - 1, self._quiet - 1

    def read(self, activations: Float[Tensor, "*row token d_model"] | Float[np.ndarray, "*row token d_model"]) -> None:
        """Take in tokens that do not count."""
        channels = self._channels(as_array(activations))
        for token in range(channels.shape[-2]):
            self._running.update(channels[..., token, :])

    def begin_again(self) -> None:
        """Forget the text that was read, and nothing of when it fired: all of it is read anew, with other activations."""
        self._running = self.probe.running()
        self.seen = 0

    def _channels(self, x: Any) -> Any:
        """What the pooling takes of tokens [*row d_model], as `LinearProbe.channels`."""
        if x.shape[-1] != len(self._weights):
            self.probe.channels(torch.as_tensor(x))  # says what is wrong
        if isinstance(x, Tensor) and not isinstance(self._weights, Tensor):
            self._weights, self._bias = (tensor.to(x.device) for tensor in self._tensors)
        return double(x) @ self._weights + self._bias


def _not_finite(probe: LinearProbe) -> UserError:
    """No comparison with NaN is true: a monitor that went on would stay quiet whatever is written."""
    return UserError(
        f"NaN or infinite activation at {probe.site} while the probe watches; try --dtype float32, or check the checkpoint's weights"
    )


def _given(x: Any) -> Any:
    """A number of one text, a tensor of a batch."""
    if x.ndim == 0:
        return x.item()
    return x if isinstance(x, Tensor) else torch.from_numpy(x)


def _weights_of(probe: LinearProbe) -> tuple[Float[Tensor, "d_model channel"], Float[Tensor, "channel"]]:
    """The channels of a token, as `x @ weights + bias`."""
    heads = probe.coef[probe.best][None] if probe.heads is None else probe.heads[probe.best]
    bias = torch.zeros(len(heads), dtype=torch.float64)
    bias[0] = float(probe.intercept[probe.best])
    return heads.mT.contiguous().cpu(), bias


def threshold_of(probe: LinearProbe) -> float:
    """The score above which a probe fires while it watches.

    Raises:
        UserError: the probe reads answers, and none was frozen for whole answers.
    """
    if probe.watch_threshold is not None:
        return probe.watch_threshold
    if probe.read == "prompt":
        return probe.threshold
    raise UserError(f"the probe reads {probe.read} and has no threshold for whole answers; train it again")


@dataclass(frozen=True, slots=True)
class WatchedToken:
    """A token that was written, and what the probe says of the text up to it."""

    index: int
    """Which prompt, as counted in the input."""
    place: int
    """Which token of the answer, counted from 0."""
    token: int
    """Its id."""
    score: float
    """The running score, in units of the probe's decision function."""
    fired: bool
    """Whether the probe has fired, here or earlier."""


@dataclass(frozen=True, slots=True)
class WatchedAnswer:
    """What a model wrote, and what the probe said meanwhile."""

    index: int
    """Which prompt, as counted in the input."""
    where: str
    """`file:line` of the prompt; empty for one made in memory."""
    ids: list[int]
    """The answer's tokens, without an end token."""
    score: float | None
    """Of the whole answer; None where it is empty and nothing fired."""
    highest: float | None
    """The highest score on the way; of a probe that reads the prompt too, from the prompt's last token on."""
    fired_after: int | None
    """How many of the answer's tokens were written when it fired: 0 where the prompt fired; None where nothing did."""
    stopped: bool
    """Whether the answer was cut short there."""


def watch_answers(
    model: HookedModel,
    probe: LinearProbe,
    prompts: Sequence[Prompt | str | TokenizedPrompt],
    max_new_tokens: int,
    *,
    stop: bool = False,
    pick: Pick = likeliest,
    on_token: Callable[[WatchedToken], None] | None = None,
) -> list[WatchedAnswer]:
    """Let a model answer, in one batch, while a probe watches.

    Args:
        model: the model, which need not be the one that the probe was trained on.
        probe: a trained probe.
        prompts: labels are not needed.
        max_new_tokens: the longest answer.
        stop: end an answer at the first token that fires, which is kept.
        pick: chooses the next tokens.
        on_token: told of every token as soon as it has a score.

    Raises:
        UserError: the model's width or layers are not the probe's; a prompt is unusable or leaves no room for its answer; the probe
            cannot watch; or an activation that it reads is NaN or infinite.
    """
    check_fits(model, probe)
    tokenized = model.tokenize(prompts)
    check_rooms(tokenized, max_new_tokens, model.info.context)
    watch = AnswerWatch(probe, stop, on_token)
    written = model.generate(tokenized, max_new_tokens, pick=pick, watch=Watch(probe.site, watch.see))
    return [
        watch.answer(index, prompt.where, ids)
        for index, (prompt, ids) in enumerate(zip(tokenized, written, strict=True))
    ]


def check_fits(model: HookedModel, probe: LinearProbe) -> None:
    """Refuse a model in which the probe's site is not, or has another width.

    Raises:
        UserError: in one line.
    """
    if model.info.d_model != probe.d_model:
        raise UserError(
            f"the probe has width {probe.d_model} (trained on {probe.model or 'an unnamed model'}), but {model.info.name} "
            f"has width {model.info.d_model}; use the model that it was trained on, or train a probe on this one"
        )
    model.check_sites([probe.site])


def check_rooms(prompts: Sequence[TokenizedPrompt], max_new_tokens: int, context: int) -> None:
    """Refuse the first prompt that leaves no room for its answer.

    Raises:
        UserError: names it and both lengths.
    """
    for prompt in prompts:
        if len(prompt.ids) + max_new_tokens > context:
            raise UserError(
                f"{prompt.where or repr(prompt.text[:40])}: the prompt has {len(prompt.ids)} tokens, and {max_new_tokens} new ones exceed "
                f"the context of {context}; ask for fewer new tokens, or shorten it"
            )


@dataclass(slots=True)
class _Group:
    """Rows of a batch whose texts are equally long, as far as the probe reads them."""

    members: list[int] | None
    """Where they stand in the batch; None where they are all of it."""
    length: int
    """Tokens of their prompts that the probe reads."""
    watcher: Watcher

    def see(self, step: GenerationStep, x: Any) -> None:
        """Take in what was read."""
        if step.whole:
            own = x[0] if len(step.rows) == 1 else x if self.members is None else x[self.members]
            prompt = own[..., step.prompt - self.length : step.prompt, :]
            if self.length and self.watcher.score is None:
                self.watcher.begin(prompt)
            else:
                self.watcher.begin_again()
                self.watcher.read(prompt)
            again = own[..., step.prompt : -1, :]
            self.watcher.read(again)
            self.watcher.seen = again.shape[-2]
        if step.tokens.shape[1] == step.prompt:
            return
        if len(step.rows) == 1:  # which is not over, or nothing would have been read
            self.watcher.take(x[0, -1])
            return
        over = step.over.to(x.device) if isinstance(x, Tensor) else step.over
        newest, live = x[:, -1], ~as_array(over)
        if self.members is not None:
            newest, live = newest[self.members], live[self.members]
        self.watcher.take(newest, live)


class AnswerWatch:
    """What `HookedModel.generate` tells of each step, as a probe says it; prompts may be of any length.

    >>> watch = AnswerWatch(probe, stop=True)
    >>> written = model.generate(prompts, 100, watch=Watch(probe.site, watch.see))
    >>> watch.answer(0, "", written[0]).fired_after
    """

    def __init__(
        self, probe: LinearProbe, stop: bool = False, on_token: Callable[[WatchedToken], None] | None = None
    ) -> None:
        """Watch one call of `generate`.

        Args:
            probe: a trained probe.
            stop: end rows where it fires.
            on_token: told of every token as soon as it has a score.

        Raises:
            UserError: the probe cannot watch.
        """
        self.probe, self.stop, self.on_token, self.threshold = probe, stop, on_token, threshold_of(probe)
        probe.running()  # refuses a pooling that cannot watch, before anything is written
        self._groups: dict[int, list[_Group]] = {}  # of each batch, by its first row
        self._rows: dict[int, tuple[Watcher, int]] = {}  # of each row, who watches it and as which member
        self._prompts: dict[int, float] = {}  # scores of prompts, where the probe reads those

    def see(self, step: GenerationStep) -> Bool[Tensor, "row"] | None:
        """Score what was just read; the rows to end, where the probe may stop them."""
        assert step.activations is not None  # HookedModel reads them
        if self.probe.read == "prompt":
            new = step.whole and step.rows[0] not in self._prompts
            return self._see_prompts(step, step.activations) if new else None
        if step.rows[0] not in self._groups:
            self._groups[step.rows[0]] = self._grouped(step)
        groups = self._groups[step.rows[0]]
        x = as_array(step.activations)
        for group in groups:
            group.see(step, x)
        if not self.stop and self.on_token is None:
            return None
        fired = torch.zeros(len(step.rows), dtype=torch.bool, device=step.over.device)
        for group in groups:
            own = slice(None) if group.members is None else group.members
            fired[own] = torch.as_tensor(group.watcher.fired, device=fired.device)
        if self.on_token is not None and step.tokens.shape[1] > step.prompt:
            self._tell(step, fired, self.on_token)
        return fired if self.stop else None

    def answer(self, index: int, where: str, ids: list[int]) -> WatchedAnswer:
        """What was said of a row, once it is written."""
        if self.probe.read == "prompt":
            score = self._prompts[index]
            after = 0 if score > self.threshold else None
            return WatchedAnswer(index, where, ids, score, score, after, self.stop and after is not None)
        watcher, member = self._rows[index]
        if watcher.score is None or not (ids or watcher.of(member)[2] == 0):
            return WatchedAnswer(index, where, ids, None, None, None, False)
        score, highest, fired_after = watcher.of(member)
        after = fired_after if fired_after >= 0 else None
        return WatchedAnswer(index, where, ids, score, highest, after, self.stop and after is not None)

    def _see_prompts(self, step: GenerationStep, x: Float[Tensor, "row token d_model"]) -> Bool[Tensor, "row"] | None:
        """The scores of the prompts, which is all that a probe of prompts has to say."""
        pooling = new_pooling(self.probe.aggregation)
        scores = [
            float(pooling.reduce(self.probe.channels(x[place][own])))
            for place, own in enumerate(step.own[:, : step.prompt].to(x.device))
        ]
        if not np.isfinite(scores).all():
            raise _not_finite(self.probe)
        self._prompts |= dict(zip(step.rows, scores, strict=True))
        return torch.tensor([score > self.threshold for score in scores]) if self.stop else None

    def _grouped(self, step: GenerationStep) -> list[_Group]:
        """One watcher for all rows where it reads answers, which begin together; where prompts too, one for those that are equally long."""
        members: list[list[int] | None] = [None]
        lengths = [0]
        if self.probe.read == "onset":
            lengths = [1]
        if self.probe.read == "both":
            each = step.own[:, : step.prompt].sum(1)
            lengths = each.unique().tolist()
            members = [(each == length).nonzero()[:, 0].tolist() for length in lengths]
        groups = [
            _Group(rows, length, Watcher(self.probe, self.threshold))
            for rows, length in zip(members, lengths, strict=True)
        ]
        for group in groups:
            places = range(len(step.rows)) if group.members is None else group.members
            for member, place in enumerate(places):
                self._rows[step.rows[place]] = (group.watcher, member)
        return groups

    def _tell(self, step: GenerationStep, fired: Bool[Tensor, "row"], on_token: Callable[[WatchedToken], None]) -> None:
        """Hand on the newest token of each row that is not over."""
        read = zip(step.rows, step.tokens[:, -1].tolist(), step.own[:, -1].tolist(), fired.tolist(), strict=True)
        for row, token, live, over in read:
            if live:
                watcher, member = self._rows[row]
                on_token(WatchedToken(row, watcher.seen - 1, token, watcher.of(member)[0], over))
