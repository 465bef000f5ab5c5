"""What every reader of a source shares: the user's download folder, and what is lost in it.

A reader yields items: a row (a mapping with the fields of `anymal_lib.rows.Row`), a `Shard` of
many rows, or a `Lost` record. Lost records are counted, never fatal; annotation files that are
missing or in another format are refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anymal_lib.manifest import Card
from anymal_lib.rows import refusal

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a"),
    "imu": (".csv",),
    "video": (".mp4", ".webm", ".mkv", ".avi"),
}
# What files of these kinds begin with; a web page saved under such a name does not.
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF|fLaC|OggS|ID3|\xff[\xe2-\xff]|.{4}(?:ftyp|moov|mdat|free|skip|wide)|\x1aE\xdf\xa3",
    re.DOTALL,
)
_YT_DLP = re.compile(r"^ERROR: \[youtube\] ([\w-]{11}): (.+)$")
_HELD_OUT = 100  # one group in this many is the validation split, and one the test split


@dataclass(frozen=True)
class Lost:
    """A record of the source that gives no row, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """An archive of many samples, by its path in the source's folder."""

    path: str
    split: str
    rows: int


Item = dict[str, Any] | Lost | Shard


class SourceFolder:
    """A folder into which the user fetched a source, in the source's own files.

    Attributes:
        path: the folder.
        card: the source's card.
        opened: annotation files read so far, by their path in the folder.
    """

    def __init__(self, path: str | Path, card: Card) -> None:
        self.path = Path(path).expanduser().resolve()
        self.card = card
        self.opened: dict[str, Path] = {}
        self._files: dict[str, list[str]] | None = None
        self._dead: dict[str, str] | None = None

    def annotations(self, *patterns: str) -> list[Path]:
        """Files at any depth whose name matches one of the patterns, in order of their paths.

        Raises:
            ManifestError: there are none; the message says how to get the source.
        """
        found = sorted({p for pattern in patterns for p in self.path.rglob(pattern)})
        if not found:
            expected = f"the source's own files ({' or '.join(patterns)}) in it"
            got = "none of them" if self.path.is_dir() else "no such folder"
            raise refusal(self.path, expected, got, how_to_get(self.card))
        for file in found:
            self.opened[file.relative_to(self.path).as_posix()] = file
        return found

    def media(self, *names: str) -> str | Lost:
        """Path in the folder of the first media file with one of these names, or why there is none.

        Args:
            names: without suffix; the last parts of a path (``test/12/image``) or a name alone.
        """
        for name in names:
            *above, stem = name.split("/")
            for file in self._index().get(stem, ()):
                if above and file.split("/")[:-1][-len(above) :] != above:
                    continue
                problem = _problem(self.path / file)
                return file if problem is None else Lost(names[0], problem)
        return Lost(names[0], "missing file")

    def clip(self, youtube_id: str, *names: str) -> str | Lost:
        """As `media`, for a clip of a video; a missing one has the reason that yt-dlp logged.

        yt-dlp's messages are looked for in ``*.log`` files of the folder.
        """
        found = self.media(*names, youtube_id)
        if isinstance(found, Lost) and found.reason == "missing file":
            return replace(found, reason=self._dead_clips().get(youtube_id, found.reason))
        return found

    def _index(self) -> dict[str, list[str]]:
        """Name without suffix -> files of the card's modality; of its own size, so made once."""
        if self._files is None:
            self._files = {}
            for folder, folders, files in os.walk(self.path):
                folders.sort()
                inside = Path(folder).relative_to(self.path)
                for name in sorted(files):
                    stem, suffix = os.path.splitext(name)
                    if suffix.lower() in SUFFIXES[self.card.modality]:
                        self._files.setdefault(stem, []).append((inside / name).as_posix())
        return self._files

    def _dead_clips(self) -> dict[str, str]:
        if self._dead is None:
            self._dead = {}
            for log in sorted(self.path.rglob("*.log")):
                with log.open(encoding="utf-8", errors="replace") as lines:
                    for line in lines:
                        if found := _YT_DLP.match(line.strip()):
                            self._dead[found[1]] = dead_link(found[2])
        return self._dead


def dead_link(message: str) -> str:
    """A fetch tool's message as a reason to count by: its status code, or its first sentence."""
    if status := re.search(r"HTTP Error (\d{3})", message):
        return f"dead link: HTTP {status[1]}"
    return f"dead link: {re.split(r'[.;]', message.strip())[0][:60]}"


def _problem(file: Path) -> str | None:
    """Why a media file cannot be used, as far as its first bytes tell."""
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError:
        return "unreadable"
    if not head:
        return "empty file"
    known = _HEADS.match(head) or file.suffix == ".csv"
    return None if known else "unreadable: not a file of its kind"


def how_to_get(card: Card) -> str:
    """What to sign, how to fetch, how to convert: the way on from a card to a manifest."""
    fields = card.fields
    sign = f"It needs an agreement: {fields['agreement']} " if fields.get("agreement") else ""
    return (
        f"{sign}{fields.get('how_to_get', '')} Then run: python -m anymal_lib.sources.convert "
        f"{card.name} --from <that folder>".replace("\n", " ")
    )


def read_json(file: Path) -> Any:
    """A whole JSON file.

    Raises:
        ManifestError: it is no JSON in UTF-8.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise refusal(file, "a JSON file", str(error), "Fetch it again.") from error


def json_members(file: Path) -> Iterator[tuple[str, Any]]:
    """Key and value of each member of one large JSON object, one at a time.

    Raises:
        ManifestError: it is no JSON object in UTF-8.
    """
    import ijson

    try:
        with file.open("rb") as opened:
            yield from ijson.kvitems(opened, "", use_float=True)
    except (OSError, ValueError, ijson.JSONError) as error:
        raise refusal(file, "one JSON object", str(error), "Fetch it again.") from error


def read_csv(
    file: Path, columns: tuple[str, ...] | None = None, *, encoding: str = "utf-8-sig"
) -> Iterator[dict[str, str]]:
    """Rows of a CSV as column -> cell; blanks after commas are skipped.

    Args:
        file: the CSV.
        columns: names, for a file without a header; otherwise its header has to hold all that a
            reader asks for.
        encoding: of the text.

    Raises:
        ManifestError: it is no CSV in that encoding.
    """
    try:
        with file.open(encoding=encoding, newline="") as lines:
            yield from csv.DictReader(lines, columns, skipinitialspace=True)
    except (OSError, ValueError, csv.Error) as error:
        raise refusal(file, f"a CSV file in {encoding}", str(error), "Fetch it again.") from error


def hashed_split(group: str) -> str:
    """Our split where a source has none: a group's, by its SHA-256; 98 / 1 / 1 percent.

    A function of the group alone, so it holds for any part of a source and needs no memory.
    """
    draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) % _HELD_OUT
    return {0: "test", 1: "val"}.get(draw, "train")
