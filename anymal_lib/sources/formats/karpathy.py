"""COCO captions in the split of Karpathy and Fei-Fei.

Schema: ``dataset_coco.json``: ``{"images": [{"filename", "filepath", "cocoid", "split",
"sentences": [{"raw", "tokens", "sentid"}]}]}`` with the splits train, restval, val and test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_json


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per picture with its captions; restval is trained on, as usual."""
    (file, *_) = source.annotations("dataset_coco.json")
    for image in read_json(file)["images"]:
        # COCO's downloads of 2017 name the same pictures by their number alone.
        found = source.media(Path(image["filename"]).stem, f"{image['cocoid']:012d}")
        if isinstance(found, Lost):
            yield Lost(str(image["cocoid"]), found.reason)
            continue
        yield {
            "id": str(image["cocoid"]),
            "split": "train" if image["split"] == "restval" else image["split"],
            "image": found,
            "text": [sentence["raw"].strip() for sentence in image["sentences"]],
        }
