"""Rows of a manifest, read and passed once through the frozen part of their encoder.

The frozen part never changes, so alignment, adapter training and evaluation all draw from here
and nothing is decoded twice, unless it would not fit into memory; `anymal_lib.feature_cache` keeps
it from one notebook to the next. A row that cannot be read is skipped, counted and named.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from anymal_lib.encoders import Encoder, Features
from anymal_lib.errors import AnyMALError, DataError
from anymal_lib.feature_cache import KeptFeatures
from anymal_lib.machine import free_memory
from anymal_lib.manifest import Row
from anymal_lib.modalities import open_row
from anymal_lib.progress import track
from anymal_lib.seeds import epoch_order
from anymal_lib.specs import Profile

log = logging.getLogger(__name__)

_MEMORY_SHARE = 0.25  # of the free memory, for the features of one split


@dataclass(frozen=True)
class Skipped:
    """A row that could not be used, and why."""

    id: str
    reason: str


@dataclass
class Bank:
    """The good rows with their intermediate features, and the bad ones by name."""

    rows: list[Row]
    intermediate: Sequence[Tensor]  # one (…) tensor per row; shapes may differ for signals
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.rows)

    def features(
        self, encoder: Encoder, index: Sequence[int], generator: torch.Generator | None = None
    ) -> Features:
        """Features of some rows in the given order; augmented when a generator is given."""
        tensors = [self.intermediate[i] for i in index]
        if generator is not None:
            tensors = augmented(encoder, tensors, generator)
        return encode_aligned(encoder, tensors)

    @torch.inference_mode()
    def embeddings(self, encoder: Encoder, batch: int = 256) -> Tensor:
        """The pooled, text-aligned embedding of every row, on the CPU: (rows, e)."""
        starts = range(0, len(self), batch)
        index = [range(start, min(start + batch, len(self))) for start in starts]
        return torch.cat([self.features(encoder, some).pooled.cpu() for some in index])

    def drawn(self, seed: int, position: int) -> int:
        """Which row is the `position`-th of a training run: each once an epoch, shuffled."""
        return epoch_order(seed, len(self), position)

    def some(self, index: Sequence[int]) -> Bank:
        """A bank of some of the rows, in the given order."""
        rows, held = [self.rows[k] for k in index], self.intermediate
        if isinstance(held, EncodedAtUse):
            return Bank(rows, EncodedAtUse(held.encoder, rows), [])
        return Bank(rows, [held[k] for k in index], [])

    def identity(self) -> list[Any]:
        """What a training run on this bank depends on, for its fingerprint."""
        return [(row.id, row.text) for row in self.rows]

    def require_captions(self) -> None:
        """Raise `DataError` for a row of questions only, from which no caption can be learned."""
        for row in self.rows:
            if not row.text:
                raise DataError(
                    f"row {row.id!r}",
                    expected="`text` with a caption, to align or to compare with",
                    got="a question with answers only",
                    do="Align on a manifest of captions; this one is for answering questions.",
                )

    def report(self) -> dict[str, Any]:
        """Counts and names of skipped rows, for metrics.json."""
        return {"used": len(self.rows), "skipped": [asdict(bad) for bad in self.skipped]}


def _by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Positions of tensors that can be stacked. Grouping instead of padding keeps an item's
    features independent of its neighbours."""
    groups: dict[torch.Size, list[int]] = {}
    for position, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(position)
    return list(groups.values())


def encode_frozen(encoder: Encoder, prepared: Sequence[Tensor], batch: int) -> list[Tensor]:
    """Prepared inputs of any shape -> intermediate features, one tensor each."""
    results: dict[int, Tensor] = {}
    for group in _by_shape(prepared):
        for start in range(0, len(group), batch):
            chunk = group[start : start + batch]
            out = encoder.frozen(torch.stack([prepared[p] for p in chunk]).to(encoder.device))
            # Whatever the layout: kept on disk they have this one, and rounding depends on it.
            results.update(zip(chunk, out.cpu().contiguous(), strict=True))
    return [results[p] for p in range(len(prepared))]


def augmented(
    encoder: Encoder, intermediate: Sequence[Tensor], generator: torch.Generator
) -> list[Tensor]:
    """A random variant of each tensor, where the encoder has any; a function of their order."""
    if not encoder.augments:
        return list(intermediate)
    results: dict[int, Tensor] = {}
    for group in _by_shape(intermediate):
        batch = encoder.augment(torch.stack([intermediate[p] for p in group]), generator)
        results.update(zip(group, batch, strict=True))
    return [results[p] for p in range(len(intermediate))]


