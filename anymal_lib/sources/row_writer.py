"""Write any number of rows as a manifest: JSON Lines, or Parquet above 100,000 rows of a split.

Rows go to the disk as they come; the card is written last, so a manifest is whole or not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from anymal_lib.assets import sha256_of
from anymal_lib.rows import MODALITIES, parquet_module

PARQUET_ABOVE = 100_000  # rows
GROUP_ROWS = 10_000  # of a row group: what a stream shuffles as one piece

_TEXTS = ("text", "answers", "options")
_WORDS = ("id", "split", *MODALITIES, "question", "group", "licence")
_NUMBERS = ("start", "end", "rate")


class RowWriter:
    """Rows into ``<split>.jsonl`` or ``<split>.parquet`` of a folder; half files go at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, int] = {}
        self._open: dict[str, IO[str]] = {}

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for split, file in self._open.items():
            file.close()
            self._partial(split).unlink(missing_ok=True)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; it has a split.

        Raises:
            ManifestError: there are enough for Parquet, but no pyarrow.
        """
        split = row["split"]
        if split not in self._open:
            self._open[split] = self._partial(split).open("w", encoding="utf-8")
        self._open[split].write(json.dumps(row, ensure_ascii=False) + "\n")
        self.counts[split] = self.counts.get(split, 0) + 1
        if self.counts[split] == PARQUET_ABOVE + 1:
            parquet_module(self.folder / f"{split}.parquet")  # to fail now, not in hours

    def finish(self) -> list[dict[str, Any]]:
        """Put the files in place; returns path, SHA-256, bytes and rows of each, for the card."""
        entries = []
        for split in sorted(self._open):
            self._open[split].close()
            whole, final = self._partial(split), self.folder / f"{split}.jsonl"
            if self.counts[split] > PARQUET_ABOVE:
                final = final.with_suffix(".parquet")
                whole = _to_parquet(whole)
            os.replace(whole, final)
            final.with_suffix(".jsonl" if final.suffix == ".parquet" else ".parquet").unlink(
                missing_ok=True
            )
            entries.append(
                {
                    "path": final.name,
                    "sha256": sha256_of(final),
                    "bytes": final.stat().st_size,
                    "rows": self.counts[split],
                }
            )
        return entries

    def _partial(self, split: str) -> Path:
        return self.folder / f"{split}.jsonl.partial-{os.getpid()}"


def _to_parquet(lines: Path) -> Path:
    """The same rows as Parquet beside the JSON Lines, which are removed."""
    import pyarrow
    import pyarrow.parquet

    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in _WORDS]
        + [(name, texts) for name in _TEXTS]
        + [(name, pyarrow.float64()) for name in _NUMBERS]
    )
    target = lines.with_name(f"{lines.name}-parquet")
    with (
        lines.open(encoding="utf-8", newline="\n") as file,
        pyarrow.parquet.ParquetWriter(target, schema) as writer,
    ):
        for group in _groups(file):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
    lines.unlink()
    return target


def _groups(lines: IO[str]) -> Iterator[list[dict[str, Any]]]:
    group = []
    for line in lines:
        row = json.loads(line)
        # A column has one type: a single text becomes a list of one.
        row.update({k: [row[k]] for k in _TEXTS if isinstance(row.get(k), str)})
        group.append(row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group
