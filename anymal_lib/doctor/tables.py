"""Tables of the data doctor, as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from anymal_lib.doctor.captions import CaptionStatistics
from anymal_lib.doctor.cat import REASONS, CatReport
from anymal_lib.doctor.duplicates import NearReport


def cat_counts(reports: Mapping[str, CatReport]) -> pd.DataFrame:
    """Pairs before, dropped by reason, and after, one row a set."""
    table = pd.DataFrame({name: report.counts for name, report in reports.items()}).T
    table["kept"] = [f"{row.after / max(1, row.before):.0%}" for row in table.itertuples()]
    return table


def cat_verdicts(report: CatReport, each: int = 3) -> pd.DataFrame:
    """Captions with their verdicts and what these rest on, at most `each` of a kind."""
    lines = []
    for reason in (None, *REASONS):
        like = [verdict for verdict in report.verdicts if verdict.reason == reason]
        for verdict in like[:each]:
            lines.append(
                {
                    "caption": verdict.caption,
                    "relations": verdict.parse.relations,
                    "actions": ", ".join(verdict.parse.actions),
                    "verdict": f"dropped: {reason}" if reason else "kept",
                    "read in the picture": verdict.detail,
                }
            )
    return pd.DataFrame(lines)


def near_pairs(reports: Mapping[str, NearReport], each: int = 5) -> pd.DataFrame:
    """The nearest pairs of each search, with the rows' ids and splits."""
    lines = [
        {
            "search": name,
            "row": f"{pair.first.id} ({pair.first.split})",
            "near": f"{pair.second.id} ({pair.second.split})",
            "distance": round(pair.distance, 4),
            "leak": "yes" if pair.leaks else "no",
        }
        for name, report in reports.items()
        for pair in report.pairs[:each]
    ]
    return pd.DataFrame(lines, columns=["search", "row", "near", "distance", "leak"])


def near_counts(reports: Mapping[str, NearReport]) -> pd.DataFrame:
    """How many items were compared, how many repeat one of their split, how many leak."""
    return pd.DataFrame(
        {
            name: {
                "items": report.items,
                "with a twin in their own split": len(report.pairs) - report.leaks,
                "with a twin in an earlier split": report.leaks,
                "not readable": len(report.bad),
            }
            for name, report in reports.items()
        }
    ).T


def caption_facts(statistics: Mapping[str, CaptionStatistics]) -> pd.DataFrame:
    """Lengths, vocabulary and repeats of each set's captions."""
    return pd.DataFrame(
        {
            name: {
                "rows": facts.rows,
                "captions": facts.captions,
                "distinct captions": facts.distinct_captions,
                "repeats": f"{facts.repeated_share:.1%}",
                "words a caption": _span(facts),
                "distinct words": facts.distinct_words,
                "common words": ", ".join(list(facts.words)[:5]),
                "common actions": ", ".join(list(facts.actions)[:5]) or "none",
            }
            for name, facts in statistics.items()
        }
    ).T


def _span(facts: CaptionStatistics) -> str:
    if not facts.lengths:
        return "none"
    return f"{min(facts.lengths)} to {max(facts.lengths)}, mean {facts.mean_length:.1f}"
