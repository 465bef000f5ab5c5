"""A bank over a stream: rows are read and encoded when a training step asks, then let go.

For sets of millions of samples. The stream is in a seeded order already, so training takes its rows
as they come; the row at a position depends on nothing but the seed and the position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from anymal_lib.bank import Bank, Skipped, check_bad_share, decoded, encode_frozen
from anymal_lib.encoders import Encoder
from anymal_lib.errors import AnyMALError
from anymal_lib.manifest import Row
from anymal_lib.stream import RowStream

_KEPT = 3  # chunks: a step reads at most two, and looks into one more


@dataclass(frozen=True)
class _Pick(Sequence[Any]):
    """One side of the pairs (row, features), by position."""

    pair: Callable[[int], tuple[Row, Tensor]]
    side: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: Any) -> Any:
        return self.pair(position)[self.side]


class StreamBank(Bank):
    """What `train_adapter` learns from, without more than a few chunks of it in memory.

    A row that cannot be read is skipped, counted and named; the next good one stands in its place
    too, so positions do not depend on what was bad before them.

    Args:
        encoder: of the stream's modality.
        stream: of the training split.
        chunk: rows read and encoded together, at least the batch of a training step.
        batch: rows encoded together in one go.
        max_bad_share: more bad rows than this share of those seen stop the run (`DataError`).
        title: names the run in that error.
    """

    def __init__(
        self,
        encoder: Encoder,
        stream: RowStream,
        *,
        chunk: int,
        batch: int,
        max_bad_share: float,
        title: str,
    ) -> None:
        self._encoder, self._stream, self._chunk, self._batch = encoder, stream, chunk, batch
        self._max_bad_share, self._title = max_bad_share, title
        self._chunks: dict[int, list[tuple[Row, Tensor] | None]] = {}
        self._rows: Iterator[Row] = iter(())
        self._next = -1  # number of the chunk that `_rows` is at
        self._seen: set[int] = set()
        size = len(stream)
        super().__init__(_Pick(self._pair, 0, size), _Pick(self._pair, 1, size), [])

    def drawn(self, seed: int, position: int) -> int:
        """The position itself: the stream's seed has shuffled it."""
        return position

    def identity(self) -> list[Any]:
        """The stream's card, seed and shape instead of all its rows."""
        return [self._stream.checksum, self._stream.seed, self._stream.block, len(self._stream)]

    def require_captions(self) -> None:
        """Nothing to do: a row without a caption counts as bad when it is read."""

    def report(self) -> dict[str, Any]:
        """Counts of what has been read so far, and the skipped rows by name."""
        seen = len(self._seen) * self._chunk
        return super().report() | {"used": seen - len(self.skipped), "seen": seen}

    def _pair(self, position: int) -> tuple[Row, Tensor]:
        """The first good row at or after a position."""
        number, inside = divmod(position, self._chunk)
        while True:
            for pair in islice(self._read(number), inside, None):
                if pair is not None:
                    return pair
            number, inside = number + 1, 0

    def _read(self, number: int) -> list[tuple[Row, Tensor] | None]:
        if number not in self._chunks:
            if number != self._next:
                self._rows = self._stream.rows(number * self._chunk)
            rows = list(islice(self._rows, self._chunk))
            self._next = number + 1
            self._chunks[number] = self._encoded(number, rows)
            while len(self._chunks) > _KEPT:
                del self._chunks[next(iter(self._chunks))]
        return self._chunks[number]

    def _encoded(self, number: int, rows: list[Row]) -> list[tuple[Row, Tensor] | None]:
        results: list[tuple[Row, Tensor] | None] = []
        bad: list[Skipped] = []
        for part in decoded(self._encoder, rows, self._batch):
            reasons = [
                str(out) if isinstance(out, AnyMALError) else None if row.text else "no caption"
                for row, out in part
            ]
            good = [
                (row, out) for (row, out), why in zip(part, reasons, strict=True) if why is None
            ]
            features = iter(encode_frozen(self._encoder, [out for _, out in good], self._batch))
            for (row, _), why in zip(part, reasons, strict=True):
                results.append((row, next(features)) if why is None else None)
                if why is not None:
                    bad.append(Skipped(row.id, why))
        if number not in self._seen:
            self._seen.add(number)
            self.skipped += bad
            seen = len(self._seen) * self._chunk
            check_bad_share(self._title, self.skipped, seen, self._max_bad_share)
        return results
