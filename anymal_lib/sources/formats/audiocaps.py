"""AudioCaps: captions written by people for ten-second clips of AudioSet.

Schema: ``train.csv``, ``val.csv``, ``test.csv`` with ``audiocap_id,youtube_id,start_time,caption``;
start in seconds; a clip of val and test stands in five rows, one per caption. Clips are named by
``audiocap_id`` (audiocaps-download) or ``<youtube_id>_<start_time>`` (aac-datasets).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_csv


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per clip with all its captions, official split."""
    for file in source.annotations("train.csv", "val.csv", "test.csv"):
        clips: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in read_csv(file):
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
        for (video, start), rows in clips.items():
            numbers = (row["audiocap_id"] for row in rows)
            found = source.clip(video, f"{video}_{start}", *numbers)
            if isinstance(found, Lost):
                yield Lost(f"{video}-{start}", found.reason)
                continue
            yield {
                "id": f"{video}-{start}",
                "split": file.stem,
                "audio": found,
                "text": [row["caption"] for row in rows],
                "group": video,
            }
