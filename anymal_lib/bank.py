"""Rows of a manifest, read and passed once through the frozen part of their encoder.

The frozen part never changes, so alignment, adapter training and evaluation all draw from here
and nothing is decoded twice. A row that cannot be read is skipped, counted and named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from anymal_lib.encoders import Encoder, Features
from anymal_lib.errors import AnyMALError, DataError
from anymal_lib.inputs import open_row
from anymal_lib.manifest import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """A row that could not be used, and why."""

    id: str
    reason: str


@dataclass
class Bank:
    """The good rows with their intermediate features, and the bad ones by name."""

    rows: list[Row]
    intermediate: list[Tensor]  # one (…) tensor per row; shapes may differ for signals
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.rows)

    def features(
        self, encoder: Encoder, index: Sequence[int], generator: torch.Generator | None = None
    ) -> Features:
        """Features of some rows in the given order; augmented when a generator is given."""
        return encode_aligned(encoder, [self.intermediate[i] for i in index], generator)

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
            results.update(zip(chunk, out.cpu(), strict=True))
    return [results[p] for p in range(len(prepared))]


def encode_aligned(
    encoder: Encoder, intermediate: Sequence[Tensor], generator: torch.Generator | None = None
) -> Features:
    """Intermediate features of any shape -> Features in order; augmented with a generator."""
    groups, parts = _by_shape(intermediate), []
    for group in groups:
        batch = torch.stack([intermediate[p] for p in group])
        if generator is not None:
            batch = encoder.augment(batch, generator)
        parts.append(encoder.aligned(batch.to(encoder.device)))
    features = Features.stack(parts)
    if len(groups) == 1:
        return features
    order = torch.tensor([p for group in groups for p in group], device=encoder.device)
    return features.take(order.argsort())


def build_bank(
    encoder: Encoder, rows: Sequence[Row], *, batch: int, max_bad_share: float, title: str
) -> Bank:
    """Read and encode rows; `DataError` when more than `max_bad_share` of them are bad.

    Two bad rows never stop a run: of a small split they are a large share.
    """
    good: list[Row] = []
    tensors: list[Tensor] = []
    skipped: list[Skipped] = []
    starts = range(0, len(rows), batch)
    for start in tqdm(starts, desc=title, unit="batch", disable=None, leave=False):
        prepared, chunk = [], []
        for row in rows[start : start + batch]:
            try:
                prepared.append(encoder.prepare(open_row(row)))
                chunk.append(row)
            except AnyMALError as error:
                skipped.append(Skipped(row.id, str(error)))
        good += chunk
        tensors += encode_frozen(encoder, prepared, batch)
    if len(skipped) > max(2, max_bad_share * len(rows)) or not good:
        raise DataError(
            title,
            expected=f"at most {max_bad_share:.0%} of the rows unreadable",
            got=f"{len(skipped)} of {len(rows)}; the first: {skipped[0].id}: {skipped[0].reason}"
            if skipped
            else "no rows at all",
            do="Repair or remove the named rows, or raise max_bad_share in the profile.",
        )
    for bad in skipped:
        log.warning("skipped %s: %s", bad.id, bad.reason)
    return Bank(good, tensors, skipped)
