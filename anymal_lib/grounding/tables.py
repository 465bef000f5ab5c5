"""The grounding report as tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from anymal_lib.controls import senses
from anymal_lib.grounding.report import Grounding
from anymal_lib.metrics.intervals import Interval


def grounding_scores(reports: Mapping[str, Grounding]) -> pd.DataFrame:
    """Every condition of every modality; differences are the item itself minus the control."""
    table = {}
    for modality, report in reports.items():
        for condition, mean in report.score.of.items():
            table[modality, condition.replace("_", " ")] = {
                "the model senses": senses(condition, modality),
                "score": report.score.title,
                "mean": _shown(mean),
                "difference": _shown(report.score.above.get(condition)),
                "log-likelihood per token": _shown(report.log_likelihood.of[condition]),
                "its difference": _shown(report.log_likelihood.above.get(condition)),
            }
        table[modality, "best blind answer"] = {
            "the model senses": "nothing; always the most common caption",
            "score": report.score.title,
            "mean": f"{report.chance:.3f}",
        }
    return pd.DataFrame(table).T.fillna("")


def verdicts(reports: Mapping[str, Grounding]) -> pd.DataFrame:
    """Whether the model reads each modality, in a sentence."""
    return pd.DataFrame(
        {
            modality: {
                "grounded": "yes" if report.grounded else "no",
                "items": report.items,
                "verdict": report.verdict,
            }
            for modality, report in reports.items()
        }
    ).T


def _shown(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
