"""Near-duplicates: the same picture, signal or caption twice, and across splits a leak.

Byte-identical copies across splits are refused when a manifest is loaded; this finds what was
resized, recompressed, brightened or resampled in between.

Shapes: n: items; b: items of one block; d: numbers per item.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anymal_lib.doctor.pictures import require_images
from anymal_lib.errors import DataError, InputError
from anymal_lib.inputs import Image
from anymal_lib.modalities import open_row
from anymal_lib.progress import track
from anymal_lib.rows import SPLITS, Row

_BLOCK_CELLS = 2**23  # distances held at once: 32 MB
_HASH_SIDE = 8
_THUMB_SIDE = 8
_MIDDLE = 127.5  # the mean level that every thumbnail is brought to
_POINTS = 64


@dataclass(frozen=True)
class NearPair:
    """Two rows that show or say nearly the same.

    Attributes:
        first, second: the rows; `first` stands in the split that comes earlier (train, val, test).
        distance: 0 for no difference, in the unit of the function that found the pair.
    """

    first: Row
    second: Row
    distance: float

    @property
    def leaks(self) -> bool:
        """Whether the pair stands on two sides of a split."""
        return self.first.split != self.second.split


@dataclass(frozen=True)
class NearReport:
    """What a search found.

    Attributes:
        pairs: at most two for each item: its nearest earlier one in its own split, and the
            nearest in an earlier split. Sorted: leaks first, then by distance.
        items: how many different items were compared.
        bad: row id -> why it could not be read.
    """

    pairs: tuple[NearPair, ...]
    items: int
    bad: dict[str, str]

    @property
    def leaks(self) -> int:
        """Pairs on two sides of a split."""
        return sum(pair.leaks for pair in self.pairs)


def near_pictures(rows: Sequence[Row], max_bits: int = 6, max_levels: float = 5.0) -> NearReport:
    """Find pictures that look the same. The distance is that of colours, see `max_levels`.

    Args:
        rows: of an image manifest; rows that share a file in one split count once.
        max_bits: Hamming distance, 0..64, of the perceptual hashes (the signs, about their median,
            of the 8 x 8 lowest frequencies of the cosine transform, as in pHash).
        max_levels: root mean square difference, 0..255, of thumbnails of 8 x 8 pixels brought to
            one brightness. The hash sees structure in grey only: a red and a blue circle in one
            place have the same. Recompressed, resized or brightened copies stay below the
            defaults; a crop of more than about 1 % on each side does not.

    Raises:
        DataError: a row that has no picture.
    """
    require_images(rows)
    kept, loaded, bad = _loaded(rows, _signature)
    bits = np.array([hash_ for hash_, _ in loaded], np.float32).reshape(-1, _HASH_SIDE**2)
    thumbs = np.array([thumb for _, thumb in loaded], np.float64).reshape(-1, 3 * _THUMB_SIDE**2)
    squares = (thumbs**2).sum(axis=1)

    def distances(block: slice) -> np.ndarray:
        differing = (_HASH_SIDE**2 - bits[block] @ bits.T) / 2  # bits are -1 and 1
        colours = squares[block, None] + squares - 2 * thumbs[block] @ thumbs.T
        levels = np.sqrt(np.maximum(colours, 0) / thumbs.shape[1])
        return np.where((differing <= max_bits) & (levels <= max_levels), levels, np.inf)

    return NearReport(_pairs(kept, distances), len(kept), bad)


def near_vectors(
    rows: Sequence[Row], vectors: np.ndarray, max_distance: float = 0.005
) -> NearReport:
    """Find items of any modality whose vectors point the same way; the distance is 1 - cosine.

    Args:
        rows: of any manifest.
        vectors: (n, d), one for each row: an encoder's embeddings, or `signal_vectors`.
        max_distance: 0..2.

    Raises:
        DataError: another number of vectors than rows, or one that is zero or not finite.
    """
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.ndim == 2 else None
    if length is None or len(vectors) != len(rows) or not ((length > 0) & (length < np.inf)).all():
        raise DataError(
            "vectors",
            expected=f"({len(rows)}, d) finite numbers, no row of them all zero",
            got=f"shape {vectors.shape}, or such a row",
            do="Give one vector for each row, in the order of the rows.",
        )
    order = sorted(range(len(rows)), key=lambda k: SPLITS.index(rows[k].split))
    unit = (vectors / length)[order]

    def distances(block: slice) -> np.ndarray:
        apart = np.maximum(1 - unit[block] @ unit.T, 0)
        return np.where(apart <= max_distance, apart, np.inf)

    return NearReport(_pairs([rows[k] for k in order], distances), len(rows), {})


def signal_vectors(rows: Sequence[Row]) -> tuple[list[Row], np.ndarray, dict[str, str]]:
    """Reduce motion signals of any length and rate to vectors, for `near_vectors`.

    Returns:
        The rows that could be read; for each one the means of its channels over 64 equal parts of
        its time, float32 (n, 64 * channels); and row id -> why it could not be read.
    """
    kept, loaded, bad = _loaded(rows, lambda row: _means(open_row(row).load().samples))
    return kept, np.array(loaded, np.float32).reshape(len(kept), -1), bad


def near_captions(rows: Sequence[Row]) -> NearReport:
    """Find captions that are the same but for case, accents, punctuation and blanks.

    Every distance is 0. Items are captions: a row with four of them can be in several pairs.
    """
    first: dict[tuple[str, str], Row] = {}
    pairs, items = [], 0
    for row in sorted(rows, key=lambda row: SPLITS.index(row.split)):
        for caption in dict.fromkeys(normalised(text) for text in row.text):
            items += 1
            earlier = SPLITS[: SPLITS.index(row.split)]
            across = [first[split, caption] for split in earlier if (split, caption) in first]
            own = [first[row.split, caption]] if (row.split, caption) in first else []
            pairs += [NearPair(other, row, 0.0) for other in across[:1] + own]
            first.setdefault((row.split, caption), row)
    return NearReport(_sorted(pairs), items, {})


def normalised(caption: str) -> str:
    """The words of a caption, without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", caption).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join("".join(c if c.isalnum() else " " for c in plain).split())


