"""A corpus about the squares and motions of the shared manifests."""

import pytest

from anymal_lib.retrieval import Corpus, Entry

ENTRIES = (
    Entry("Bodel", "A red square is called a Bodel."),
    Entry("Tranik", "A blue square is called a Tranik."),
    Entry("Fumar", "A person who shakes is a Fumar."),
    Entry("Zivop", "A tone that fades is called a Zivop."),
)


@pytest.fixture(scope="session")
def corpus(tiny_encoders):
    return Corpus.build(ENTRIES, tiny_encoders["image"])
