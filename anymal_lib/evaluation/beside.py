"""What was measured here beside the paper's row for the same kind of task.

No line compares like with like: the paper's models are a hundred times larger and its data are
others. A line says which task of the paper a measurement here stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from anymal_lib.paper.results import TABLES, Table
from anymal_lib.tasks.evaluate import TaskReport

SCALE = "another scale: model and data differ"


@dataclass(frozen=True)
class Beside:
    """One score times 100, and the paper's; `here` is None where it cannot be had here."""

    task: str
    metric: str
    data: str
    items: int
    here: float | None
    paper: float
    paper_model: str
    paper_data: str
    source: str
    note: str


# Modality of captions (or "questions") and metric -> source, benchmark, metric, model there.
_ROWS = {
    ("image", "cider_d"): ("Table 2", "COCO", "CIDEr", "AnyMAL 13B"),
    ("imu", "cider_d"): ("text", "Ego4D, held out", "CIDEr", "AnyMAL 7B"),
    ("imu", "rouge_l"): ("text", "Ego4D, held out", "ROUGE-L", "AnyMAL 7B"),
    ("audio", "cider_d"): ("Table 5", "AudioCaps", "CIDEr", "AnyMAL 70B"),
    ("audio", "spider"): ("Table 5", "AudioCaps", "SPIDEr", "AnyMAL 70B"),
    ("questions", "vqa_accuracy"): (
        "Table 4",
        "VQAv2",
        "accuracy",
        "AnyMAL 70B, ViT-G + MM-IT",
    ),
}


def beside(
    captions: Mapping[str, TaskReport], questions: TaskReport, data: Mapping[str, str]
) -> list[Beside]:
    """Every measurement here that the paper has a row for, in the order of `_ROWS`.

    `captions` are by modality; `data` names what each of them, and "questions", was measured on.
    """
    reports = {**captions, "questions": questions}
    lines = []
    for (what, metric), (source, benchmark, name, model) in _ROWS.items():
        if what not in reports or metric not in reports[what].scores:
            continue
        report = reports[what]
        found = report.scores[metric]["clean"]
        lines.append(
            Beside(
                what if what == "questions" else f"{what} captions",
                metric,
                data[what],
                len(report.rows),
                None if found.value is None else round(100 * found.value, 1),
                _table(source).column(benchmark, name)[model],
                model,
                benchmark,
                source,
                found.absent or SCALE,
            )
        )
    return lines


def _table(source: str) -> Table:
    return next(table for table in TABLES if table.source == source)


def beside_table(lines: list[Beside]) -> pd.DataFrame:
    """The lines as a table."""
    frame = pd.DataFrame([asdict(line) for line in lines]).set_index(["task", "metric"])
    return frame.astype(object).where(frame.notna(), "absent")
