"""Scores of captions: against hand computations and a second implementation."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.metrics.captions import cider_d, rouge_l
from anymal_lib.metrics.facts import facts_right, is_reference, named_value, words
from anymal_lib.metrics.intervals import bootstrap

COLOURS = ["red", "dark red", "blue", "light blue green"]


@pytest.mark.parametrize(
    ("caption", "value"),
    [
        ("a red circle", "red"),
        ("a dark red circle", "dark red"),
        ("A RED circle", "red"),
        ("Red.", "red"),
        ("circle, (red)!", "red"),
        ("it is red and red", "red"),
        ("red red", "red"),
        ("red and blue", None),
        ("dark red and red", None),
        ("dark red, dark red", "dark red"),
        ("light blue green", "light blue green"),
        ("light blue", "blue"),
        ("a reddish circle", None),
        ("bored", None),
        ("dark-red", "dark red"),
        ("a circle", None),
        ("", None),
    ],
)
def test_the_one_value_that_a_caption_names(caption, value):
    assert named_value(caption, COLOURS) == value
    assert named_value(caption, COLOURS[::-1]) == value


@given(value=st.sampled_from(COLOURS), before=st.booleans(), shout=st.booleans())
def test_a_named_value_is_found_whatever_stands_around_it(value, before, shout):
    caption = f"{value} thing" if before else f"a thing, {value}."
    assert named_value(caption.upper() if shout else caption, COLOURS) == value


def test_facts_are_judged_one_by_one():
    values = {"colour": ["blue", "red"], "shape": ["circle", "square"]}
    facts = {"colour": "red", "shape": "circle"}
    judge = lambda caption: facts_right(caption, facts, values)  # noqa: E731
    assert judge("a red circle") == {"colour": True, "shape": True}
    assert judge("a red square") == {"colour": True, "shape": False}
    assert judge("a red or blue circle") == {"colour": False, "shape": True}
    assert judge("") == {"colour": False, "shape": False}
    assert facts_right("red", {"colour": "red"}, values) == {"colour": True}


def test_words_and_references():
    assert words("  It's a RED-ish\tsquare, no. 7! ") == "it's a red ish square no 7"
    assert is_reference("A red square.", ["a blue one", "a red square"])
    assert not is_reference("a red", ["a red square"])


def test_cider_d_needs_a_set_and_rewards_a_perfect_one_with_ten():
    assert cider_d(["a red circle here"], [["a red circle here"]]) is None
    captions = ["a red circle lies here", "one blue square stands there"]
    assert cider_d(captions, [[c] for c in captions]) == pytest.approx(10)
    assert cider_d(captions, [[c] for c in captions[::-1]]) == pytest.approx(0)
    assert cider_d(["A Red circle, lies here!", captions[1]], [[c] for c in captions]) == (
        pytest.approx(10)
    )


def cider_by_hand(captions, references):
    """CIDEr-D by its definition (arXiv 1411.5726): clipped tf-idf n-grams, length penalty."""

    def grams(text):
        tokens = text.split()
        return Counter(
            tuple(tokens[i : i + n]) for n in range(1, 5) for i in range(len(tokens) - n + 1)
        )

    frequency = Counter(g for refs in references for g in {g for r in refs for g in grams(r)})

    def vector(text, n):
        log = math.log(len(references))
        found = {g: c for g, c in grams(text).items() if len(g) == n}
        return {g: c * (log - math.log(max(1, frequency[g]))) for g, c in found.items()}

    scores = []
    for caption, refs in zip(captions, references, strict=True):
        total = 0.0
        for ref in refs:
            gap = len(caption.split()) - len(ref.split())
            penalty = math.exp(-(gap**2) / (2 * 6.0**2))
            for n in range(1, 5):
                a, b = vector(caption, n), vector(ref, n)
                dot = sum(min(a[g], b.get(g, 0)) * b.get(g, 0) for g in a)
                norm = math.hypot(*a.values(), 0) * math.hypot(*b.values(), 0)
                total += penalty * dot / norm / 4 if norm else 0
        scores.append(10 * total / len(refs))
    return sum(scores) / len(scores)


def test_cider_d_equals_its_definition():
    captions = ["a red circle on grey", "a blue square square", "green thing"]
    references = [
        ["a red circle on a grey field", "red circle"],
        ["a blue square"],
        ["a green thing on white", "the thing is green"],
    ]
    value = cider_d(captions, references)
    assert value == pytest.approx(cider_by_hand(captions, references), abs=1e-9)
    assert value == pytest.approx(3.933095, abs=1e-6)


def test_rouge_l_by_hand():
    # Longest common subsequence "red circle": precision 2/3, recall 2/4, beta 1.2.
    p, r, beta = 2 / 3, 2 / 4, 1.2
    expected = (1 + beta**2) * p * r / (r + beta**2 * p)
    got = rouge_l(["the red circle", "same words", "nothing"], [
        ["a red circle here"], ["Same words!", "other"], ["at all"],
    ])  # fmt: skip
    assert got.tolist() == pytest.approx([expected, 1, 0])
    assert expected == pytest.approx(0.557078, abs=1e-6)


sentences = st.lists(st.sampled_from(["a", "red", "blue", "square"]), min_size=1, max_size=6).map(
    " ".join
)


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=2, max_size=5))
def test_scores_stay_in_their_range_and_equality_is_the_best(pairs):
    captions, references = [c for c, _ in pairs], [[r] for _, r in pairs]
    value, rouge = cider_d(captions, references), rouge_l(captions, references)
    assert 0 <= value <= 10 + 1e-9
    assert rouge.shape == (len(pairs),) and ((rouge >= 0) & (rouge <= 1 + 1e-9)).all()
    perfect = rouge_l(captions, [[c] for c in captions])
    assert perfect.tolist() == pytest.approx([1] * len(pairs))


def test_bootstrap_narrows_with_more_items_and_repeats():
    few, many = bootstrap([0, 1] * 10), bootstrap([0, 1] * 500)
    assert few.value == many.value == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    # The normal approximation of a proportion.
    assert many.high - many.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1000), rel=0.1)
    assert bootstrap([0, 1, 1], seed=3) == bootstrap([0, 1, 1], seed=3)
    assert bootstrap(np.linspace(0, 1, 50), seed=3) != bootstrap(np.linspace(0, 1, 50), seed=4)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_bootstrap_of_one_value_has_no_width(value, n):
    interval = bootstrap([value] * n)
    assert (interval.value, interval.low, interval.high) == pytest.approx((value,) * 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_the_interval_contains_the_mean(scores):
    interval = bootstrap(scores)
    assert interval.value == pytest.approx(float(np.mean(scores)))
    assert min(scores) - 1e-9 <= interval.low <= interval.value + 1e-9
    assert interval.value - 1e-9 <= interval.high <= max(scores) + 1e-9
