"""What a caption states: its words, the values of facts that it names, whether they are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_WORDS = re.compile(r"[\w']+")


def words(text: str) -> str:
    """A text's words, lower case, single blanks, without punctuation: how answers are compared."""
    return " ".join(_WORDS.findall(text.lower()))


def named_value(caption: str, values: Sequence[str]) -> str | None:
    """The one value of a fact that a caption names; None when it names none or several.

    A value inside a longer one ("red" in "dark red") does not count as named.
    """
    text = f" {words(caption)} "
    found = []
    for value in sorted(values, key=len, reverse=True):
        phrase = f" {words(value)} "
        if phrase in text:
            found.append(value)
        while phrase in text:  # neighbours share a blank, so one pass would miss every second
            text = text.replace(phrase, " | ")
    return found[0] if len(found) == 1 else None


def facts_right(
    caption: str, facts: Mapping[str, str], fact_values: Mapping[str, Sequence[str]]
) -> dict[str, bool]:
    """For each fact: does the caption name its value, and no other value of that fact?"""
    return {name: named_value(caption, fact_values[name]) == value for name, value in facts.items()}


def is_reference(caption: str, references: Sequence[str]) -> bool:
    """Does the caption equal one of the references, word for word?"""
    return words(caption) in {words(reference) for reference in references}
