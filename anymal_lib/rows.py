"""Rows of a manifest: what one item is, and how JSON Lines and Parquet become checked rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from anymal_lib.errors import ManifestError
from anymal_lib.modalities import MODALITIES

SPLITS = ("train", "val", "test")
ALIASES = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("validation", "valid", "dev"), "val"),
    "training": "train",
    "testing": "test",
}
PATHS_KEPT = 10_000  # resolved paths that are remembered at a time
_BATCH_ROWS = 1_000
SEE = "See docs/data.md for a card and a row that work."


@dataclass(frozen=True)
class Row:
    """One item of a manifest.

    Attributes:
        path: the media file, absolute; a URL stays a string.
        text: one or several captions; empty for a question with answers, which is evaluated on.
        facts: attribute name -> the words by which a caption states it.
        group: what splits must not share, for example the person.
        options: what a multiple-choice question offers, in order; its answers are among them.
        start, end: seconds from the beginning of the file; None is the whole file.
        rate: samples per second, where the file does not say.
        gyro_unit: "rad/s" (what None means) or "deg/s", for motion.
        boxes, objects: as they stand in the row.
        content: the media file's bytes, where the row comes out of a stream of archives.
    """

    id: str
    split: str
    modality: str
    path: Path | str
    text: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    rate: float | None = None
    gyro_unit: str | None = None
    licence: str | None = None
    boxes: tuple[Any, ...] = ()
    objects: tuple[Any, ...] = ()
    content: bytes | None = field(default=None, repr=False)


def read_rows(
    file: Path, folder: Path, modality: str, *, group: int | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield ("file, line n", row) for every row of a file, holding a few of them at a time.

    A row without a split takes it from a file named after one (``train.jsonl``), or has "".

    Args:
        file: JSON Lines, or Parquet by its suffix.
        folder: where media paths start, resolved; they stay in it.
        modality: the card's; every row must have this one and no other.
        group: of a Parquet file, this row group only.

    Raises:
        ManifestError: naming the file and the line.
    """
    file_split = ALIASES.get(file.stem.lower(), "")
    inside: dict[str, Path] = {}  # many rows share a file; resolving a path costs system calls
    is_parquet = file.suffix == ".parquet"
    for where, fields in _parquet(file, group) if is_parquet else _json_lines(file):
        if len(inside) > PATHS_KEPT:
            inside.clear()
        row = checked_row(where, fields, folder, modality, inside)
        yield where, row if row.split else replace(row, split=file_split)


def refusal(where: Path | str, expected: str, got: str, do: str = SEE) -> ManifestError:
    """Build the error of a manifest: where, what was expected, what came, what to do."""
    return ManifestError(str(where), expected=expected, got=got, do=do)


def inside_folder(folder: Path, name: str, where: Path | str) -> Path:
    """Resolve a path of the card or a row; it may not leave the card's folder."""
    try:
        path = (folder / name).resolve()
    except (ValueError, OSError, RuntimeError) as error:
        raise refusal(where, "a path", f"{name!r} ({error})") from error
    if Path(name).is_absolute() or not path.is_relative_to(folder):
        raise refusal(where, f"a relative path that stays in {folder}", f"{name!r}")
    return path


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line n", object) for the lines that are not blank; nulls are left out."""
    empty = True
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        empty = False
        where = f"{file}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise refusal(where, "one JSON object", f"{line[:60]!r} ({error})") from error
        if not isinstance(fields, dict):
            raise refusal(where, "one JSON object", f"{line[:60]!r}")
        yield where, {key: value for key, value in fields.items() if value is not None}
    if empty:
        raise refusal(file, "at least one row", "an empty file")


def _lines(file: Path) -> Iterator[str]:
    try:
        # Lines end at "\n" alone: JSON allows the other line separators inside a string.
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            yield from lines
    except (OSError, ValueError) as error:
        raise refusal(file, "JSON Lines in UTF-8", str(error)) from error


def parquet_module(file: Path) -> ModuleType:
    """`pyarrow.parquet`; `ManifestError` naming the file where it cannot be imported."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        do = "Install one that fits (pip install pyarrow), or use JSON Lines."
        raise refusal(file, "pyarrow, for Parquet", str(error), do) from error
    return pyarrow.parquet


def open_parquet(file: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, its footer read and nothing else.

    Raises:
        ManifestError: it is no Parquet file, or pyarrow is not there.
    """
    try:
        return parquet_module(file).ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        raise refusal(file, "a Parquet file", str(error)) from error


