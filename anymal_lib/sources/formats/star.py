"""STAR: multiple choice about situations in videos of Charades.

Schema: ``STAR_train.json``, ``STAR_val.json``, ``STAR_test.json``: a list of ``{"question_id",
"video_id", "start", "end", "question", "choices": [{"choice_id", "choice"}, ...], "answer": text,
...}`` in seconds; the test file has no answers. Videos are named by ``video_id``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_json


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per question, official split."""
    for file in source.annotations("STAR_train.json", "STAR_val.json", "STAR_test.json"):
        split = file.stem.split("_")[1]
        for asked in read_json(file):
            name = f"{split}-{asked['question_id']}"
            found = source.media(asked["video_id"])
            if not asked.get("answer"):
                yield Lost(name, "no published answer")
            elif isinstance(found, Lost):
                yield Lost(name, found.reason)
            else:
                yield {
                    "id": name,
                    "split": split,
                    "video": found,
                    "start": float(asked["start"]),
                    "end": float(asked["end"]),
                    "question": asked["question"],
                    "options": [choice["choice"] for choice in asked["choices"]],
                    "answers": [asked["answer"]],
                }
