"""Clotho: sounds of Freesound, 15 to 30 s, with five captions each.

Schema: ``clotho_captions_<part>.csv`` with ``file_name,caption_1..caption_5`` and
``clotho_metadata_<part>.csv`` (Latin-1) with ``file_name,keywords,sound_id,sound_link,
start_end_samples,manufacturer,license``; the parts are development, validation and evaluation,
and the sounds lie in a folder of the part's name, each under a licence of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_csv

_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per sound with its captions and its licence, official split."""
    licences = {
        (_part(file), row["file_name"].strip()): row["license"].strip()
        for file in source.annotations("clotho_metadata_*.csv")
        for row in read_csv(file, encoding="latin-1")
    }
    for file in source.annotations("clotho_captions_*.csv"):
        part = _part(file)
        for row in read_csv(file):
            name = row["file_name"].strip()
            found = source.media(f"{part}/{Path(name).stem}")
            if isinstance(found, Lost):
                yield Lost(f"{part}/{name}", found.reason)
                continue
            yield {
                "id": f"{part}/{name}",
                "split": _SPLITS[part],
                "audio": found,
                "text": [row[f"caption_{k}"] for k in range(1, 6)],
                "licence": licences.get((part, name)) or None,
            }


def _part(file: Path) -> str:
    return file.stem.rsplit("_", 1)[1]
