"""AudioSet: ten-second clips of YouTube with labels for what is heard.

Schema: ``balanced_train_segments.csv``, ``unbalanced_train_segments.csv``, ``eval_segments.csv``:
three comment lines, then ``YTID, start_seconds, end_seconds, positive_labels``, the labels as one
quoted cell of identifiers; and ``class_labels_indices.csv``: ``index,mid,display_name``. Clips are
named by their video (``<YTID>.wav``), or with start and end in milliseconds
(``<YTID>_30000_40000.flac``), and hold the ten seconds alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_csv

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per clip; eval is the test split.

    AudioSet has no captions, and the paper does not say what it made of the labels. Ours: their
    names in a list, ``Speech, Dog``.
    """
    (classes, *_) = source.annotations("class_labels_indices.csv")
    names = {row["mid"]: row["display_name"] for row in read_csv(classes)}
    for file in source.annotations("*_segments.csv"):
        split = "test" if file.stem.startswith("eval") else "train"
        for row in read_csv(file, _COLUMNS):
            if not row["YTID"].startswith("#"):  # ids may begin with "-", never with this
                yield _row(source, row, split, names)


def _row(source: SourceFolder, row: dict[str, str], split: str, names: dict[str, str]) -> Item:
    video = row["YTID"]
    start, end = float(row["start_seconds"]), float(row["end_seconds"])
    found = source.clip(video, f"{video}_{start * 1000:.0f}_{end * 1000:.0f}")
    name = f"{video}-{start:g}"
    if isinstance(found, Lost):
        return Lost(name, found.reason)
    labels = [names[label] for label in row["positive_labels"].split(",")]
    return {
        "id": name,
        "split": split,
        "audio": found,
        "text": ", ".join(labels),
        "group": video,
    }
