"""Scores of captions: facts named right, CIDEr-D, ROUGE-L, and bootstrap intervals.

CIDEr-D and ROUGE-L are pycocoevalcap's pure-Python scorers; its Java tokenizer is replaced by
lower-casing and keeping letters, digits and apostrophes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_WORDS = re.compile(r"[\w']+")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def words(text: str) -> str:
    """A caption's words, lower case, single blanks: how every score here reads it."""
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


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """CIDEr-D of a set (1.0 is what papers print as 100; 10 is the most).

    None for fewer than two items: document frequencies need a set. Below fifty items the value
    says little.
    """
    if len(captions) < 2:
        return None
    from pycocoevalcap.cider.cider import Cider

    return float(Cider().compute_score(*_coco(captions, references))[0])


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L F of each caption (0-1) against its closest reference: (items,)."""
    from pycocoevalcap.rouge.rouge import Rouge

    return np.asarray(Rouge().compute_score(*_coco(captions, references))[1])


def _coco(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    truth = {k: [words(text) for text in texts] for k, texts in enumerate(references)}
    return truth, {k: [words(text)] for k, text in enumerate(captions)}


def bootstrap(scores: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean of per-item scores with a 95 % percentile interval over resampled items."""
    values = np.asarray(scores, dtype=float)
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    low, high = np.quantile(counts @ values / n, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
