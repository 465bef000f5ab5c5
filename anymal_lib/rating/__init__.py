"""Ratings by people, as in the paper's human evaluation (Table 3, Figure 3).

A `Study` says what is rated, a `Session` is one rater's way through it, a `RatingPage` shows it in
a notebook, and `load_results` reads what all raters of a folder have said.
"""

from __future__ import annotations

from anymal_lib.rating.page import RatingPage
from anymal_lib.rating.results import Results, load_results
from anymal_lib.rating.rules import (
    KNOWN_FACTS,
    known_of_examples,
    known_of_rows,
    rate_by_facts,
)
from anymal_lib.rating.session import Session
from anymal_lib.rating.study import (
    RatedItem,
    Study,
    items_of_examples,
    items_of_rows,
    load_study,
    sample,
)

__all__ = [
    "KNOWN_FACTS",
    "RatedItem",
    "RatingPage",
    "Results",
    "Session",
    "Study",
    "items_of_examples",
    "items_of_rows",
    "known_of_examples",
    "known_of_rows",
    "load_results",
    "load_study",
    "rate_by_facts",
    "sample",
]
