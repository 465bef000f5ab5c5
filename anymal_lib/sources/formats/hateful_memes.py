"""Hateful Memes: is a picture together with its text hateful?

Schema: ``train.jsonl``, ``dev_seen.jsonl``, ``dev_unseen.jsonl``, ``test_seen.jsonl``,
``test_unseen.jsonl``, each line ``{"id", "img": "img/01234.png", "label": 0 | 1, "text"}``; test
files of the challenge come without a label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder

OPTIONS = ("no", "yes")  # the labels 0 and 1


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per meme and file; dev is the validation split.

    Its text goes into the question, as the paper's prompt gives it (appendix B.1): it is no
    caption. The dev and test files share memes, so ids carry the file's name.
    """
    for file in source.annotations("train.jsonl", "dev*.jsonl", "test*.jsonl"):
        split = file.stem.split("_")[0].replace("dev", "val")
        for line in file.read_text(encoding="utf-8").rstrip().split("\n"):
            meme = json.loads(line)
            name = f"{file.stem}-{meme['id']}"
            found = source.media(f"img/{Path(meme['img']).stem}")
            if "label" not in meme:
                yield Lost(name, "no published answer")
            elif isinstance(found, Lost):
                yield Lost(name, found.reason)
            else:
                yield {
                    "id": name,
                    "split": split,
                    "image": found,
                    "question": f'The text in the image: "{meme["text"]}". Is it hateful?',
                    "options": list(OPTIONS),
                    "answers": [OPTIONS[meme["label"]]],
                }
