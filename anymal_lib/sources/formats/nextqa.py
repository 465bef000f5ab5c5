"""NExT-QA, multiple choice: why and how, before and after, in videos of VidOR.

Schema: ``train.csv``, ``val.csv``, ``test.csv`` with ``video,frame_count,width,height,question,
answer,qid,type,a0,a1,a2,a3,a4``, the answer as the number of its option. Videos lie anywhere in
the folder under their id (``map_vid_vidorID.json`` says which of VidOR's folders each is in).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_csv


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per question, official split."""
    for file in source.annotations("train.csv", "val.csv", "test.csv"):
        for asked in read_csv(file):
            name = f"{file.stem}-{asked['video']}-{asked['qid']}"
            found = source.media(asked["video"])
            if isinstance(found, Lost):
                yield Lost(name, found.reason)
                continue
            options = [asked[f"a{k}"] for k in range(5)]
            yield {
                "id": name,
                "split": file.stem,
                "video": found,
                "question": asked["question"],
                "options": options,
                "answers": [options[int(asked["answer"])]],
            }
