"""Questions about two items: true, balanced, and never answered by one of the two."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.pairs import COMPARISONS, item_pairs
from anymal_lib.rows import Row
from anymal_lib.sources import profile_manifest

NAMES = {
    "image": "easy-vqa", "video": "moving-shapes", "audio": "phrases", "imu": "shoulder-imu",
}  # fmt: skip
BY_KIND = {comparison.kind: comparison for comparison in COMPARISONS}
COUNT = 7 * 400


@pytest.fixture(scope="module")
def rows():
    return {modality: profile_manifest(name).split("test") for modality, name in NAMES.items()}


@pytest.fixture(scope="module")
def by_item(rows):
    return {Item(modality, row.id): row for modality, of in rows.items() for row in of}


@pytest.fixture(scope="module")
def pairs(rows):
    return item_pairs(rows, count=COUNT, seed=0)


def values_of(example, by_item):
    fact = BY_KIND[example.kind].fact
    return [by_item[item].facts[fact] for item in example.items]


def test_every_answer_is_true(pairs, by_item):
    motion = {"rising": "up", "falling": "down"}
    for example in pairs:
        first, second = values_of(example, by_item)
        assert tuple(item.modality for item in example.items) == BY_KIND[example.kind].modalities
        if example.kind.startswith("which"):
            named = example.question.rstrip("?").split()[-1]
            assert [first == named, second == named] == [
                example.answer == "first", example.answer == "second",
            ]  # fmt: skip
        elif example.kind == "sound and motion":
            assert first in motion and second in motion.values()
            assert (motion[first] == second) == (example.answer == "yes")
        else:
            assert (first == second) == (example.answer == "yes")


def test_kinds_and_answers_are_balanced(pairs):
    kinds = Counter(example.kind for example in pairs)
    assert kinds == dict.fromkeys(BY_KIND, COUNT // 7)
    answers = Counter((example.kind, example.answer) for example in pairs)
    assert len(answers) == 14 and set(answers.values()) == {COUNT // 14}
    named = Counter(e.question for e in pairs if e.kind == "which shape")
    assert len(named) == 3 and min(named.values()) > COUNT // 7 / 3 * 0.7


def test_one_item_alone_says_nothing(pairs, by_item):
    """For each value of either item, both answers are about as frequent."""
    for side in (0, 1):
        seen = defaultdict(list)
        for example in pairs:
            if not example.kind.startswith("which"):
                value = values_of(example, by_item)[side]
                seen[example.kind, value].append(example.answer == "yes")
        for key, yes in seen.items():
            assert abs(sum(yes) - len(yes) / 2) < 2 * len(yes) ** 0.5, key


def test_parts_stand_in_the_papers_order(pairs):
    for example in pairs:
        (turn,) = example.turns
        question, first, blank, second = turn.parts
        assert question == f"{example.question} " and blank == " "
        assert isinstance(first, Item) and isinstance(second, Item)
        assert example.source == "pairs"


def test_windows_of_one_recording_are_no_pair(pairs, by_item):
    assert all(len({by_item[item].path for item in example.items}) == 2 for example in pairs)


def test_the_same_seed_gives_the_same_pairs(rows, pairs):
    assert item_pairs(rows, count=COUNT, seed=0) == pairs
    assert item_pairs(rows, count=70, seed=0) == pairs[:70], "more of them only adds"
    assert item_pairs(rows, count=70, seed=1) != pairs[:70]


def test_agreements_take_as_many_turns_as_asked(rows):
    """And their answers stay balanced, no example comes twice for it."""
    found = item_pairs(rows, count=12 * 60, seed=0, agreements=2)
    kinds = Counter(example.kind for example in found)
    assert kinds == {kind: 60 if kind.startswith("which") else 120 for kind in BY_KIND}
    answers = Counter((example.kind, example.answer) for example in found)
    assert all(answers[kind, answer] == kinds[kind] / 2 for kind, answer in answers)
    for kind in BY_KIND:  # as without, only more of them
        plain = [e for e in item_pairs(rows, count=7 * 60, seed=0) if e.kind == kind]
        assert [e for e in found if e.kind == kind][:60] == plain


def test_what_cannot_be_compared_is_left_out(rows):
    def kinds(*names):
        some = {name: rows[name] for name in names}
        return {example.kind for example in item_pairs(some, count=50, seed=0)}

    assert kinds("image") == {"which shape", "which colour"}
    assert kinds("audio", "video") == {"sound and motion", "same instrument"}
    assert kinds("imu") == {"same exercise"}
    assert kinds("video") == kinds() == set()
    level = [row for row in rows["audio"] if row.facts["direction"] == "level"]
    found = item_pairs({"audio": level, "video": rows["video"]}, count=9, seed=0)
    assert {example.kind for example in found} == {"same instrument"}


FACTS = ("shape", "colour", "direction", "exercise", "instrument")
ANY_ROWS = st.dictionaries(
    st.sampled_from(sorted(NAMES)),
    st.lists(
        st.tuples(
            st.integers(0, 3),  # file
            st.dictionaries(
                st.sampled_from(FACTS), st.sampled_from(["a", "b", "up", "rising", "level"])
            ),
        ),
        max_size=10,
    ),
)


@settings(max_examples=150)
@given(given_rows=ANY_ROWS, count=st.integers(0, 40), seed=st.integers())
def test_any_rows_give_true_balanced_pairs_or_none(given_rows, count, seed):
    rows = {
        modality: [
            Row(f"{k}", "train", modality, Path(f"{modality}-{file}"), (), facts)
            for k, (file, facts) in enumerate(entries)
        ]
        for modality, entries in given_rows.items()
    }
    found = item_pairs(rows, count=count, seed=seed)
    assert len(found) in (0, count)
    assert found == item_pairs(rows, count=count, seed=seed)
    by_item = {Item(m, row.id): row for m, of in rows.items() for row in of}
    answers = defaultdict(Counter)
    for example in found:
        comparison = BY_KIND[example.kind]
        first, second = (by_item[item] for item in example.items)
        assert first.path != second.path
        a, b = (
            {"rising": "up"}.get(row.facts[comparison.fact], row.facts[comparison.fact])
            for row in (first, second)
        )
        if comparison.answers == ("yes", "no"):
            assert (a == b) == (example.answer == "yes")
        else:
            named = comparison.question.format(value=a if example.answer == "first" else b)
            assert a != b and example.question == named
        answers[example.kind][example.answer] += 1
    totals = [counts.total() for counts in answers.values()]
    assert not totals or max(totals) - min(totals) <= 1
    for kind, counts in answers.items():
        yes, no = (counts[answer] for answer in BY_KIND[kind].answers)
        assert 0 <= yes - no <= 1
