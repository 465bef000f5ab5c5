"""General questions: none is planted, and none has anything to do with its item."""

import json
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.general import QUESTIONS_FILE, general
from anymal_lib.instruct.planted import QUESTIONS_FILE as PLANTED_FILE
from anymal_lib.modalities import MODALITIES

ENTRIES = [json.loads(line) for line in QUESTIONS_FILE.read_text().splitlines()]
ITEMS = [Item(modality, f"{modality} {k}") for modality in MODALITIES for k in range(5)]


def in_words(question):
    return " ".join(re.findall(r"\w+", question.lower()))


def test_none_is_asked_twice_or_planted():
    asked = [in_words(entry["question"]) for entry in ENTRIES]
    planted = [json.loads(line)["question"] for line in PLANTED_FILE.read_text().splitlines()]
    assert len(set(asked)) == len(ENTRIES)
    assert set(asked).isdisjoint(map(in_words, planted))


def test_the_readme_counts_them():
    yes_no = sum(entry["answer"] in ("yes", "no") for entry in ENTRIES)
    readme = (QUESTIONS_FILE.parent / "README.md").read_text()
    stated = [int(number) for number in re.findall(r"(?<![\d.-])\d{2,}", readme)]
    assert stated == [len(ENTRIES), yes_no]


def test_questions_and_answers_are_well_formed():
    for entry in ENTRIES:
        assert entry.keys() == {"question", "answer"}
        assert entry["question"].endswith("?") and len(entry["question"].split()) <= 20
        assert 1 <= len(entry["answer"].split()) <= 2
        assert entry["answer"].isprintable() and entry["answer"] == entry["answer"].strip()
    answers = Counter(entry["answer"] for entry in ENTRIES)
    assert abs(answers["yes"] - answers["no"]) <= 4


def test_they_come_in_turn_with_items_of_any_modality():
    examples = general(ITEMS, count=2000, seed=0)
    assert Counter(e.question for e in examples) == Counter(
        ENTRIES[k % len(ENTRIES)]["question"] for k in range(2000)
    )
    given = Counter(item.modality for e in examples for item in e.items)
    assert all(400 < given[modality] < 600 for modality in MODALITIES)
    assert {(e.source, e.kind) for e in examples} == {("general", "general")}
    assert dict((e.question, e.answer) for e in examples) == {
        entry["question"]: entry["answer"] for entry in ENTRIES
    }


@given(st.lists(st.sampled_from(ITEMS), min_size=1), st.integers(0, 300), st.integers())
def test_any_items_will_do_and_more_begin_with_the_same(items, count, seed):
    examples = general(items, count=count, seed=seed)
    assert len(examples) == count
    assert {item for e in examples for item in e.items} <= set(items)
    assert general(items[::-1], count=count + 5, seed=seed)[:count] == examples