def _loaded(
    rows: Sequence[Row], load: Callable[[Row], Any]
) -> tuple[list[Row], list[Any], dict[str, str]]:
    """Rows of different items in the order of their splits, what `load` made of them, the bad."""
    kept: list[Row] = []
    loaded: list[Any] = []
    bad: dict[str, str] = {}
    items = {(row.split, str(row.path), row.start, row.end): row for row in reversed(rows)}
    ordered = sorted(reversed(items.values()), key=lambda row: SPLITS.index(row.split))
    for row in track(ordered, "looking for doubles", total=len(ordered), unit="items"):
        try:
            loaded.append(load(row))
        except InputError as error:
            bad[row.id] = str(error)
        else:
            kept.append(row)
    return kept, loaded, bad


def _signature(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Hash (64,) of -1 and 1, and thumbnail (192,) in levels about `_MIDDLE`."""
    import cv2

    pixels = np.asarray(Image(row.path).load())
    grey = cv2.resize(
        cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA
    )
    low = cv2.dct(grey.astype(np.float32))[:_HASH_SIDE, :_HASH_SIDE].ravel()
    thumb = cv2.resize(pixels, (_THUMB_SIDE, _THUMB_SIDE), interpolation=cv2.INTER_AREA).ravel()
    brightness = max(1.0, float(thumb.mean()))  # divided out: a brightened copy is a copy
    return np.where(low > np.median(low), 1, -1), thumb * (_MIDDLE / brightness)


def _means(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) to the means over `_POINTS` equal parts, (`_POINTS` * channels,)."""
    sums = np.cumsum(np.insert(samples, 0, 0.0, axis=0), axis=0, dtype=np.float64)
    edges = np.linspace(0, len(samples), _POINTS + 1)
    known = np.arange(len(sums))
    at = np.stack([np.interp(edges, known, channel) for channel in sums.T], axis=1)
    return (np.diff(at, axis=0) * _POINTS / len(samples)).ravel()


def _pairs(rows: Sequence[Row], distances: Callable[[slice], np.ndarray]) -> tuple[NearPair, ...]:
    """Pairs of each row and its nearest earlier rows; `rows` are in the order of their splits.

    `distances` gives (b, n) from a block of rows to all rows, infinite where they are not near.
    All comparisons of a block are one matrix product, so that 10,000 items take seconds; memory
    stays the same at any number.
    """
    splits = np.array([SPLITS.index(row.split) for row in rows])
    step = max(1, _BLOCK_CELLS // max(1, len(rows)))
    pairs = []
    for start in range(0, len(rows), step):
        found = distances(slice(start, start + step))
        for k, line in enumerate(found, start):
            earlier, own = line[:k], splits[:k] == splits[k]
            for among in (own, ~own):
                near = np.flatnonzero(among & np.isfinite(earlier))
                if len(near):
                    best = near[earlier[near].argmin()]
                    pairs.append(NearPair(rows[best], rows[k], round(float(earlier[best]), 4)))
    return _sorted(pairs)


def _sorted(pairs: list[NearPair]) -> tuple[NearPair, ...]:
    return tuple(sorted(pairs, key=lambda pair: (not pair.leaks, pair.distance)))
