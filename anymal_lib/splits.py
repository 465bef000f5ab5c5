"""Who may be in which split: the seeded 80 / 10 / 10, and the check that nothing leaks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anymal_lib.assets import sha256_of
from anymal_lib.errors import ManifestError
from anymal_lib.rows import Row


def seeded_splits(rows: Sequence[Row], seed: int) -> list[Row]:
    """Split rows 80 / 10 / 10; rows of one group, or of one media file, stay together.

    With three or more groups every split gets at least one; two give train and test.
    """
    # Windows of one recording count as one unit, or the same motion would be on both sides.
    units = sorted({_unit(row) for row in rows})
    random.Random(seed).shuffle(units)
    n = len(units)
    held_out = max(1, round(0.1 * n))
    n_test = held_out if n > 1 else 0
    n_val = held_out if n > 2 else 0
    names = ["test"] * n_test + ["val"] * n_val + ["train"] * (n - n_test - n_val)
    split_of = dict(zip(units, names, strict=True))
    return [replace(row, split=split_of[_unit(row)]) for row in rows]


def _unit(row: Row) -> str:
    return f"file {row.path}" if row.group is None else f"group {row.group}"


def check_leaks(rows: Sequence[Row], card: Path) -> None:
    """Refuse a manifest whose splits share a group or a piece of media.

    The same file, or a byte-identical copy, may be in two splits only as windows (``start`` to
    ``end``) that do not overlap.

    Raises:
        ManifestError: naming the card, and the two rows.
    """
    first_of_group: dict[str, Row] = {}
    windows: dict[str, list[Row]] = defaultdict(list)
    canonical = _one_path_per_content(rows)
    for row in rows:
        if row.group is not None:
            other = first_of_group.setdefault(row.group, row)
            if other.split != row.split:
                raise _leak(card, row, other, f"group {row.group!r}")
        windows[canonical.get(str(row.path), str(row.path))].append(row)
    for path, sharing in windows.items():
        if len({row.split for row in sharing}) > 1:
            _check_windows(card, path, sharing)


def _check_windows(card: Path, path: str, rows: list[Row]) -> None:
    """Sweep over windows by start; an earlier one of another split must have ended."""
    latest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r.start or 0.0, _end(r))):
        for split, other in latest.items():
            if split != row.split and _end(other) > (row.start or 0.0):
                raise _leak(card, row, other, f"the content of {Path(path).name}")
        if row.split not in latest or _end(row) > _end(latest[row.split]):
            latest[row.split] = row


def _end(row: Row) -> float:
    return float("inf") if row.end is None else row.end


def _one_path_per_content(rows: Sequence[Row]) -> dict[str, str]:
    """Map each local file that has a byte-identical copy in another split to one of them."""
    splits_of: dict[Path, set[str]] = defaultdict(set)
    for row in rows:
        if isinstance(row.path, Path):
            splits_of[row.path].add(row.split)
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in splits_of:
        if path.is_file():  # a missing file is a bad sample when it is read, not a leak
            by_size[path.stat().st_size].append(path)
    same: dict[str, str] = {}
    for paths in by_size.values():
        # Reading files is the dear part: only sizes that two splits have in common need it.
        if len(paths) > 1 and len(set().union(*(splits_of[p] for p in paths))) > 1:
            first: dict[str, str] = {}
            for path in paths:
                same[str(path)] = first.setdefault(sha256_of(path), str(path))
    return same


def _leak(card: Path, row: Row, other: Row, what: str) -> ManifestError:
    return ManifestError(
        str(card),
        expected="splits that share no media and no group",
        got=f"{what} in row {other.id!r} ({other.split}) and in row {row.id!r} ({row.split})",
        do="Remove one of the two rows, or put both in the same split.",
    )
