"""The activation store: a folder of shards, addressed by what its content depends on.

1. The address is the sha256 of the model's identity (`hooked.identity`), the token ids of the prompts, with their answers where
   those are read, sites, position, whose tokens are read, and dtype.
2. Each window of prompts becomes one shard, `shard-00000.safetensors`, with its digest in `shard-00000.json`.
   Both appear by a rename, so a kill at any point loses at most the shard under way.
3. A run that finds shards of an earlier one verifies and keeps them.
4. Under `torchrun`, rank r writes the shards whose number is r modulo the number of ranks. With an executor, workers that hold the model
   write them one by one (`hooked.workers`).
5. When all shards are there, the folder gets its manifest and its final name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hooked.extraction import WINDOW_PROMPTS, ActivationBatch, ExtractionSpec, stream_activations, tokenize_for
from hooked.identity import identity_sha256
from hooked.model import HookedModel
from hooked.prompts.prompts import Prompt
from hooked.prompts.tokens import TokenizedPrompt
from hooked.workers.reading import by_windows
from triggerlens import (
    ExecutorConfig,
    Manifest,
    UserError,
    locked,
    rank,
    read_manifest,
    sha256_file,
    verify_file,
    wait_for_all,
    world_size,
    write_bytes_atomically,
)

KIND = "activations"
ALL = slice(None)


def cache_folder(kind: str) -> Path:
    """Where things that can be made again are kept: `$TRIGGERLENS_CACHE/KIND`, or `~/.cache/triggerlens/KIND`."""
    return Path(os.environ.get("TRIGGERLENS_CACHE") or Path.home() / ".cache" / "triggerlens") / kind


def default_store_root() -> Path:
    """Where stores are kept: `$TRIGGERLENS_CACHE/activations`, or `~/.cache/triggerlens/activations`."""
    return cache_folder("activations")


@dataclass(frozen=True)
class _Shard:
    """What the file beside a shard says of it."""

    sha256: str
    prompts: int
    rows: int


class ActivationStore:
    """A finished store, read memory-mapped; each shard is verified the first time that it is read."""

    def __init__(self, folder: str | Path):
        """Open a store.

        Raises:
            UserError: no finished store at `folder`, or a damaged one.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, KIND)
        names = sorted(name for name in self.manifest.files if name.endswith(".json"))
        for name in names:
            verify_file(self.folder, name, self.manifest.files[name])
        self._shards = [_read_facts(self.folder / name) for name in names]
        self._starts = [0, *accumulate(shard.prompts for shard in self._shards)]
        self._verified: set[int] = set()

    def __len__(self) -> int:
        """Number of prompts."""
        return self._starts[-1]

    @property
    def rows(self) -> int:
        """Number of rows: of prompts, or of tokens where the position is `every`."""
        return sum(shard.rows for shard in self._shards)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites along the second axis of what `batches` yields."""
        return tuple(self.manifest.config["sites"])

    def batches(
        self, indices: Sequence[int] | None = None, sites: slice = ALL
    ) -> Iterator[tuple[Int[Tensor, "row"], Float[Tensor, "row site d_model"]]]:
        """The prompt of each row, and the rows in float32, shard by shard and so in ascending order of prompts.

        Args:
            indices: of which prompts; all where None.
            sites: which of the sites; nothing is read of the others.

        Raises:
            UserError: a shard is missing or damaged; it is named.
        """
        wanted = torch.zeros(len(self), dtype=torch.bool)
        wanted[torch.as_tensor(list(indices)) if indices is not None else slice(None)] = True
        for number in range(len(self._shards)):
            keep = wanted[self._starts[number] : self._starts[number + 1]]
            if keep.any():
                yield self._read(number, keep, sites)

    def by_prompt(
        self, indices: Sequence[int], sites: slice = ALL
    ) -> Iterator[tuple[int, Float[Tensor, "row site d_model"]]]:
        """One prompt after another, in ascending order: its index and its rows in float32.

        Raises:
            UserError: as `batches`.
        """
        for index, values in self.batches(indices, sites):
            prompts, counts = index.unique_consecutive(return_counts=True)
            yield from zip(prompts.tolist(), values.split(counts.tolist()), strict=True)

    def _read(self, number: int, keep: Tensor, sites: slice) -> tuple[Tensor, Tensor]:
        name = _shard_name(number)
        if number not in self._verified:
            verify_file(self.folder, name, self.manifest.files.get(name, ""))
            self._verified.add(number)
        with safe_open(self.folder / name, framework="pt") as shard:
            counts, values = shard.get_tensor("counts"), shard.get_slice("values")[:, sites]
        indices = torch.arange(len(counts)) + self._starts[number]
        if keep.all():
            return indices.repeat_interleave(counts), values.float()
        return indices[keep].repeat_interleave(counts[keep]), values[keep.repeat_interleave(counts)].float()


def store_activations(
    model: HookedModel,
    prompts: Iterable[Prompt | TokenizedPrompt],
    spec: ExtractionSpec,
    *,
    root: str | Path | None = None,
    token_budget: int | None = None,
    total: int | None = None,
    executor: ExecutorConfig | None = None,
) -> ActivationStore:
    """Extract into the store, or open what is already there.

    Args:
        model: the model to read.
        prompts: read more than once, so not a one-time iterator; it may read a file as it goes. What `model.tokenize` made of
            them will do too, and is not tokenized again.
        spec: what to read.
        root: the folder of all stores; `default_store_root()` where None. Workers on other machines must see it under the same path.
        token_budget: tokens a forward pass, padding included; a default for the device where None.
        total: number of prompts, for the progress bar.
        executor: where shards are made; in this process where None. The bytes are the same.

    Raises:
        UserError: as `stream_activations`; or the folder cannot be written; or as `reduce_activations`.
    """
    identity = _identity(model, prompts, spec)
    final = (
        Path(root or default_store_root())
        / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    )
    if not final.exists():
        partial = final.with_name(f"{final.name}.partial")
        if executor is None:
            try:
                _write_shards(model, prompts, spec, partial, token_budget, total)
            except UserError:
                if not final.exists():  # else another process has given the folder its name meanwhile
                    raise
        else:
            _make_folder(partial)
            use = Shards(partial.resolve(), final.resolve())
            deque(by_windows(model, prompts, spec, use, executor, token_budget=token_budget, total=total), maxlen=0)
        wait_for_all()
        if rank() == 0:
            _finish(partial, final, identity)
    wait_for_all()
    return ActivationStore(final)


def _identity(model: HookedModel, prompts: Iterable[Prompt | TokenizedPrompt], spec: ExtractionSpec) -> dict[str, Any]:
    """What the content depends on: the model, however it computes, and the tokens that the prompts became."""
    identity = model.identity()
    return {
        "weights": identity["model"]["weights"],
        "model": identity_sha256(identity["model"]),
        "computation": identity["computation"],
        "tokens": tokens_sha256(model, prompts, spec),
        "sites": list(spec.sites),
        "position": spec.position,
        "dtype": str(spec.kept(model.dtype)),
        **({"read": spec.read} if spec.answers else {}),
    }


def tokens_sha256(model: HookedModel, prompts: Iterable[Prompt | TokenizedPrompt], spec: ExtractionSpec) -> str:
    """The sha256 of what a store's content depends on in its prompts: their tokens, in order, with spans and answers where those are read.

    Args:
        model: whose tokenizer reads them.
        prompts: any.
        spec: of the store.

    Raises:
        UserError: as `HookedModel.tokenize`.
    """
    digest = hashlib.sha256()
    for prompt, tokens in _tokenized(model, prompts, spec):
        spans = prompt.extra.get("spans") if isinstance(prompt, Prompt) and spec.position.startswith("span:") else None
        answer = [tokens.answer] if spec.answers else []
        digest.update(json.dumps([tokens.ids, spans, *answer]).encode() + b"\n")
    return digest.hexdigest()


def _tokenized(
    model: HookedModel, prompts: Iterable[Prompt | TokenizedPrompt], spec: ExtractionSpec
) -> Iterator[tuple[Prompt | TokenizedPrompt, TokenizedPrompt]]:
    stream = iter(prompts)
    while chunk := list(islice(stream, WINDOW_PROMPTS)):
        yield from zip(chunk, tokenize_for(model, chunk, spec), strict=True)


def _write_shards(
    model: HookedModel,
    prompts: Iterable[Prompt | TokenizedPrompt],
    spec: ExtractionSpec,
    folder: Path,
    token_budget: int | None,
    total: int | None,
) -> None:
    _make_folder(folder)
    mine: list[int] = []

    def skip(number: int) -> bool:
        if number % world_size() != rank() or _is_whole(folder, number):
            return True
        mine.append(number)
        return False

    stream = stream_activations(
        model, prompts, spec, token_budget=token_budget, total=total, skip_window=skip, whole_windows=True
    )
    for batch in stream:
        _write_shard(folder, mine[-1], batch)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: could not be made: {error.strerror}; choose another --store") from error


@dataclass(frozen=True)
class Shards:
    """Writes the shard of a window where it is not there; of two drivers, one does."""

    folder: Path
    final: Path

    def __call__(self, number: int, read: Callable[[], ActivationBatch]) -> None:
        """Write it.

        Raises:
            Busy: another driver is at it.
            UserError: it cannot be written.
        """
        if self.final.exists() or _is_whole(self.folder, number):
            return
        with locked(self.folder / f".{number}.lock", wait=False):
            if not _is_whole(self.folder, number):
                _write_shard(self.folder, number, read())


def _write_shard(folder: Path, number: int, batch: ActivationBatch) -> None:
    path = folder / _shard_name(number)
    write_bytes_atomically(path, save({"values": batch.values, "counts": batch.counts}))
    facts = _Shard(sha256_file(path), len(batch.indices), len(batch.values))
    write_bytes_atomically(path.with_suffix(".json"), json.dumps(asdict(facts)).encode())


def _is_whole(folder: Path, number: int) -> bool:
    path = folder / _shard_name(number)
    return (
        path.is_file()
        and path.with_suffix(".json").is_file()
        and sha256_file(path) == _read_facts(path.with_suffix(".json")).sha256
    )


def _finish(partial: Path, final: Path, identity: dict[str, Any]) -> None:
    lock = final.with_name(f".{final.name}.lock")
    with locked(lock):
        if not final.exists():  # else another driver has done it
            _give_name(partial, final, identity)
        lock.unlink(missing_ok=True)


def _give_name(partial: Path, final: Path, identity: dict[str, Any]) -> None:
    files = {path.name: sha256_file(path) for path in sorted(partial.glob("shard-*.json"))}
    files |= {name.replace(".json", ".safetensors"): _read_facts(partial / name).sha256 for name in list(files)}
    manifest = Manifest(kind=KIND, config=identity, files=dict(sorted(files.items())))
    write_bytes_atomically(partial / "manifest.json", json.dumps(asdict(manifest), indent=2).encode())
    for leftover in [*partial.glob(".*.partial"), *partial.glob(".*.lock")]:
        leftover.unlink(missing_ok=True)
    partial.rename(final)


def _read_facts(path: Path) -> _Shard:
    try:
        return _Shard(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged; remove the folder {path.parent} and run again") from error


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"
