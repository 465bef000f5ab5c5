"""Questions that no item answers: so that fine-tuning leaves the LLM what it knows (ours).

Without them an LLM that learns to look at items looks at them whatever it is asked, and the filter
(`anymal_lib.instruct.filter`) takes for grounded what text alone answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection

from anymal_lib.instruct.examples import Example, Item, ask
from anymal_lib.sources.catalogue import CARDS

SOURCE = "general"
QUESTIONS_FILE = CARDS / "general-questions" / "questions.jsonl"


def general(items: Collection[Item], *, count: int, seed: int) -> list[Example]:
    """General questions in turn, each with an item that it has nothing to do with.

    Args:
        items: one or more; each of their modalities comes as often.
        count: examples.
        seed: of the items.

    Returns:
        Examples with source and kind "general".
    """
    of_modality = {
        modality: sorted((item for item in items if item.modality == modality), key=str)
        for modality in sorted({item.modality for item in items})
    }
    entries = [json.loads(line) for line in QUESTIONS_FILE.read_text(encoding="utf-8").splitlines()]
    examples = []
    for k in range(count):
        entry, draw = entries[k % len(entries)], random.Random(f"{seed}/general/{k}")
        item = draw.choice(of_modality[draw.choice(list(of_modality))])
        examples.append(
            ask(entry["question"], item, answer=entry["answer"], kind=SOURCE, source=SOURCE)
        )
    return examples
