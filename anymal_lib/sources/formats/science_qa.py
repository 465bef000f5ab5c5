"""ScienceQA: multiple choice from school lessons, about half of it with a picture.

Schema: ``problems.json``: ``{id: {"question", "choices": [text, ...], "answer": index, "hint",
"image": "image.png" or null, "split": train | val | test, ...}}``; pictures lie at
``<split>/<id>/image.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_json


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per question with a picture; its hint, where there is one, follows the question."""
    (file, *_) = source.annotations("problems.json")
    for number, problem in read_json(file).items():
        if problem["image"] is None:
            yield Lost(number, "no picture: a question in words only")
            continue
        split = problem["split"]
        found = source.media(f"{split}/{number}/{Path(problem['image']).stem}")
        if isinstance(found, Lost):
            yield Lost(number, found.reason)
            continue
        yield {
            "id": number,
            "split": split,
            "image": found,
            "question": "\n".join(filter(None, (problem["question"], problem["hint"]))),
            "options": problem["choices"],
            "answers": [problem["choices"][problem["answer"]]],
        }
