"""easy-VQA's questions: one row per official question, with its image, captions and facts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from anymal_lib.sources import easy_vqa

BUILD_VERSION = f"1, images {easy_vqa.BUILD_VERSION}"  # images, captions and facts are easy_vqa's
HAS_FOLDS = False


def build(member: Path, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Copy the images into ``folder/images`` and return one row per question, in official order.

    A row's id is ``<split>-<image id>-<k>``, its question the k-th about that image.

    Args:
        member: the wheel's ``easy_vqa/data`` folder.
        folder: the manifest's folder to be.
        fold: unused, the split is the official one.
    """
    images = {row["id"]: row for row in easy_vqa.build(member, folder, fold)}
    rows = []
    for split in ("train", "test"):
        asked: Counter[str] = Counter()
        content = (member / split / "questions.json").read_text(encoding="utf-8")
        for question, answer, image_id in json.loads(content):
            name = f"{split}-{image_id}"
            numbered = {"id": f"{name}-{asked[name]}", "question": question, "answers": [answer]}
            rows.append({**images[name], **numbered})
            asked[name] += 1
    return rows
