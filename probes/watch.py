"""A probe that reads along while a model writes, and can stop it.

1. At each new token the probe's channels of its activation go into the running form of the probe's pooling (`probes.poolings`), whose
   memory does not grow: the score is that of all tokens so far, as the probe would give it to the text up to there.
2. The probe fires at the first token whose score is above `watch_threshold`, which was frozen on the highest score that whole answers
   of calibration negatives reach: the false-positive rate is an answer's, not a token's.
3. A probe of answers sees the answer alone; one of both sees the prompt first, where it cannot fire; one of prompts has said all that it
   says before the first token is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import GenerationStep, HookedModel, Pick, Prompt, TokenizedPrompt, Watch, likeliest
from probes.poolings import new_pooling
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
        self.score: Float[Tensor, "*row"] | None = None
        """Of all tokens so far; None before the first."""
        self.highest: Float[Tensor, "*row"] | None = None
        """The highest score so far."""
        self._quiet: Int[Tensor, "*row"] | None = None
        """Tokens up to which the highest score was not above the threshold."""
        self._running = probe.running()
        self._weights, self._bias = _weights_of(probe)

    @property
    def fired(self) -> bool | Bool[Tensor, "row"]:
        """Whether the score has been above the threshold, at this token or an earlier one; of a batch, which rows' has."""
        if self.highest is None:
            return False
        fired = self.highest > self.threshold
        return fired if fired.ndim else bool(fired)

    @property
    def fired_after(self) -> int | Int[Tensor, "row"]:
        """How many tokens had been seen when it fired; -1 where it has not."""
        if self._quiet is None:
            return -1
        after = torch.where(torch.as_tensor(self.fired, device=self._quiet.device), self._quiet + 1, -1)
        return after if after.ndim else int(after)

    def update(
        self, activation: Float[Tensor, "*row d_model"], live: Bool[Tensor, "row"] | None = None
    ) -> float | Float[Tensor, "row"]:
        """Take in the next token, and give the score of all tokens so far.

        Args:
            activation: at the probe's site: of one text, or of a batch whose rows have the same number of tokens so far.
            live: the rows that are not over; the others keep their score.

        Raises:
            UserError: the activations have another width than the probe.
        """
        if activation.shape[-1] != len(self._weights):
            self.probe.channels(activation)  # says what is wrong
        if activation.device != self._weights.device:
            self._weights, self._bias = self._weights.to(activation.device), self._bias.to(activation.device)
        # Few operations: on a small model each is a hundredth of a step.
        score = self._running.update(activation.double() @ self._weights + self._bias)
        self.seen += 1
        if self.score is None or self.highest is None or self._quiet is None:
            self.score = self.highest = torch.full_like(score, -torch.inf)
            self._quiet = torch.zeros_like(score, dtype=torch.long)
        if live is not None:
            score = torch.where(live, score, self.score)
        self.score, self.highest = score, torch.maximum(self.highest, score)
        self._quiet += self.highest <= self.threshold
        return score if score.ndim else float(score)

    def read(self, activations: Float[Tensor, "*row token d_model"]) -> None:
        """Take in tokens that do not count, such as a prompt's where the probe reads prompt and answer."""
        for channels in self.probe.channels(activations).unbind(-2):
            self._running.update(channels)

    def begin_again(self) -> None:
        """Forget the text that was read, and nothing of when it fired: all of it is read anew, with other activations."""
        self._running = self.probe.running()
        self.seen = 0


def _weights_of(probe: LinearProbe) -> tuple[Float[Tensor, "d_model channel"], Float[Tensor, "channel"]]:
    """The channels of a token, as `x @ weights + bias`."""
    heads = probe.coef[probe.best][None] if probe.heads is None else probe.heads[probe.best]
    bias = torch.zeros(len(heads), dtype=heads.dtype)
    bias[0] = probe.intercept[probe.best]
    return heads.mT.contiguous(), bias


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
    fired: bool
    """Whether the probe has fired, here or earlier."""


