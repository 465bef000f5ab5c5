"""Manifests: one folder with a card and its rows, for our data and for a user's own.

A card (YAML) needs ``name`` and ``modality``; its rows are JSON Lines (or Parquet) beside it.
A row has ``id``, ``split``, one of image / audio / imu / video, ``text``, and optional fields.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from anymal_lib.assets import sha256_of
from anymal_lib.modalities import MODALITIES
from anymal_lib.rows import (
    ALIASES,
    SEE,
    SPLITS,
    Row,
    inside_folder,
    read_rows,
    refusal,
)
from anymal_lib.splits import check_leaks, seeded_splits

EVALUATE = "evaluate"  # a card's stage: a benchmark, on which nothing is trained


@dataclass(frozen=True)
class Card:
    """What a data source is. ``fields`` is the whole YAML mapping, licence and citation too."""

    path: Path
    name: str
    modality: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A card with its rows; ``checksum`` is the SHA-256 over the card and the row files."""

    card: Card
    rows: tuple[Row, ...]
    checksum: str

    @property
    def modality(self) -> str:
        """The one modality of all rows."""
        return self.card.modality

    def split(self, name: str) -> list[Row]:
        """Rows of ``train``, ``val`` or ``test``, in file order; empty if there are none.

        Raises:
            ManifestError: no such split name.
        """
        if name not in SPLITS:
            raise refusal(self.card.path, f"a split out of {SPLITS}", repr(name))
        return [row for row in self.rows if row.split == name]

    @cached_property
    def fact_values(self) -> dict[str, list[str]]:
        """Attribute name -> its sorted distinct values over all rows."""
        values: dict[str, set[str]] = {}
        for row in self.rows:
            for name, words in row.facts.items():
                values.setdefault(name, set()).add(words)
        return {name: sorted(words) for name, words in values.items()}


def load_card(path: str | Path) -> Card:
    """Read a card without its rows.

    Raises:
        ManifestError: it is missing, not YAML, or lacks ``name`` or a known ``modality``.
    """
    path = Path(path).expanduser().resolve()
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise refusal(path, "a card in YAML", f"{type(error).__name__}: {error}") from error
    if not isinstance(fields, dict):
        raise refusal(path, "a card in YAML with `name: value` lines", type(fields).__name__)
    for key in ("name", "modality"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise refusal(path, f"a field `{key}` with text", repr(fields.get(key)))
    if fields["modality"] not in MODALITIES:
        raise refusal(path, f"a modality out of {tuple(MODALITIES)}", repr(fields["modality"]))
    return Card(path=path, name=fields["name"], modality=fields["modality"], fields=fields)


def load_manifest(path_to_card: str | Path, *, seed: int = 0) -> Manifest:
    """Read a card and its rows, and refuse what cannot be trained and evaluated on.

    Args:
        path_to_card: the card; paths in it and in the rows are relative to its folder.
        seed: of the 80 / 10 / 10 split, used only where no row says its split.

    Raises:
        ManifestError: naming the file and, for a row, the line. Media files that are missing
            are no error here: they are bad samples when they are read.
    """
    card = load_card(path_to_card)
    folder, media = card.path.parent, media_folder(card)
    digest = hashlib.sha256(card.path.read_bytes())
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for file in row_files(card):
        digest.update(f"\0{file.relative_to(folder).as_posix()}\0{sha256_of(file)}".encode())
        for where, row in read_rows(file, media, card.modality):
            if row.id in seen:
                raise refusal(where, "an id of its own", f"{row.id!r}, the id of {seen[row.id]}")
            seen[row.id] = where
            rows.append(row)
    without = [row.id for row in rows if not row.split]
    if len(without) == len(rows):
        rows = seeded_splits(rows, seed)
    elif without:
        raise refusal(card.path, "a split in every row or in none", f"row {without[0]!r} without")
    # Nothing is trained on a benchmark, and its official splits stay as they are.
    if card.fields.get("stage") != EVALUATE:
        if not any(row.split == "train" for row in rows):
            raise refusal(card.path, "rows whose split is train", "an empty training split")
        check_leaks(rows, card.path)
    return Manifest(card=card, rows=tuple(rows), checksum=digest.hexdigest())


def media_folder(card: Card) -> Path:
    """Where the rows' media paths start: the card's folder, or the ``media_folder`` it names.

    Raises:
        ManifestError: the field is no path.
    """
    name = card.fields.get("media_folder", ".")
    if not isinstance(name, str) or not name or "\0" in name:
        raise refusal(card.path, "a folder in `media_folder`", repr(name))
    return (card.path.parent / name).resolve()


def write_manifest(
    folder: str | Path, card: dict[str, Any], rows: Iterable[dict[str, Any]]
) -> Path:
    """Write ``<split>.jsonl`` files and, last, ``card.yaml`` with their checksums; return it.

    Every file is replaced in one step. Rows without a split go to ``rows.jsonl``.

    Raises:
        ManifestError: a row has a split that is not train, val or test.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for row in rows:
        split = row.get("split")
        if split not in (*SPLITS, None):
            raise refusal(folder, f"a split out of {SPLITS}", repr(split))
        name = f"{split or 'rows'}.jsonl"
        lines.setdefault(name, []).append(json.dumps(row, ensure_ascii=False) + "\n")
    files = []
    for name, content in lines.items():
        data = "".join(content).encode()
        _replace(folder / name, data)
        digest = hashlib.sha256(data).hexdigest()
        files.append({"path": name, "sha256": digest, "bytes": len(data), "rows": len(content)})
    whole = {**card, "rows": list(lines), "files": files}
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=100)
    _replace(folder / "card.yaml", text.encode())
    return folder / "card.yaml"


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_bytes(data)
    os.replace(partial, path)


def row_files(card: Card) -> list[Path]:
    """The card's row files, inside its folder, there, and with the checksums it lists.

    Raises:
        ManifestError: naming what is missing or changed.
    """
    folder, listed = card.path.parent, card.fields.get("files") or []
    if not isinstance(listed, list) or not all(isinstance(f, dict) and "path" in f for f in listed):
        raise refusal(card.path, "`files` as a list with a `path` each", repr(listed)[:80])
    if card.fields.get("shards"):
        do = "Read it with anymal_lib.stream.RowStream, which holds a few rows at a time."
        raise refusal(card.path, "rows beside the card", "archives with rows inside", do)
    names = card.fields.get("rows")
    if names is None:
        names = [f["path"] for f in listed if str(f["path"]).endswith((".jsonl", ".parquet"))]
        names = names or [
            p.name for p in sorted(folder.glob("*.jsonl")) if p.stem in (*ALIASES, "rows")
        ]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        do = f"{SEE} For a source to be fetched, call anymal_lib.sources.prepare first."
        raise refusal(card.path, "`rows: <file>.jsonl`, or rows beside the card", repr(names), do)
    files = [inside_folder(folder, name, card.path) for name in names]
    for file in files:
        if not file.is_file():
            raise refusal(card.path, f"the row file {file.name}", "no such file")
    for entry in listed:
        file = inside_folder(folder, str(entry["path"]), card.path)
        if entry.get("sha256") and file.is_file() and sha256_of(file) != entry["sha256"]:
            expected = f"SHA-256 {entry['sha256']} as the card says"
            raise refusal(file, expected, f"SHA-256 {sha256_of(file)}", "Fetch or write it again.")
    return files
