"""One rater's ratings on disk: a line of JSON for every click, never rewritten.

The first line names rater and study. A line counts once its newline is there: what a crash cut off
in the middle is ignored, and removed before the next line is written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from anymal_lib.errors import ConfigError, DataError
from anymal_lib.rating.questions import LEFT, RIGHT
from anymal_lib.rating.study import Study, Task

SUFFIX = ".jsonl"
RULE = "rule: "  # how the name of a rater begins that is a program
_LONGEST = 200  # bytes of a file's name


@dataclass(frozen=True)
class Rating:
    """One answer of a rater: points, or the better side of what was shown."""

    rater: str
    task: Task
    question: str
    value: int | str

    @property
    def winner(self) -> str | None:
        """The system behind the side that was preferred; None for a tie."""
        sides = {LEFT: self.task.shown[0], RIGHT: self.task.shown[-1]}
        return sides.get(str(self.value))

    @property
    def place(self) -> tuple[tuple[str, ...], str]:
        """What was asked: of these the last answer counts."""
        return self.task.key, self.question


def is_rule(rater: str) -> bool:
    """Is this rater a program?"""
    return rater.startswith(RULE)


def file_of(folder: Path, rater: str) -> Path:
    """A rater's file.

    Raises:
        ConfigError: the name is empty, too long or holds control characters.
    """
    name = quote(rater, safe=" ") + SUFFIX
    if not rater.strip() or not rater.isprintable() or len(name) > _LONGEST:
        raise ConfigError(
            "name of the rater",
            expected="some letters, not too many",
            got=repr(rater)[:80],
            do="Give the name or initials of who rates.",
        )
    return folder / name


def read(path: Path, study: Study, rater: str) -> list[Rating]:
    """The ratings of a rater that were not taken back, in the order of the clicks.

    Raises:
        DataError: the file belongs to another study or rater, or a line is damaged.
    """
    ratings: list[Rating] = []
    if not path.exists():
        return ratings
    for number, fields in enumerate(_lines(path), start=1):
        where = f"'{path.name}', line {number}"
        if number == 1:
            if fields != _header(study, rater):
                raise damaged(where, f"the start of {rater!r}'s ratings of this study", fields)
            continue
        rating = _rating(where, study, rater, fields)
        if "value" in fields:
            ratings.append(rating)
        else:
            _take_back(where, ratings, rating)
    return ratings


def _lines(path: Path) -> list[Any]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what has no newline yet does not count
    except OSError as error:
        raise damaged(f"'{path.name}'", "a file of ratings", error) from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            where = f"'{path.name}', line {number}"
            raise damaged(where, "one rating in JSON", line[:60]) from error
    return found


def _rating(where: str, study: Study, rater: str, fields: Any) -> Rating:
    try:
        task = Task(fields["item"], tuple(fields["shown"]))
        question = next(q for q in study.questions if q.name == fields["question"])
        known = task.item in study.by_id and sorted(task.shown) in [sorted(s) for s in study.shown]
        if "undone" in fields:
            good = known and fields["undone"] is True and "value" not in fields
        else:
            good = known and question.takes(fields["value"])
    except (KeyError, TypeError, AttributeError, StopIteration):
        good = False
    if not good:
        raise damaged(where, "a rating of this study", fields)
    return Rating(rater, task, question.name, fields.get("value", ""))


def _take_back(where: str, ratings: list[Rating], undone: Rating) -> None:
    for k in reversed(range(len(ratings))):
        if ratings[k].place == undone.place:
            del ratings[k]
            return
    raise damaged(where, "a rating before it is taken back", undone.place)


def append(path: Path, study: Study, rating: Rating, *, undone: bool = False) -> None:
    """Add a rating, or that it was taken back; on return it is on the disk.

    Raises:
        DataError: the file cannot be written.
    """
    fields = {"item": rating.task.item, "shown": rating.task.shown, "question": rating.question}
    fields |= {"undone": True} if undone else {"value": rating.value}
    try:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the same rater may have two pages open
            started = _cut_tail(file)
            lines = [fields] if started else [_header(study, rating.rater), fields]
            file.write(_json_lines(lines))
            file.flush()
            os.fsync(file.fileno())
        if not started:
            _sync_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"ratings in '{path.name}'",
            expected="a file that can be written",
            got=str(error),
            do="Make room or allow writing there, then rate again: this click is not saved.",
        ) from error


def _cut_tail(file: IO[bytes]) -> int:
    """Remove what a crash left after the last newline; returns the length of what stays."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        size = file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(size)
    return size


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(study: Study, rater: str) -> dict[str, Any]:
    return {"format": 1, "rater": rater, "study": study.fingerprint}


def _json_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def damaged(where: str, expected: str, got: object) -> DataError:
    """The error of a file of ratings that cannot be trusted."""
    return DataError(
        where,
        expected=expected,
        got=str(got)[:120],
        do="Repair or remove it; all lines before it are whole.",
    )
