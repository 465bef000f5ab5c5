"""Retrieval: a user's own texts in the prompt, found by what an item's encoder says of it."""

from __future__ import annotations

from anymal_lib.retrieval.corpus import Corpus, Entry, Neighbour
from anymal_lib.retrieval.prompts import Answer, generate_with_retrieval
from anymal_lib.retrieval.reading import read_entries

__all__ = [
    "Answer",
    "Corpus",
    "Entry",
    "Neighbour",
    "generate_with_retrieval",
    "read_entries",
]
