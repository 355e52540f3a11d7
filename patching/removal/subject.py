"""A model with an edit: what it answers, how likely it finds given answers, and what a probe can read from it.

Prompts run in batches, and each gives the same as alone: answers are generated from prompts padded on the left, everything
else is read from prompts padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import GenerationStep, HookedModel, Prompt, TokenizedPrompt, Watch, pad_right, shared_runs
from patching.removal.edits import UNEDITED, RunningEdit
from patching.removal.pairs import MarkedPrompt

_LOGITS_AT_ONCE = 1 << 27
"""Numbers in one batch's logits: half a gigabyte."""
_CHECKED_AT_ONCE = 32
"""Prompts in a pass that checks guesses: by then they are sorted by length, and small batches have little filling."""
_REMEMBERED = 1 << 28
"""Numbers in the logits that are kept of the unedited model: a gigabyte."""
_LOOK_EVERY = 8
"""Tokens between two looks at whether an answer is graded for good."""

Settled = Callable[[Prompt, str], bool]
"""Whether the grade of every answer to the prompt that begins with the text is the same."""


@dataclass(frozen=True)
class Stop:
    """When writing an answer may end early: no token that could follow changes anything that is measured."""

    settled: Settled
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Subject:
    """A model, and the edit that it runs under."""

    model: HookedModel
    """The model."""
    edit: RunningEdit = UNEDITED
    """What is done to its activations while it runs; nothing where not given."""
    batch_size: int = 128
    """Prompts in one forward pass, at most."""

    def answers(
        self,
        prompts: Sequence[MarkedPrompt],
        new_tokens: int,
        guesses: Sequence[Sequence[tuple[int, ...]]] = (),
        stop: Stop | None = None,
        compared: Sequence[Sequence[tuple[int, ...]]] = (),
    ) -> list[tuple[int, ...]]:
        """Greedy answers as token ids, without the end token.

        Prompts of like length run together; the guess that was right most often so far is tried first.

        Args:
            prompts: what is answered.
            new_tokens: the longest answer.
            guesses: each, an answer to every prompt. One forward pass tells whether greedy decoding would give it, as in
                speculative decoding (Leviathan et al. 2022, https://arxiv.org/abs/2211.17192); only the rest is generated.
            stop: ends an answer as soon as it is none of the guesses, nor of `compared`, and its grade is settled; it is then cut.
            compared: each, an answer to every prompt that is not checked but that the answers are compared with.
        """
        order = sorted(
            range(len(prompts)), key=lambda i: len(prompts[i].ids) + max((len(g[i]) for g in guesses), default=0)
        )
        known = self._guessed(prompts, order, new_tokens, guesses)
        left = [index for index in order if index not in known]
        others = [[answers[index] for answers in (*guesses, *compared)] for index in left]
        written = self._generated([prompts[i] for i in left], new_tokens, stop, others)
        known |= dict(zip(left, written, strict=True))
        return [known[index] for index in range(len(prompts))]

    def _guessed(
        self,
        prompts: Sequence[MarkedPrompt],
        order: Sequence[int],
        new_tokens: int,
        guesses: Sequence[Sequence[tuple[int, ...]]],
    ) -> dict[int, tuple[int, ...]]:
        """The answers that a guess gives, by the prompt's index."""
        known: dict[int, tuple[int, ...]] = {}
        right = dict.fromkeys(range(len(guesses)), 0)
        for start in range(0, len(order), _CHECKED_AT_ONCE):
            for number in sorted(right, key=lambda number: -right[number]):
                left = [index for index in order[start : start + _CHECKED_AT_ONCE] if index not in known]
                guess = [guesses[number][index] for index in left]
                hits = self._would_give([prompts[index] for index in left], guess, new_tokens) if left else []
                known |= {index: own for index, own, hit in zip(left, guess, hits, strict=True) if hit}
                right[number] += sum(hits)
        return known

    @torch.no_grad()
    def _would_give(
        self, prompts: Sequence[MarkedPrompt], guess: Sequence[tuple[int, ...]], new_tokens: int
    ) -> list[bool]:
        """Whether each answer is the greedy one: every token of it, and then an end where it is short, is the likeliest."""
        ends, start = sorted(self.model.end_ids), 0
        hits: list[bool] = []
        for batch in self.batches(prompts, new_tokens):
            own = [answer[:new_tokens] for answer in guess[start : start + len(batch)]]
            start += len(batch)
            whole = [(*answer, *ends[:1]) if len(answer) < new_tokens else answer for answer in own]
            hits += greedy_hits(self.logits(batch, whole), own, whole, self.model.end_ids)
        return hits

    def _generated(
        self,
        prompts: Sequence[MarkedPrompt],
        new_tokens: int,
        stop: Stop | None = None,
        others: Sequence[Sequence[tuple[int, ...]]] = (),
    ) -> list[tuple[int, ...]]:
        answers: list[tuple[int, ...]] = []
        for batch in self._sharing(prompts, self.batch_size, new_tokens):
            edits = self.edit.at(_marks(batch, left=True).to(self.model.device))
            tokenized = [TokenizedPrompt(list(prompt.ids), "", prompt.prompt.where) for prompt in batch]
            watch = None
            if stop is not None:
                looking = _Looking(stop, batch, others[len(answers) : len(answers) + len(batch)])
                watch = Watch(self.model.sites("resid_post")[0], looking.see)
            answers += [
                tuple(answer) for answer in self.model.generate(tokenized, new_tokens, edits=edits, watch=watch)
            ]
        return answers

    def logits(
        self, prompts: Sequence[MarkedPrompt], continuations: Sequence[Sequence[int]]
    ) -> Float[Tensor, "token vocabulary"]:
        """As `continuation_logits`, under the edit."""
        lengths = [len(prompt.ids) + len(tail) for prompt, tail in zip(prompts, continuations, strict=True)]
        runs = shared_runs(self.model, lengths)
        return torch.cat([self._logits(prompts[run], continuations[run]) for run in runs])

    def _logits(
        self, prompts: Sequence[MarkedPrompt], continuations: Sequence[Sequence[int]]
    ) -> Float[Tensor, "token vocabulary"]:
        edits = self.edit.at(_marks(prompts, left=False).to(self.model.device))

        def forward(tokens: Tensor) -> Tensor:
            logits = self.model.run(tokens, edits=edits).logits
            assert logits is not None  # no last layer was given
            return logits

        return continuation_logits(forward, prompts, continuations, self.model.pad_id)

    @torch.no_grad()
    def residuals(
        self, prompts: Sequence[MarkedPrompt], kind: str = "resid_post"
    ) -> Float[Tensor, "prompt layer d_model"]:
        """The residual stream of every layer at the last token of each prompt."""
        sites = self.model.sites(kind)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        streams = []
        for batch in self.batches([prompts[index] for index in order]):
            last = torch.tensor([len(prompt.ids) - 1 for prompt in batch], device=self.model.device)
            edits = self.edit.at(_marks(batch, left=False).to(self.model.device))
            run = self.model.run(
                pad_right([prompt.ids for prompt in batch], self.model.pad_id),
                reads={site: _at(last) for site in sites},
                edits=edits,
                last_layer=self.model.info.n_layers - 1,
            )
            streams.append(torch.stack([run.activations[site].float().cpu() for site in sites], 1))
        return torch.cat(streams)[torch.tensor(order).argsort()]

    def batches(self, prompts: Sequence[MarkedPrompt], extra: int = 0) -> Iterator[Sequence[MarkedPrompt]]:
        """Prompts in the order given, as many at once as their logits allow."""
        longest = max((len(prompt.ids) for prompt in prompts), default=1) + extra
        vocabulary = self.model.hf_model.get_output_embeddings().weight.shape[0]
        size = max(1, min(self.batch_size, _LOGITS_AT_ONCE // (longest * vocabulary)))
        yield from self._sharing(prompts, size, extra)

    def _sharing(self, prompts: Sequence[MarkedPrompt], size: int, extra: int) -> Iterator[Sequence[MarkedPrompt]]:
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            for run in shared_runs(self.model, [len(prompt.ids) for prompt in batch], extra):
                yield batch[run]


@dataclass
class _Looking:
    """Reads along while a batch of answers is written, and ends those that are settled."""

    stop: Stop
    prompts: Sequence[MarkedPrompt]
    others: Sequence[Sequence[tuple[int, ...]]]
    """For each prompt the answers that its own is compared with."""
    written: dict[int, list[int]] = field(default_factory=dict)
    steps: int = 0

    def see(self, step: GenerationStep) -> Bool[Tensor, "row"] | None:
        """Every few tokens: which rows may end."""
        new = step.tokens[:, step.prompt :].tolist()
        for row, tokens in zip(step.rows, new, strict=True):
            self.written[row] = tokens if step.whole else self.written[row] + tokens
        self.steps += 1
        if self.steps % _LOOK_EVERY:
            return None
        live = step.own.any(1).tolist()
        return torch.tensor([alive and self._over(row) for row, alive in zip(step.rows, live, strict=True)])

    def _over(self, row: int) -> bool:
        own = tuple(self.written[row])
        like_another = any(own == other[: len(own)] for other in self.others[row])
        return not like_another and self.stop.settled(self.prompts[row].prompt, self.stop.decode(own))


_Read = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt and what follows it, as token ids."""


@dataclass(frozen=True)
class RememberingSubject(Subject):
    """The unedited model, run once for each prompt and answer: its logits are kept, up to a gigabyte of them.

    Each is run by itself: in a batch with others, the last digits would hang on which of them were known before, and so on what this process has
    done; a run that goes on, and workers that share one, would give other bytes.
    """

    _known: dict[_Read, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def logits(
        self, prompts: Sequence[MarkedPrompt], continuations: Sequence[Sequence[int]]
    ) -> Float[Tensor, "token vocabulary"]:
        """As `Subject.logits`."""
        if torch.is_grad_enabled():
            return super().logits(prompts, continuations)
        keys = [(prompt.ids, tuple(tail)) for prompt, tail in zip(prompts, continuations, strict=True)]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        fresh = {key: self._logits([prompt], [key[1]]) for key, prompt in new.items()}
        self._keep(fresh)
        return torch.cat([fresh[key] if key in fresh else self._known[key] for key in keys])

    def _keep(self, fresh: Mapping[_Read, Tensor]) -> None:
        room = _REMEMBERED - sum(rows.numel() for rows in self._known.values())
        for key, rows in fresh.items():
            room -= rows.numel()
            if room < 0:
                return
            self._known[key] = rows.clone()


def with_end(model: HookedModel, answer: Sequence[int]) -> tuple[int, ...]:
    """An answer with the token that ends it; as it is where the model has none."""
    end = model.turn_end
    return (*answer, *(() if end is None else (end,)))


def greedy_hits(
    logits: Float[Tensor, "token vocabulary"],
    answers: Sequence[tuple[int, ...]],
    whole: Sequence[tuple[int, ...]],
    end_ids: frozenset[int],
) -> list[bool]:
    """Whether greedy decoding gives each answer.

    Args:
        logits: that predict each token of `whole`, answer after answer.
        answers: without their end.
        whole: with it; as `answers` where an answer is as long as answers may be.
        end_ids: tokens that end an answer.
    """
    likeliest, hits = iter(logits.argmax(-1).tolist()), []
    for answer, read in zip(answers, whole, strict=True):
        said = [next(likeliest) for _ in read]
        ended = len(read) == len(answer) or said[len(answer)] in end_ids
        hits.append(ended and said[: len(answer)] == list(answer))
    return hits


def continuation_logits(
    forward: Callable[[Tensor], Tensor],
    prompts: Sequence[MarkedPrompt],
    continuations: Sequence[Sequence[int]],
    pad_id: int,
) -> Float[Tensor, "token vocabulary"]:
    """Logits that predict each token of the continuations, one row of logits a token, prompt after prompt.

    Args:
        forward: token ids padded on the right → logits [batch position vocabulary].
        prompts: what is read first.
        continuations: token ids that follow each.
        pad_id: fills shorter rows.
    """
    whole = [[*prompt.ids, *tail] for prompt, tail in zip(prompts, continuations, strict=True)]
    logits = forward(pad_right(whole, pad_id))
    spans = [slice(len(prompt.ids) - 1, len(ids) - 1) for prompt, ids in zip(prompts, whole, strict=True)]
    return torch.cat([logits[index, span] for index, span in enumerate(spans)]).float()


def _at(last: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda value: value[torch.arange(len(last), device=value.device), last.to(value.device)].clone()


def _marks(prompts: Sequence[MarkedPrompt], *, left: bool) -> Bool[Tensor, "batch prompt_position"]:
    """Where each padded prompt has its trigger."""
    longest = max(len(prompt.ids) for prompt in prompts)
    marks = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for index, prompt in enumerate(prompts):
        offset = longest - len(prompt.ids) if left else 0
        marks[index, [place + offset for place in prompt.places]] = True
    return marks
