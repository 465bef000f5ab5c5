"""A corpus in a file: JSON Lines, or CSV with a head line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anymal_lib.errors import InputError
from anymal_lib.retrieval.corpus import Entry


def read_entries(path: str | Path, *, title: str = "title", text: str = "text") -> list[Entry]:
    """The entries of a `.jsonl` or `.csv` file in UTF-8; `title` and `text` name its columns.

    Raises `InputError` naming the file, the line and what is missing there.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".csv": _csv}
    if path.suffix not in readers:
        raise _refusal(str(path), f"a file that ends in {' or '.join(readers)}", path.name)
    entries = []
    for where, fields in readers[path.suffix](path):
        for column in (title, text):
            if column not in fields:
                raise _refusal(where, f"a column {column!r}", f"only {sorted(map(str, fields))}")
            if not isinstance(fields[column], str) or not fields[column].strip():
                raise _refusal(where, f"some text in {column!r}", repr(fields[column]))
        entries.append(Entry(fields[title].strip(), fields[text].strip()))
    return entries


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_content(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _refusal(where, "one JSON object", f"{line[:60]!r}") from error
        if not isinstance(fields, dict):
            raise _refusal(where, "one JSON object", f"{line[:60]!r}")
        yield where, fields


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = csv.DictReader(io.StringIO(_content(path)))
    try:
        for fields in lines:
            yield f"{path}, line {lines.line_num}", fields
    except csv.Error as error:
        raise _refusal(f"{path}, line {lines.line_num}", "a line of CSV", str(error)) from error


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _refusal(str(path), "a file of texts in UTF-8", str(error)) from error


def _refusal(where: str, expected: str, got: str) -> InputError:
    do = "Correct the file, or name its columns: read_entries(path, title=..., text=...)."
    return InputError(where, expected=expected, got=got, do=do)
