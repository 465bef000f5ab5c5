"""VQA accuracy by its published rules, the option that an answer names, and AUC."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.metrics.answers import auc, choice, vqa_accuracy, vqa_words

# Every rule of visualqa.org/evaluation. The right sides are what the published script's own
# functions gave for these texts.
RULES = {
    "lower case": [("YES", "yes"), ("Light Blue", "light blue"), ("red", "red")],
    "periods": [
        ("yes.", "yes"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("p.m.", "pm"),
        ("a.b", "ab"),
        ("v.2", "v.2"),
    ],
    "number words": [
        ("none", "0"),
        ("zero", "0"),
        ("Two dogs", "2 dogs"),
        ("ten", "10"),
        ("eleven", "eleven"),
    ],
    "articles": [
        ("a dog", "dog"),
        ("An apple", "apple"),
        ("on the table", "on table"),
        ("the", ""),
        ("another", "another"),
    ],
    "contractions": [
        ("dont", "don't"),
        ("Isnt it", "isn't it"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'd've", "y'all'd've"),
        ("twas", "'twas"),
        ("9 oclock", "9 o'clock"),
        ("im", "im"),
        ("shes", "shes"),
        ("don't", "don't"),
    ],
    "punctuation": [
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("a t-shirt - blue", "tshirt blue"),
        ("what?!", "what"),
        ('"stop"', "stop"),
        ("[x]{y}(z)=<w>@`v`_u+t\\s;", "x y z w v u t s"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("50%", "50%"),
    ],
    "commas in numbers": [
        ("100,978", "100978"),
        ("1,000,000 people", "1000000 people"),
        ("1,000 red-hot", "1000 redhot"),
        ("1000", "1000"),
    ],
    "blanks": [("  two\nred\tcats ", "2 red cats"), ("", "")],
}


@pytest.mark.parametrize(
    ("answer", "expected"), [pair for pairs in RULES.values() for pair in pairs]
)
def test_an_answer_is_normalised_as_vqa_says(answer, expected):
    assert vqa_words(answer) == expected


@given(st.text(alphabet="ab the.,'-?!1two \n", max_size=20))
def test_normal_forms_have_no_capitals_articles_or_double_blanks(answer):
    found = vqa_words(answer.upper())
    assert found == found.lower() == " ".join(found.split())
    assert not {"a", "an", "the"} & set(found.split())


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_accuracy_by_the_number_of_ten_people_who_agree(matches, expected):
    people = ["yes"] * matches + ["no"] * (10 - matches)
    assert vqa_accuracy("yes", people) == pytest.approx(expected)
    assert vqa_accuracy("Yes.", people[::-1]) == pytest.approx(expected)


def test_accuracy_is_the_mean_over_all_choices_of_nine_people():
    people = ["two", "2", "2.", "three", "a pair", "Two!", "1", "many", "none", "4"]
    nines = list(
        itertools.combinations(["2", "2", "2", "3", "pair", "2", "1", "many", "0", "4"], 9)
    )
    expected = sum(min(1, nine.count("2") / 3) for nine in nines) / 10
    assert vqa_accuracy("two", people) == pytest.approx(expected) == pytest.approx(1)
    assert vqa_accuracy("three", people) == pytest.approx(0.3), "only the digit 3 is near"


def test_both_sides_are_normalised_even_where_people_agree_letter_by_letter():
    assert vqa_accuracy("2", ["two"] * 10) == 1
    assert vqa_accuracy("the dog", ["a dog"] * 10) == 1
    assert vqa_accuracy("dont", ["don't"] * 10) == 1
    assert vqa_accuracy("dogs", ["dog"] * 10) == 0


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        (["red"], 1),
        (["blue"], 0),
        (["red", "red"], 1),
        (["red", "blue"], 1 / 2),
        (["red", "red", "blue"], (1 / 2 + 1 / 2 + 1) / 3),
        (["red", "red", "red"], 1),
        (["red", "red", "red", "blue"], (3 * 2 / 3 + 1) / 4),
        (["red"] * 4, 1),
        (["red", "blue", "blue", "blue", "blue"], (0 + 4 * 1 / 3) / 5),
    ],
)
def test_accuracy_with_fewer_than_ten_people(people, expected):
    assert vqa_accuracy("Red", people) == pytest.approx(expected)


OPTIONS = ("a cat", "dog", "hot dog", "two birds")


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("(b) it barks", 1),
        ("B.", 1),
        ("b) because", 1),
        ("B: it barks", 1),
        ("Answer: B", 1),
        ("The answer is (C).", 2),
        ("The answer is D", 3),
        ("Option A is right.", None),  # "A is": an article, as far as anyone can tell
        ("Option (A) is right.", 0),
        ("A", 0),
        ("a", 0),
        ("A.", 0),
        ("dog", 1),
        ("A dog.", 1),
        ("The DOG!", 1),
        ("It is a hot dog.", 2),
        ("hot  dog", 2),
        ("cat", 0),
        ("A cat", 0),
        ("two birds", 3),
        ("B. dog", 1),
        ("(B) dog", 1),
        ("Answer: B) a dog, of course", 1),
        ("B. hot dog", None),
        ("A or B", None),
        ("A, B", None),
        ("(A) and (C)", None),
        ("a cat or a dog", None),
        ("E", None),
        ("dogs", None),
        ("I think a bird", None),
        ("a bird", None),
        ("I see nothing.", None),
        ("", None),
        ("B's", None),
    ],
)
def test_the_option_that_an_answer_names(answer, named):
    assert choice(answer, OPTIONS) == named


def test_options_that_hold_single_letters_or_signs():
    assert choice("It is vitamin C.", ("vitamin D", "vitamin C", "iron")) == 1
    assert choice("yes", ("no", "yes")) == 1
    assert choice("No, it is not.", ("no", "yes")) == 0
    assert choice("Yes and no", ("no", "yes")) is None
    assert choice("10", ("1", "10", "100")) == 1
    assert choice("1.5", ("1", "1.5")) == 1
    assert choice("+", ("-", "+")) == 1
    assert choice("the", ("the", "a")) == 0


words_of = st.text(alphabet="xyz", min_size=2, max_size=4)


@settings(max_examples=50)
@given(st.lists(words_of, min_size=2, max_size=5, unique=True), st.data())
def test_letter_and_words_name_the_same_option(options, data):
    k = data.draw(st.integers(0, len(options) - 1))
    letter, words = "ABCDE"[k], options[k]
    for text in (letter, f"({letter})", f"{letter}.", words, words.upper(), f"{letter}) {words}"):
        assert choice(text, options) == k
    other = options[k - 1]
    assert choice(f"{letter}. {other}", options) is None
    assert choice(f"{words} {other}", options) is None


def test_auc_counts_pairs_in_order():
    scores, labels = [0.1, 0.4, 0.35, 0.8, 0.4], [False, False, True, True, True]
    pairs = [(p, n) for p, a in zip(scores, labels, strict=True) if a
             for n, b in zip(scores, labels, strict=True) if not b]  # fmt: skip
    expected = sum(1.0 if p > n else 0.5 if p == n else 0 for p, n in pairs) / len(pairs)
    assert auc(scores, labels) == pytest.approx(expected) == pytest.approx(4.5 / 6)
    assert auc([-s for s in scores], labels) == pytest.approx(1 - expected)
    assert auc([1, 2], [True, True]) is None