def _parquet(file: Path, group: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same for Parquet, where a column without a value is a null."""
    with open_parquet(file) as table:
        groups = range(table.num_row_groups) if group is None else range(group, group + 1)
        number = sum(table.metadata.row_group(k).num_rows for k in range(groups.start))
        if not table.metadata.num_rows:
            raise refusal(file, "at least one row", "an empty file")
        try:
            for batch in table.iter_batches(_BATCH_ROWS, row_groups=list(groups)):
                for fields in batch.to_pylist():
                    number += 1
                    if isinstance(fields.get("facts"), dict):  # a struct has every key everywhere
                        facts = fields["facts"].items()
                        fields["facts"] = {k: v for k, v in facts if v is not None}
                    present = {k: v for k, v in fields.items() if v is not None}
                    yield f"{file}, row {number}", present
        except (OSError, ValueError) as error:
            raise refusal(file, "a whole Parquet file", str(error)) from error


def checked_row(
    where: str, fields: dict[str, Any], folder: Path, modality: str, inside: dict[str, Path]
) -> Row:
    """Check the fields of one row; ``inside`` remembers paths that were resolved already.

    Raises:
        ManifestError: naming ``where``.
    """
    found = [name for name in MODALITIES if name in fields]
    if found != [modality]:
        raise refusal(where, f"one modality, `{modality}` as in the card", f"{found or 'none'}")
    name = fields[modality]
    if not isinstance(name, str) or not name:
        raise refusal(where, f"a path or URL in `{modality}`", repr(name))
    if not re.match(r"https?://", name) and name not in inside:
        inside[name] = inside_folder(folder, name, where)
    text, question, answers, options = _words_of(where, fields)
    start, end, rate = (_number(where, fields, key) for key in ("start", "end", "rate"))
    if end is not None and end <= (start or 0.0):
        raise refusal(where, "an `end` after the `start`", f"start {start}, end {end}")
    if rate == 0.0:
        raise refusal(where, "a `rate` above 0", "0")
    return Row(
        id=_words(where, fields, "id") or _missing(where, "id"),
        split=_split(where, fields),
        modality=modality,
        path=inside.get(name, name),
        text=text,
        facts=_facts(where, fields),
        group=_words(where, fields, "group"),
        question=question,
        answers=answers,
        options=options,
        start=start,
        end=end,
        rate=rate,
        gyro_unit=_words(where, fields, "gyro_unit"),
        licence=_words(where, fields, "licence"),
        boxes=_list(where, fields, "boxes"),
        objects=_list(where, fields, "objects"),
    )


def _words_of(
    where: str, fields: dict[str, Any]
) -> tuple[tuple[str, ...], str | None, tuple[str, ...], tuple[str, ...]]:
    """Captions, question, answers and options: captions, or a question with answers, or both."""
    text = _strings(where, fields, "text")
    question = _words(where, fields, "question")
    answers = _strings(where, fields, "answers" if "answers" in fields else "answer")
    options = _strings(where, fields, "options")
    asked = question is not None and any(answer.strip() for answer in answers)
    if (not text and not asked) or not all(caption.strip() for caption in text):
        expected = "`text` with one or several captions, or a `question` with `answers`"
        raise refusal(where, expected, repr(fields.get("text"))[:80])
    if options and (len(set(options)) < 2 or not set(answers) <= set(options)):
        raise refusal(
            where, "two or more `options`, the answers among them", f"{options}, {answers}"[:80]
        )
    return text, question, answers, options


def _missing(where: str, key: str) -> Any:
    raise refusal(where, f"a field `{key}`", "a row without it")


def _split(where: str, fields: dict[str, Any]) -> str:
    name = _words(where, fields, "split")
    if name is None:
        return ""
    if name.lower() not in ALIASES:
        raise refusal(where, f"a split out of {SPLITS}", repr(name))
    return ALIASES[name.lower()]


def _words(where: str, fields: dict[str, Any], key: str) -> str | None:
    """A field of text; whole numbers are taken as their digits, as ids often are."""
    value = fields.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise refusal(where, f"text in `{key}`", repr(value)[:80])


def _strings(where: str, fields: dict[str, Any], key: str) -> tuple[str, ...]:
    """A field of one text or a list of them (numbers, as in answers, become text)."""
    value = fields.get(key, [])
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in items):
        raise refusal(where, f"text, or a list of texts, in `{key}`", repr(value)[:80])
    return tuple(str(item) for item in items)


def _number(where: str, fields: dict[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1e15:  # also refuses NaN
        raise refusal(where, f"a number, 0 or more, in `{key}`", repr(value)[:80])
    return float(value)


def _facts(where: str, fields: dict[str, Any]) -> dict[str, str]:
    facts = fields.get("facts", {})
    good = isinstance(facts, dict) and all(isinstance(w, str) and w for w in facts.values())
    if not good:
        raise refusal(where, "`facts` as attribute: words", repr(facts)[:80])
    return facts


def _list(where: str, fields: dict[str, Any], key: str) -> tuple[Any, ...]:
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise refusal(where, f"a list in `{key}`", repr(value)[:80])
    return tuple(value)
