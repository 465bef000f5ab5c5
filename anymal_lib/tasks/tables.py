"""Tasks and their scores as pandas frames and as plain values for metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from anymal_lib.metrics.named import Score
from anymal_lib.tasks.evaluate import TaskReport
from anymal_lib.tasks.table import TASKS


def task_table() -> pd.DataFrame:
    """Every task: its benchmarks, what is told, where the item stands, decoding and metrics."""
    return pd.DataFrame(
        {
            task.name: {
                "benchmarks": ", ".join(task.benchmarks) or "the profile's own data",
                "instruction": task.prompt.instruction if task.prompt else "as in training",
                "modality tokens": task.place,
                "decoding": task.decoding,
                "new tokens": task.max_new_tokens or "as in training",
                "metrics": ", ".join(task.metrics),
            }
            for task in TASKS.values()
        }
    ).T.rename_axis("task")


def score_table(reports: Mapping[str, TaskReport]) -> pd.DataFrame:
    """Scores times 100, as papers print them: a row a name and metric, a column a control.

    A score that cannot be had here says why.
    """
    rows = {
        (name, metric): {
            "items": len(report.rows),
            **{control: _printed(found) for control, found in by_control.items()},
        }
        for name, report in reports.items()
        for metric, by_control in report.scores.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["", "metric"]).fillna("")


def _printed(score: Score) -> str:
    if score.value is None:
        return f"absent: {score.absent}"
    if score.interval is None:
        return f"{100 * score.value:.1f}"
    return (
        f"{100 * score.value:.1f} ({100 * score.interval.low:.1f}-{100 * score.interval.high:.1f})"
    )


def task_metrics(report: TaskReport) -> dict[str, dict[str, dict[str, Any]]]:
    """Metric -> control -> value with its 95 % interval, or why it is absent."""
    return {
        metric: {control: _plain(found) for control, found in by_control.items()}
        for metric, by_control in report.scores.items()
    }


def _plain(score: Score) -> dict[str, Any]:
    if score.value is None:
        return {"value": None, "absent": score.absent}
    if score.interval is None:
        return {"value": score.value}
    return {"value": score.value, "low": score.interval.low, "high": score.interval.high}
