"""Questions that a text answers about an item: so that fine-tuning keeps an LLM reading (ours).

Without them an LLM that learns to answer from modality tokens leaves unread what its prompt says in
words, for example what retrieval found (`anymal_lib.retrieval`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.llm import FrozenLLM
from anymal_lib.manifest import Manifest
from anymal_lib.retrieval.naming import descriptions, invented_names
from anymal_lib.retrieval.prompts import with_texts

SOURCE = "told"
_TEXTS = (  # none of them in the words of notebook 07's test of retrieval
    "The word for {thing} is {name}.",
    "People here say {name} for {thing}.",
    "Whoever sees {thing} says {name}.",
    "Whatever shows {thing} goes by the name of {name}.",
)
_QUESTIONS = (
    " Which word is there for it?",
    " What do people here say for this?",
    " What does it go by?",
    " Give its name.",
)
_NAMES, _KEPT = 300, 200  # names that are told, and first ones of the seed that 07 asks for


def told(
    llm: FrozenLLM, manifests: Mapping[str, Manifest], *, count: int, seed: int
) -> list[Example]:
    """Items under an invented name that stands in a text before the question.

    Args:
        llm: whose tokenizer tells which names are short.
        manifests: modality -> manifest; the items are its captioned training rows.
        count: examples of all modalities together, each of which has as many.
        seed: of names, items and wordings.

    Returns:
        Examples with source and kind "told": the item, the text, the question.
    """
    names = invented_names(llm, _KEPT + _NAMES, "", seed=seed)[_KEPT:]
    examples = []
    for modality, manifest in manifests.items():
        shown = descriptions(manifest)
        rows = [row.id for row in manifest.split("train") if row.id in shown]
        for k in range(count // len(manifests) if rows else 0):
            draw = random.Random(f"{seed}/{modality}/{k}")
            row, name = draw.choice(rows), draw.choice(names)
            text = draw.choice(_TEXTS).format(thing=shown[row], name=name)
            parts = with_texts([Item(modality, row), draw.choice(_QUESTIONS)], [text])
            examples.append(Example((Turn(tuple(parts), f"{name}."),), SOURCE, SOURCE))
    return examples
