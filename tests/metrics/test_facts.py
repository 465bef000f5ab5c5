"""What captions state, and texts compared word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.metrics.facts import facts_right, is_reference, named_value, words

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
