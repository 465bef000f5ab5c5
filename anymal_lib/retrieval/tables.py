"""Tables of the retrieval test, as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from anymal_lib.retrieval.naming import NamingReport


def naming_scores(reports: Mapping[str, NamingReport]) -> pd.DataFrame:
    """How often an item was given its name, with and without the corpus; one row a modality."""
    return pd.DataFrame(
        {
            modality: {
                "off": _interval(report, "off"),
                "on": _interval(report, "on"),
                "a wrong text": _interval(report, "wrong"),
                "... whose name is given": f"{report.misled:.3f}",
                "texts read": report.k,
                "recall@1": f"{report.recall_at_1:.3f}",
                "recall of what is read": f"{report.recall_at_k:.3f}",
                "texts in the corpus": report.corpus,
                "items": len(report.rows),
            }
            for modality, report in reports.items()
        }
    ).T


def _interval(report: NamingReport, condition: str) -> str:
    score = report.asked[condition].score
    return f"{score.value:.3f} ({score.low:.3f}-{score.high:.3f})"
