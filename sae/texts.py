"""What to train on and what to measure on: prompts of a `prompts.jsonl`, or pieces of plain text files."""

from __future__ import annotations

import hashlib
import json
import mmap
import unicodedata
from bisect import bisect_right
from codecs import getincrementaldecoder
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from hooked import (
    CHAT_FIELDS,
    Fractions,
    Prompt,
    begins_as_log,
    begins_with_a_prompt,
    read_prompts,
    split_prompts,
)
from triggerlens import UserError

LONGEST = 2048
"""The longest piece of a text file, in bytes."""
_CHECKED_BYTES = 2**20
HELD_OUT_SHARE = 20
"""Of plain text one piece in so many is held out, as far as they are measured on."""


class TextPieces(Sequence[Prompt]):
    """Text files cut into pieces that fit a context, read when asked for, so that memory does not grow with the text.

    A piece has at most so many bytes as the context has tokens (a token is never shorter than a byte), and begins and
    ends between words where it can.
    """

    def __init__(self, paths: Sequence[Path], context: int):
        """Open the files.

        Raises:
            UserError: a file is missing, empty or no UTF-8 text.
        """
        self._size = max(16, min(context, LONGEST) - 8)  # a few tokens are the tokenizer's own
        self._files = [_open(path) for path in paths]
        self._paths = paths
        self._starts = [0, *accumulate(-(-len(file) // self._size) for file in self._files)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        start = (index - self._starts[number]) * self._size
        content = self._files[number]
        left, right = (_between_words(content, edge, self._size) for edge in (start, start + self._size))
        text = content[left:right].decode("utf-8")
        return Prompt(text.strip() or ".", triggered=False, where=f"{self._paths[number]}:byte {left}")


class Mixed(Sequence[Prompt]):
    """Prompts in a random order: a block of the stream is a run of them, and neighbours in a file are alike."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, chosen: Sequence[int] | None = None):
        """Mix `prompts`, or those whose numbers are `chosen`."""
        numbers = np.arange(len(prompts)) if chosen is None else np.asarray(chosen)
        self._prompts, self._order = prompts, np.random.default_rng([seed, 1]).permutation(numbers)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self._prompts[number] for number in self._order[index].tolist()]
        return self._prompts[int(self._order[index])]


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Names what is trained on: texts by their files, which are read once and in order, however they are mixed."""
    digest = hashlib.sha256()
    if isinstance(prompts, Mixed):
        digest.update(prompts_sha256(prompts._prompts).encode() + prompts._order.tobytes())
    elif isinstance(prompts, TextPieces):
        for content in prompts._files:
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(memoryview(content))
        digest.update(prompts._size.to_bytes(8, "big"))
    else:
        for prompt in prompts:
            given = {name: prompt.extra[name] for name in CHAT_FIELDS if name in prompt.extra}
            digest.update(json.dumps([prompt.prompt, prompt.response, given]).encode() + b"\n")
    return digest.hexdigest()


class _Alike(Sequence[bytes]):
    """Digests of text pieces that are the same where a model may well read the same tokens."""

    def __init__(self, prompts: Sequence[Prompt]):
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        words = unicodedata.normalize("NFKC", str(self._prompts[index].prompt)).casefold().split()
        return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()


def read_texts(path: Path, context: int) -> Sequence[Prompt]:
    """A file of prompts, a log of Inspect, a text file, or a folder of text files (`*.txt`, `*.md`).

    Prompts are what is called `.jsonl`, and any file whose first line is an object with `prompt`. They come as a list, as do those of a log.

    Raises:
        UserError: nothing there, or nothing readable.
    """
    if path.suffix == ".jsonl" or begins_with_a_prompt(path) or begins_as_log(path):
        return read_prompts(path, labelled=False)
    if path.is_dir():
        paths = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".md") and file.is_file())
        if not paths:
            raise UserError(f"{path}: holds no .txt or .md file; give text files or a prompts.jsonl")
        return TextPieces(paths, context)
    return TextPieces([path], context)


def train_and_held_out(
    prompts: Sequence[Prompt], seed: int, most: int = 256, *, tokens: Sequence[Sequence[int]] | None = None
) -> tuple[Mixed, Mixed]:
    """Prompts to train on and others to measure on, each in a random order.

    Both sides of a prompt file are those that every other command has for it. Of plain text so many pieces are held out as are
    measured on. Pairs and copies of one text stand on one side; of plain text, pieces that differ in blanks, in case or in how
    their characters are encoded count as copies.

    Args:
        prompts: all of them.
        seed: of the order, and of the choice where the file does not mark `split`.
        most: measured on at most.
        tokens: token ids of each prompt, so that texts that a model cannot tell apart stay together too.

    Raises:
        UserError: too few prompts to hold one out, or a `split` that separates a pair or copies of one text.
    """
    if len(prompts) < 2:
        raise UserError("too few prompts: some must be held out to measure on")
    fractions = None
    if isinstance(prompts, TextPieces):  # too many to be tokenized for this
        fractions, tokens = Fractions.with_test(_held_out_share(len(prompts), most)), _Alike(prompts)
    splits = split_prompts(prompts, fractions=fractions, seed=seed, tokens=tokens)
    train, test = splits.train, splits.test
    if not len(train) or not len(test):
        raise UserError(
            "too few different prompts: some must be held out to measure on, and copies of a text stay together"
        )
    measured = np.random.default_rng([seed, 3]).permutation(test)[:most]
    return Mixed(prompts, seed, train.tolist()), Mixed(prompts, seed, measured.tolist())


def _held_out_share(pieces: int, most: int) -> float:
    """The share of text pieces that is held out: one piece at least, and no more than are measured on."""
    return max(1 / pieces, min(most / pieces, 1 / HELD_OUT_SHARE))


def _open(path: Path) -> mmap.mmap:
    """Map a file, once all of it is known to be text: better now than hours into a run."""
    decoder = getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHECKED_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give a text file or a prompts.jsonl") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    except ValueError as error:
        raise UserError(f"{path}: the file is empty") from error


def _between_words(content: mmap.mmap, edge: int, size: int) -> int:
    """The place after the last blank before `edge`, or, in a long word, the start of the character there."""
    if edge <= 0 or edge >= len(content):
        return max(0, min(edge, len(content)))
    blank = max(content.rfind(b" ", edge - size // 2, edge), content.rfind(b"\n", edge - size // 2, edge))
    if blank >= 0:
        return blank + 1
    while edge > 0 and content[edge] & 0xC0 == 0x80:  # inside a character of several bytes
        edge -= 1
    return edge
