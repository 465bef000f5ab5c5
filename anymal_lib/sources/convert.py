"""Turn a source of the paper, as the user fetched it, into an ordinary manifest.

    python -m anymal_lib.sources.convert clotho --from ~/clotho
    python -m anymal_lib.sources.convert ego4d --from ~/ego4d/v2 --to ~/manifests/ego4d

What is lost on the way (dead links, missing clips, recordings too short) is counted by reason in
``report.json`` beside the count that the paper trained on, and named in ``lost.jsonl``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from anymal_lib.assets import sha256_of
from anymal_lib.errors import AnyMALError, ManifestError
from anymal_lib.manifest import Card, load_card
from anymal_lib.rows import PATHS_KEPT, checked_row, refusal
from anymal_lib.sources.catalogue import converted_card, paper_card
from anymal_lib.sources.reading import Item, Lost, Shard, SourceFolder, how_to_get
from anymal_lib.sources.row_writer import RowWriter


@dataclass(frozen=True)
class ConversionReport:
    """What became of a source's records.

    Attributes:
        name: of the source.
        card: the manifest's card.
        paper: samples that the paper trained on, as it states them; None where it does not.
        records: annotated samples in the folder; ``ok`` of them became rows.
        splits: rows of each split.
        lost: reason -> records.
    """

    name: str
    card: str
    paper: int | None
    records: int
    ok: int
    splits: dict[str, int]
    lost: dict[str, int]

    def __str__(self) -> str:
        lines = [("in the paper", self.paper), ("records here", self.records), ("ok", self.ok)]
        lines += [(f"ok, {split}", rows) for split, rows in self.splits.items()]
        lines += sorted(self.lost.items(), key=lambda item: -item[1])
        width = max(len(str(label)) for label, _ in lines)
        counts = (f"{'not stated' if n is None else format(n, ',')}" for _, n in lines)
        table = (f"{label:<{width}}  {n:>13}" for (label, _), n in zip(lines, counts, strict=True))
        return "\n".join([self.name, *table, self.card])


def convert(
    name: str, source_folder: str | Path, target_folder: str | Path | None = None
) -> ConversionReport:
    """Read a source's own files and write a manifest; media stay where they are.

    Args:
        name: of a source (``laion-2b-cat``, ``ego4d``, ...), or the path of a card with a reader.
        source_folder: what the source's tool fetched: annotations at any depth, media too.
        target_folder: gets card, rows, ``report.json`` and ``lost.jsonl``, and the media that a
            reader writes (Ego4D's motion). None is the usual place, where profiles find it.

    Raises:
        ManifestError: no such source, its files are missing (the message says how to get them
            and what to sign) or in another format, or no record became a row.
    """
    card = load_card(name) if str(name).endswith(".yaml") else paper_card(name)
    reader = _reader(card)
    source = SourceFolder(source_folder, card)
    target = _fresh_target(card, source, target_folder or converted_card(card.name).parent)
    media = target if getattr(reader, "WRITES_MEDIA", False) else source.path
    with RowWriter(target) as writer:
        items = _checked(card, media, _in_format(card, reader.read(source, target)))
        shards, lost = _write_items(items, writer, target)
        report = _report(card, target, writer.counts, shards, lost)
        counts = {key: value for key, value in asdict(report).items() if key != "card"}
        _replace(target / "report.json", json.dumps(counts, indent=2) + "\n")
        if not report.ok:
            do = f"See {target / 'report.json'} for the reasons. {how_to_get(card)}"
            raise refusal(source.path, "at least one usable record", f"{report.records} lost", do)
        fields = _card_fields(card, source, writer.finish(), shards)
    fields["media_folder"] = Path(os.path.relpath(media, target)).as_posix()
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    _replace(target / "card.yaml", text)
    return report


def _fresh_target(card: Card, source: SourceFolder, folder: str | Path) -> Path:
    """The target folder, made, without the card of an earlier conversion."""
    target = Path(folder).expanduser().resolve()
    if not source.path.is_dir():
        raise refusal(source.path, f"a folder with {card.name}", "no folder", how_to_get(card))
    if target.is_relative_to(source.path):  # or its files would pass for the source's own
        do = "Name another folder with --to."
        raise refusal(target, f"a folder outside {source.path}", "one inside", do)
    target.mkdir(parents=True, exist_ok=True)
    (target / "card.yaml").unlink(missing_ok=True)
    return target


def _report(
    card: Card, target: Path, rows: dict[str, int], shards: list[Shard], lost: dict[str, int]
) -> ConversionReport:
    splits = dict(sorted(rows.items()))
    for shard in shards:
        splits[shard.split] = splits.get(shard.split, 0) + shard.rows
    ok = sum(splits.values())
    return ConversionReport(
        name=card.name,
        card=str(target / "card.yaml"),
        paper=card.fields.get("paper_count"),
        records=ok + sum(lost.values()),
        ok=ok,
        splits=splits,
        lost=lost,
    )


def _reader(card: Card) -> ModuleType:
    name = f"anymal_lib.sources.formats.{card.fields.get('reader')}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        expected = "a card with a `reader` out of anymal_lib/sources/formats"
        raise refusal(card.path, expected, repr(card.fields.get("reader"))) from error


def _write_items(
    items: Iterator[Item], writer: RowWriter, target: Path
) -> tuple[list[Shard], dict[str, int]]:
    """Rows to the writer, lost records to ``lost.jsonl``; returns shards and counts by reason."""
    shards: list[Shard] = []
    lost: dict[str, int] = {}
    partial = target / f"lost.jsonl.partial-{os.getpid()}"
    try:
        with partial.open("w", encoding="utf-8") as file:
            for item in items:
                if isinstance(item, Lost):
                    lost[item.reason] = lost.get(item.reason, 0) + 1
                    file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
                elif isinstance(item, Shard):
                    shards.append(item)
                else:
                    writer.write(item)
        os.replace(partial, target / "lost.jsonl")
    finally:
        partial.unlink(missing_ok=True)
    return shards, dict(sorted(lost.items()))


def _in_format(card: Card, items: Iterator[Item]) -> Iterator[Item]:
    """Items of a reader; a record that is not in the source's format is refused by name."""
    try:
        yield from items
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        expected = f"records in the format of anymal_lib/sources/formats/{card.fields['reader']}.py"
        raise ManifestError(
            card.name,
            expected=expected,
            got=f"{type(error).__name__}: {error}",
            do="Compare the files with the schema there; another release may differ.",
        ) from error


def _checked(card: Card, media: Path, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, where rows that break the manifest's contract are lost: one would make
    the whole manifest unreadable."""
    inside: dict[str, Path] = {}
    for item in items:
        if isinstance(item, dict):
            if len(inside) > PATHS_KEPT:
                inside.clear()
            try:
                checked_row(item["id"], item, media, card.modality, inside)
            except ManifestError as error:
                yield Lost(item["id"], f"no valid row: {error.expected}")
                continue
        yield item


def _card_fields(
    card: Card, source: SourceFolder, files: list[dict[str, Any]], shards: Sequence[Shard]
) -> dict[str, Any]:
    """The new card: the source's description, the files with checksums, and where it came from."""
    ours = ("how_to_get", "agreement", "tool", "reader", "files", "paper_count")
    fields = {key: value for key, value in card.fields.items() if key not in ours}
    fields["source"] = "webdataset" if shards else "local"
    if files:
        fields["rows"] = [entry["path"] for entry in files]
        fields["files"] = files
    if shards:
        fields["shards"] = [
            {**asdict(shard), "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for shard in shards
            if (path := source.path / shard.path)
        ]
    fields["converted"] = {
        "reader": card.fields["reader"],
        "from_card": sha256_of(card.path),
        "annotations": [
            {"path": name, "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for name, path in sorted(source.opened.items())
            if not shards  # they are listed above
        ],
    }
    return fields


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one source from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anymal_lib.sources.convert")
    parser.add_argument("name", help="a source of the paper, or the path of a card")
    parser.add_argument("--from", dest="source", required=True, help="folder that was fetched")
    parser.add_argument("--to", dest="target", help="folder of the manifest; default: the cache")
    asked = parser.parse_args(arguments)
    try:
        report = convert(asked.name, asked.source, asked.target)
    except AnyMALError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
