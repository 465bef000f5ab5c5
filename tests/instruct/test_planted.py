"""The planted questions: enough, short, balanced, and not about their items."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.planted import QUESTIONS_FILE, planted
from anymal_lib.modalities import MODALITIES
from anymal_lib.sources import profile_manifest

ENTRIES = [json.loads(line) for line in QUESTIONS_FILE.read_text().splitlines()]
ABOUT_ITEMS = [entry for entry in ENTRIES if "modality" in entry]
ITEMS = [Item(modality, f"{modality} {k}") for modality in MODALITIES for k in range(5)]


def test_there_are_enough_and_no_two_are_the_same():
    asked = [" ".join(re.findall(r"\w+", entry["question"].lower())) for entry in ENTRIES]
    assert len(set(asked)) == len(ENTRIES) >= 200
    assert len(ABOUT_ITEMS) >= 60
    assert {entry["modality"] for entry in ABOUT_ITEMS} == set(MODALITIES)
    yes_no = sum(entry["answer"] in ("yes", "no") for entry in ENTRIES)
    readme = (QUESTIONS_FILE.parent / "README.md").read_text()
    stated = [int(number) for number in re.findall(r"(?<![\d.-])\d{2,}", readme)]
    assert stated == [len(ENTRIES), yes_no, len(ABOUT_ITEMS)]


def test_questions_and_answers_are_well_formed():
    for entry in ENTRIES:
        assert entry.keys() - {"modality"} == {"question", "answer"}
        assert entry["question"].endswith("?") and len(entry["question"].split()) <= 20
        assert 1 <= len(entry["answer"].split()) <= 2
        assert entry["answer"].isprintable() and entry["answer"] == entry["answer"].strip()


@pytest.mark.parametrize("entries", [ENTRIES, ABOUT_ITEMS], ids=["all", "about items"])
def test_a_third_is_yes_or_no_half_and_half(entries):
    answers = Counter(entry["answer"] for entry in entries)
    assert abs(answers["yes"] - answers["no"]) <= 2
    assert 0.27 < (answers["yes"] + answers["no"]) / len(entries) < 0.4


def test_none_is_a_question_of_a_manifest():
    asked = {row.question for row in profile_manifest("easy-vqa-questions").rows}
    assert asked.isdisjoint(entry["question"].lower() for entry in ENTRIES)


def test_what_sounds_like_a_modality_gets_its_item():
    examples = planted(ITEMS, seed=0)
    assert [(e.question, e.answer) for e in examples] == [
        (entry["question"], entry["answer"]) for entry in ENTRIES
    ]
    for example, entry in zip(examples, ENTRIES, strict=True):
        assert (example.source, example.kind) == ("planted", "text-answerable")
        assert example.items[0].modality == entry.get("modality", example.items[0].modality)
    assert {example.items[0] for example in examples} == set(ITEMS)


@given(items=st.lists(st.sampled_from(ITEMS), min_size=1), seed=st.integers())
def test_any_items_will_do(items, seed):
    examples = planted(items, seed=seed)
    assert len(examples) == len(ENTRIES)
    assert {example.items[0] for example in examples} <= set(items)
    assert examples == planted(items, seed=seed)
