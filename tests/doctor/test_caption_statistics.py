"""Counts over captions, checked by hand."""

import pytest

from anymal_lib.doctor import figures, tables
from anymal_lib.doctor.captions import caption_statistics
from anymal_lib.rows import Row


def row(name, *text):
    return Row(id=name, split="train", modality="image", path="nowhere", text=text)


@pytest.fixture
def facts():
    return caption_statistics(
        [
            row("a", "A black cat chases a small bird.", "a black cat"),
            row("b", "A BLACK CAT!", "A man repairs the boat"),
        ]
    )


def test_the_counts(facts):
    assert (facts.rows, facts.captions, facts.distinct_captions) == (2, 4, 3)
    assert facts.repeated_share == 0.25
    assert facts.lengths == {3: 2, 5: 1, 7: 1}
    assert facts.distinct_words == 10
    assert facts.words["black"] == 3
    assert list(facts.words)[:2] == ["black", "cat"]
    assert "a" not in facts.words
    assert facts.actions == {"chase": 1, "repair": 1}
    assert sum(facts.relations.values()) == 4
    assert facts.numbers() == {
        "rows": 2,
        "captions": 4,
        "distinct_captions": 3,
        "distinct_words": 10,
        "repeated_share": 0.25,
        "mean_length": 4.5,
    }


def test_no_captions():
    facts = caption_statistics([])
    assert (facts.captions, facts.repeated_share, facts.mean_length) == (0, 0, 0)
    assert facts.words == {}
    assert tables.caption_facts({"none": facts}).loc["none", "words a caption"] == "none"


def test_table_and_figure(facts):
    table = tables.caption_facts({"pairs": facts})
    assert table.loc["pairs", "repeats"] == "25.0%"
    assert table.loc["pairs", "words a caption"] == "3 to 7, mean 4.5"
    lengths, relations, words = figures.captions({"pairs": facts}, words=4).axes
    assert sum(bar.get_height() for bar in lengths.patches) == pytest.approx(1)
    assert sum(bar.get_height() for bar in relations.patches) == pytest.approx(1)
    assert words.patches[0].get_width() == 3
    assert len(words.patches) == 4