@dataclass(frozen=True, slots=True)
class WatchedAnswer:
    """What a model wrote, and what the probe said meanwhile."""

    index: int
    """Which prompt, as counted in the input."""
    where: str
    ids: list[int]
    """The answer's tokens, without an end token."""
    score: float | None
    """Of the whole answer; None where it is empty."""
    highest: float | None
    """The highest score on the way."""
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
        UserError: the model's width or layers are not the probe's; a prompt is unusable or leaves no room for its answer; or the probe
            cannot watch.
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

    members: Int[Tensor, "member"] | None
    """Where they stand in the batch; None where they are all of it."""
    length: int
    """Tokens of their prompts that the probe reads."""
    watcher: Watcher

    def see(self, step: GenerationStep, x: Float[Tensor, "row token d_model"]) -> None:
        """Take in what was read."""
        live = step.own[:, -1].to(x.device)
        if self.members is not None:
            members = self.members.to(x.device)
            x, live = x[members], live[members]
        if step.whole:
            self.watcher.begin_again()
            self.watcher.read(x[:, step.prompt - self.length : step.prompt])
            self.watcher.read(x[:, step.prompt : -1])
        if step.tokens.shape[1] > step.prompt:
            self.watcher.update(x[:, -1], live)


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
        x = step.activations
        assert x is not None  # HookedModel reads them
        if self.probe.read == "prompt":
            return self._see_prompts(step, x) if step.whole and step.rows[0] not in self._prompts else None
        if step.rows[0] not in self._groups:
            self._groups[step.rows[0]] = self._grouped(step)
        groups = self._groups[step.rows[0]]
        for group in groups:
            group.see(step, x)
        if not self.stop and self.on_token is None:
            return None
        fired = torch.zeros(len(step.rows), dtype=torch.bool, device=step.own.device)
        for group in groups:
            fired[slice(None) if group.members is None else group.members] = torch.as_tensor(group.watcher.fired).to(
                fired.device
            )
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
        if not ids or watcher.score is None or watcher.highest is None:
            return WatchedAnswer(index, where, ids, None, None, None, False)
        fired_after = int(torch.as_tensor(watcher.fired_after)[member])
        after = fired_after if fired_after >= 0 else None
        score, highest = float(watcher.score[member]), float(watcher.highest[member])
        return WatchedAnswer(index, where, ids, score, highest, after, self.stop and after is not None)

    def _see_prompts(self, step: GenerationStep, x: Float[Tensor, "row token d_model"]) -> Bool[Tensor, "row"] | None:
        """The scores of the prompts, which is all that a probe of prompts has to say."""
        pooling = new_pooling(self.probe.aggregation)
        scores = [
            float(pooling.reduce(self.probe.channels(x[place][own])))
            for place, own in enumerate(step.own[:, : step.prompt].to(x.device))
        ]
        self._prompts |= dict(zip(step.rows, scores, strict=True))
        return torch.tensor([score > self.threshold for score in scores]) if self.stop else None

    def _grouped(self, step: GenerationStep) -> list[_Group]:
        """One watcher for all rows where it reads answers alone, which begin together; else one for those with equally long prompts."""
        members: list[Int[Tensor, "member"] | None] = [None]
        lengths = [0]
        if self.probe.read == "both":
            each = step.own[:, : step.prompt].sum(1)
            lengths = each.unique().tolist()
            members = [(each == length).nonzero()[:, 0] for length in lengths]
        groups = [
            _Group(rows, length, Watcher(self.probe, self.threshold))
            for rows, length in zip(members, lengths, strict=True)
        ]
        for group in groups:
            places = range(len(step.rows)) if group.members is None else group.members.tolist()
            for member, place in enumerate(places):
                self._rows[step.rows[place]] = (group.watcher, member)
        return groups

    def _tell(self, step: GenerationStep, fired: Bool[Tensor, "row"], on_token: Callable[[WatchedToken], None]) -> None:
        """Hand on the newest token of each row that is not over."""
        read = zip(step.rows, step.tokens[:, -1].tolist(), step.own[:, -1].tolist(), fired.tolist(), strict=True)
        for row, token, live, over in read:
            if live:
                watcher, member = self._rows[row]
                assert watcher.score is not None
                on_token(WatchedToken(row, watcher.seen - 1, token, float(watcher.score[member]), over))
