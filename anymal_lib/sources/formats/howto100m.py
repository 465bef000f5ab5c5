"""HowTo100M: instructional videos of YouTube with their spoken words.

Schema: ``raw_caption.json`` (or ``caption.json``, without stop words): one object,
``{video id: {"start": [s, ...], "end": [s, ...], "text": ["...", ...]}}``, several gigabytes; and
``HowTo100M_v1.csv``, which is not needed here. Videos are named by their id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, hashed_split, json_members


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per spoken segment with words in it.

    Our split: by the hash of the video, as the set has none. The raw captions are preferred:
    whole sentences are what a language model should say.
    """
    files = {file.name: file for file in source.annotations("raw_caption.json", "caption.json")}
    for video, spoken in json_members(files.get("raw_caption.json") or files["caption.json"]):
        found = source.clip(video)
        segments = zip(spoken["start"], spoken["end"], spoken["text"], strict=True)
        for number, (start, end, words) in enumerate(segments):
            name = f"{video}-{number}"
            if isinstance(found, Lost):
                yield Lost(name, found.reason)
            elif not str(words).strip():
                yield Lost(name, "no words")
            elif not end > start:
                yield Lost(name, "too short: it ends where it starts")
            else:
                yield {
                    "id": name,
                    "split": hashed_split(video),
                    "video": found,
                    "start": start,
                    "end": end,
                    "text": str(words).strip(),
                    "group": video,
                }