def encode_aligned(encoder: Encoder, intermediate: Sequence[Tensor]) -> Features:
    """Intermediate features of any shape -> Features in order."""
    groups = _by_shape(intermediate)
    features = Features.stack(
        [
            encoder.aligned(torch.stack([intermediate[p] for p in group]).to(encoder.device))
            for group in groups
        ]
    )
    if len(groups) == 1:
        return features
    order = torch.tensor([p for group in groups for p in group], device=encoder.device)
    return features.take(order.argsort())


@dataclass(frozen=True)
class EncodedAtUse(Sequence[Tensor]):
    """Intermediate features that are computed when they are asked for: for more than memory."""

    encoder: Encoder
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        prepared = self.encoder.prepare(open_row(self.rows[index]))
        return encode_frozen(self.encoder, [prepared], 1)[0]


def profile_bank(profile: Profile, encoder: Encoder, rows: Sequence[Row], title: str) -> Bank:
    """Rows through the frozen part of an encoder, in batches and kept as the profile says."""
    return build_bank(
        encoder,
        rows,
        batch=profile.encode_batch,
        max_bad_share=profile.max_bad_share,
        cache=profile.step.cache_features,
        spec=profile.modality(encoder.modality).encoder,
        title=title,
    )


def build_bank(
    encoder: Encoder,
    rows: Sequence[Row],
    *,
    batch: int,
    max_bad_share: float,
    title: str,
    cache: bool | None = None,
    spec: Any = None,
) -> Bank:
    """Read and encode rows; `DataError` when more than `max_bad_share` of them are bad.

    Two bad rows never stop a run: of a small split they are a large share. With `cache` the
    features are kept, without it only the rows are checked; None keeps what takes less than a
    quarter of the free memory. With the encoder's `spec` they are kept on disk, too, and not
    computed again.
    """
    on_disk = None if spec is None or cache is False else KeptFeatures(encoder, spec, rows, batch)
    if on_disk and (known := on_disk.read()) is not None:
        log.info("%s: %s items, encoded before", title, f"{len(rows):,}")
        return Bank(list(rows), known, [])
    good: list[Row] = []
    tensors: list[Tensor] = []
    skipped: list[Skipped] = []
    chunks = track(
        decoded(encoder, rows, batch),
        f"encoding {title}",
        total=len(rows),
        unit="items",
        count=len,
    )
    for chunk in chunks:
        read = [(row, out) for row, out in chunk if not isinstance(out, AnyMALError)]
        skipped += [Skipped(row.id, str(out)) for row, out in chunk if isinstance(out, AnyMALError)]
        good += [row for row, _ in read]
        if cache is not False:
            tensors += encode_frozen(encoder, [out for _, out in read], batch)
        if cache is None and tensors:
            needed = tensors[0].nbytes * len(rows)
            cache = needed < _MEMORY_SHARE * free_memory()
            if not cache:
                log.info("%s: %.0f GB of features are computed at use.", title, needed / 1e9)
    check_bad_share(title, skipped, len(rows), max_bad_share)
    for bad in skipped:
        log.warning("skipped %s: %s", bad.id, bad.reason)
    if on_disk and cache and not skipped:
        on_disk.write(tensors)
    return Bank(good, tensors if cache else EncodedAtUse(encoder, good), skipped)


def check_bad_share(
    title: str, skipped: Sequence[Skipped], seen: int, max_bad_share: float
) -> None:
    """`DataError` when too many of the rows seen were bad, or there was none to begin with."""
    if seen > len(skipped) <= max(2, max_bad_share * seen):
        return
    raise DataError(
        title,
        expected=f"at most {max_bad_share:.0%} of the rows unreadable",
        got=f"{len(skipped)} of {seen}; the first: {skipped[0].id}: {skipped[0].reason}"
        if skipped
        else "no rows at all",
        do="Repair or remove the named rows, or raise max_bad_share in the profile.",
    )


def decoded(
    encoder: Encoder, rows: Sequence[Row], batch: int
) -> Iterator[list[tuple[Row, Tensor | AnyMALError]]]:
    """Rows with what `prepare` made of them, batch by batch.

    Threads decode the next batch while the caller encodes this one; decoders release the lock.
    """

    def read(row: Row) -> Tensor | AnyMALError:
        try:
            return encoder.prepare(open_row(row))
        except AnyMALError as error:
            return error

    chunks = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead = [pool.map(read, chunk) for chunk in chunks[:1]]
        for index, chunk in enumerate(chunks):
            ahead += [pool.map(read, following) for following in chunks[index + 1 : index + 2]]
            yield list(zip(chunk, ahead.pop(0), strict=True))
