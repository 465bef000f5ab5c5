"""Questions that need no item, planted to see whether the filter finds them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from anymal_lib.instruct.examples import Example, Item, ask
from anymal_lib.sources.catalogue import CARDS

QUESTIONS_FILE = CARDS / "planted-questions" / "questions.jsonl"
KIND = "text-answerable"


def planted(items: Sequence[Item], *, seed: int) -> list[Example]:
    """Every planted question once, each with an item that it has nothing to do with.

    Args:
        items: one or more. A question that sounds as if it were about an item of some modality
            gets one of that modality where there is any.
        seed: of the items; which one a question gets depends on no other question.

    Returns:
        Examples with source "planted" and kind `KIND`, in the file's order.
    """
    examples = []
    for line in QUESTIONS_FILE.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        question = entry["question"]
        suited = [item for item in items if item.modality == entry.get("modality")]
        item = random.Random(f"{seed}/{question}").choice(suited or items)
        examples.append(ask(question, item, answer=entry["answer"], kind=KIND, source="planted"))
    return examples
