"""How2QA: multiple choice about clips of instructional videos of YouTube.

Schema: ``how2QA_train_release.csv``, ``how2QA_val_release.csv``, without names of columns: video
id, ``[start:end]`` in seconds, three wrong answers, the question, the right answer. Videos are
named by their id.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_csv

_COLUMNS = ("video", "time", "wrong_1", "wrong_2", "wrong_3", "question", "right")


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per question, official split.

    The source always puts the right answer last. Here the options stand in an order that depends
    on the row's id alone, or a model could learn the place.
    """
    for file in source.annotations("how2QA_*_release.csv"):
        split = file.stem.split("_")[1]
        for number, asked in enumerate(read_csv(file, _COLUMNS)):
            if not asked["time"].startswith("["):  # a line of names
                continue
            yield _row(source, asked, split, f"{split}-{number}")


def _row(source: SourceFolder, asked: dict[str, str], split: str, name: str) -> Item:
    found = source.clip(asked["video"])
    if isinstance(found, Lost):
        return Lost(name, found.reason)
    start, end = (float(second) for second in asked["time"].strip("[]").split(":"))
    if not end > start:
        return Lost(name, "too short: it ends where it starts")
    options = [asked[key].strip() for key in ("right", "wrong_1", "wrong_2", "wrong_3")]
    right = options[0]
    random.Random(name).shuffle(options)
    return {
        "id": name,
        "split": split,
        "video": found,
        "start": start,
        "end": end,
        "question": asked["question"].strip(),
        "options": options,
        "answers": [right],
    }
