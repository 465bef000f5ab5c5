"""Is a written question-answer pair fit to train on? What is asked, and why not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anymal_lib.metrics.facts import named_value, words

MOST_QUESTION_WORDS = 30
MOST_ANSWER_WORDS = 10

_DENIES = re.compile(r"\b(not|no)\b|n't\b", re.IGNORECASE)

MALFORMED = "malformed"
TOO_LONG = "too long"
DUPLICATE = "duplicate"
GIVEN_AWAY = "answer in the question"
CONTRADICTS = "contradicts a known fact"
REASONS = (MALFORMED, TOO_LONG, DUPLICATE, GIVEN_AWAY, CONTRADICTS)
OTHER = "other"  # the kind of a question about no fact, or several

# Words without which an answer says the same, those for the item itself among them.
_FILLER = frozenset({
    "a", "an", "the", "this", "that", "there", "it", "it's", "its", "is", "are", "was", "were",
    "of", "and", "in", "show", "shows", "shown", "showing",
    "image", "picture", "photo", "sound", "recording", "video", "clip",
})  # fmt: skip
# Models and cards spell differently.
_SPELLINGS = {"color": "colour", "colors": "colours", "grey": "gray"}


def read_words(text: str) -> str:
    """A text's words as `metrics.facts.words` gives them, in one spelling."""
    return " ".join(_SPELLINGS.get(word, word) for word in words(text).split())


def reason_against(
    question: str, answer: str, facts: Mapping[str, str], fact_values: Mapping[str, Sequence[str]]
) -> str | None:
    """The first of `REASONS` that speaks against a pair by itself; None where none does.

    Malformed: no question that ends in a question mark, or an answer that says nothing. Given
    away: every word of the answer that says something stands in the question, unless the question
    offers a choice with "or". Contradicting: see `contradicts`.
    """
    said = set(read_words(answer).split()) - _FILLER
    asked = read_words(question).split()
    if not question.endswith("?") or not asked or not said:
        return MALFORMED
    if len(asked) > MOST_QUESTION_WORDS or len(words(answer).split()) > MOST_ANSWER_WORDS:
        return TOO_LONG
    if said <= set(asked) and "or" not in asked:
        return GIVEN_AWAY
    return CONTRADICTS if contradicts(question, answer, facts, fact_values) else None


def contradicts(
    question: str, answer: str, facts: Mapping[str, str], fact_values: Mapping[str, Sequence[str]]
) -> bool:
    """Does the pair say of a known fact what is not so?

    It does where the answer names another value of a fact that is asked about (by its name or by
    one of its values; a question that names no fact may be about any), or where the pair takes
    another value for granted: the question names it, and neither it nor the answer says no or not,
    or both do.
    """
    about = _facts_in(question, facts, fact_values) or list(facts)
    denied = read_words(answer).split()[:1] in (["no"], ["not"])
    granted = denied == denies(question)
    for name in about:
        values = [read_words(value) for value in fact_values.get(name, ())]
        told = [read_words(answer)] + ([read_words(question)] if granted else [])
        found = {named_value(text, values) for text in told}
        if found - {None, read_words(facts[name])}:
            return True
    return False


def denies(question: str) -> bool:
    """Does a question say no or not?"""
    return _DENIES.search(question) is not None


def fact_asked(question: str, facts: Mapping[str, str]) -> str:
    """The one fact that a question asks about by its name; else "other"."""
    named = [name for name in facts if _holds(question, name)]
    return named[0] if len(named) == 1 else OTHER


def _facts_in(
    question: str, facts: Mapping[str, str], fact_values: Mapping[str, Sequence[str]]
) -> list[str]:
    return [
        name
        for name in facts
        if any(_holds(question, phrase) for phrase in (name, *fact_values.get(name, ())))
    ]


def _holds(text: str, phrase: str) -> bool:
    return f" {read_words(phrase)} " in f" {read_words(text)} "
