"""Questions about two items together, which either one alone does not answer."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.rows import Row

Pool = dict[str, list[Row]]  # value of a fact -> the rows that have it


@dataclass(frozen=True)
class Comparison:
    """A question about a fact of two items.

    Attributes:
        kind: its name among the kinds of examples.
        question: may hold {value}, which exactly one of the items has.
        answers: the first where the items agree, or where the first item has the value.
        modalities: of the first and the second item.
        fact: of both.
    """

    kind: str
    question: str
    answers: tuple[str, str]
    modalities: tuple[str, str]
    fact: str


SAME, WHICH = ("yes", "no"), ("first", "second")
SEEN, PICTURES = ("image", "video"), ("image", "image")
COMPARISONS = (
    Comparison("same shape", "Do the picture and the video show the same shape?",
               SAME, SEEN, "shape"),
    Comparison("same colour", "Do the picture and the video show the same colour?",
               SAME, SEEN, "colour"),
    Comparison("which shape", "Which of the two pictures shows the {value}?",
               WHICH, PICTURES, "shape"),
    Comparison("which colour", "Which of the two pictures shows something {value}?",
               WHICH, PICTURES, "colour"),
    Comparison("sound and motion", "Do the notes and the shape go in the same direction?",
               SAME, ("audio", "video"), "direction"),
    Comparison("same exercise", "Do the two motions show the same exercise?",
               SAME, ("imu", "imu"), "exercise"),
    Comparison("same instrument", "Do the two sounds come from the same instrument?",
               SAME, ("audio", "audio"), "instrument"),
)  # fmt: skip
_SAME_AS = {"rising": "up", "falling": "down"}  # of notes, in the words for motion


def item_pairs(
    rows: Mapping[str, Sequence[Row]], *, count: int, seed: int, agreements: int = 1
) -> list[Example]:
    """Questions about two items that agree or differ, answers balanced within each kind.

    Kinds take turns, and within a kind its two answers do. Values are drawn before items, each as
    often as any other, so that one item alone says nothing about the answer. Two items of one
    modality come from different media files.

    Args:
        rows: modality -> rows with facts. A comparison is left out where a modality or a fact that
            it needs is not there, or where fewer than two values of the fact are in both
            modalities (of one modality: have two media files each).
        count: examples in all; none where no comparison is possible.
        seed: of values and items; the same seed and rows give the same examples.
        agreements: how often each kind that asks whether two items agree takes its turn, while
            each that asks which of them shows a value takes one.

    Returns:
        Examples with source "pairs": the question, then the first item, a blank, the second.
    """
    pools: dict[tuple[str, str], Pool] = {}
    for modality, fact in {(m, c.fact) for c in COMPARISONS for m in c.modalities}:
        pools[modality, fact] = _pool(rows.get(modality, ()), fact)
    possible = []
    for comparison in COMPARISONS:
        left, right = (pools[modality, comparison.fact] for modality in comparison.modalities)
        if len(values := _shared(left, right)) > 1:
            turns = agreements if comparison.answers == SAME else 1
            possible += [(comparison, left, right, values)] * turns
    examples: list[Example] = []
    made: Counter[str] = Counter()
    for k in range(count if possible else 0):
        comparison, left, right, values = possible[k % len(possible)]
        number = made[comparison.kind]
        draw = random.Random(f"{seed}/{comparison.kind}/{number}")
        examples.append(_example(comparison, left, right, values, number % 2, draw))
        made[comparison.kind] += 1
    return examples


def _pool(rows: Sequence[Row], fact: str) -> Pool:
    pool: Pool = defaultdict(list)
    for row in rows:
        if fact in row.facts:
            value = row.facts[fact]
            pool[_SAME_AS.get(value, value)].append(row)
    return dict(pool)


def _shared(left: Pool, right: Pool) -> list[str]:
    """Values that both sides can show; where both are one, by two different media files."""
    if left is right:
        return sorted(value for value, rows in left.items() if len({row.path for row in rows}) > 1)
    return sorted(left.keys() & right.keys())


def _example(
    comparison: Comparison,
    left: Pool,
    right: Pool,
    values: Sequence[str],
    answer: int,
    draw: random.Random,
) -> Example:
    """One example; ``answer`` says which of the comparison's answers is to be right."""
    value, other = draw.sample(values, 2)
    if comparison.answers == SAME:
        shown = (value, other) if answer else (value, value)
    else:
        shown = (other, value) if answer else (value, other)
    first = draw.choice(left[shown[0]])
    second = draw.choice(right[shown[1]])
    while left is right and second.path == first.path:  # ends: each value has two files
        second = draw.choice(right[shown[1]])
    question = comparison.question.format(value=value)
    items = (Item(first.modality, first.id), Item(second.modality, second.id))
    turn = Turn((f"{question} ", items[0], " ", items[1]), comparison.answers[answer])
    return Example((turn,), comparison.kind, "pairs")
