"""Tables of ratings, as pandas frames; numbers in %, as the paper prints them."""

from __future__ import annotations

import pandas as pd

from anymal_lib.metrics.intervals import Interval
from anymal_lib.paper.results import HUMAN_RATINGS
from anymal_lib.rating.questions import RUBRIC
from anymal_lib.rating.results import Results, mean_kappa

PAPER = f"people (the paper, {HUMAN_RATINGS.source})"


def preference_table(results: Results, seed: int = 0) -> pd.DataFrame:
    """Win, tie and lose of every pairing, with 95 % intervals, and who rated."""
    lines = [
        {
            "system": found.system,
            "against": found.against,
            "rated by": found.raters,
            "items": found.items,
            "win": _percent(found.win),
            "tie": _percent(found.tie),
            "lose": _percent(found.lose),
        }
        for found in results.preferences(seed)
    ]
    return pd.DataFrame(lines)


def points_table(results: Results, seed: int = 0) -> pd.DataFrame:
    """The rubric as the paper's Table 3, and its rows below: a system a row, a question a column.

    Ours are mean points in % of the most, with 95 % intervals; the paper does not say how it
    counts. The items are others than the paper's.
    """
    lines: dict[tuple[str, str], dict[str, object]] = {}
    for found in results.points(seed):
        line = lines.setdefault((found.system, found.raters), {"items": found.items})
        line[found.question] = _percent(found.share)
    for model, values in HUMAN_RATINGS.rows.items():
        columns = [metric for _, metric in HUMAN_RATINGS.columns]
        lines[model, PAPER] = dict(zip(columns, values, strict=True))
    index = pd.MultiIndex.from_tuples(lines, names=["system", "rated by"])
    columns = ["items", *(question.name for question in RUBRIC)]
    frame = pd.DataFrame(list(lines.values()), index=index, columns=columns, dtype=object)
    return frame.where(frame.notna(), "")


def agreement_table(results: Results) -> pd.DataFrame:
    """Every two raters on what both rated, and Light's kappa over the pairs of people."""
    found = results.agreement()
    lines = [
        {
            "question": one.question,
            "raters": " / ".join(one.raters),
            "rated by both": one.shared,
            "same answer, %": round(100 * one.same, 1),
            "Cohen's kappa": _rounded(one.kappa),
        }
        for one in found
    ]
    for question in dict.fromkeys(one.question for one in found if one.of_people):
        mean = _rounded(mean_kappa(found, question))
        lines.append({"question": question, "raters": "mean of people", "Cohen's kappa": mean})
    columns = ["question", "raters", "rated by both", "same answer, %", "Cohen's kappa"]
    return pd.DataFrame(lines, columns=columns, dtype=object).fillna("")


def _percent(found: Interval) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.0f}-{100 * found.high:.0f})"


def _rounded(value: float | None) -> float | str:
    return "undefined" if value is None else round(value, 3)
