"""What raters are asked: the paper's rubric, and which of two answers is better.

The paper states the points of the rubric and nothing more; what they mean is said in our words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question with its options: the value that is stored -> what the button says."""

    name: str
    options: Mapping[int | str, str]

    @property
    def most(self) -> int:
        """The most points that there are."""
        return max(value for value in self.options if isinstance(value, int))

    def takes(self, value: Any) -> bool:
        """Is this one of the options? True is no 1, and 2.0 is no 2."""
        return any(type(value) is type(option) and value == option for option in self.options)


RUBRIC = (
    Question("response accuracy", {0: "0: wrong", 2: "2: right"}),
    Question(
        "object recognition",
        {0: "0: not what is there", 1: "1: a part of it", 2: "2: all that matters"},
    ),
    Question("integrity", {0: "0: broken or offensive", 2: "2: whole and inoffensive"}),
)
LEFT, TIE, RIGHT = "left", "tie", "right"
PREFERENCE = Question(
    "preference", {LEFT: "Left is better", TIE: "Equally good", RIGHT: "Right is better"}
)


def questions_about(systems: int) -> tuple[Question, ...]:
    """One answer is judged by the rubric, two are compared."""
    return RUBRIC if systems == 1 else (PREFERENCE,)
