"""Figures of notebook 06: what was asked about which items, and what the model answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from anymal_lib.instruct.answers import AnswerReport
from anymal_lib.instruct.examples import Item
from anymal_lib.modalities import open_row
from anymal_lib.plots import BAD, GOOD, NEUTRAL, draw_item
from anymal_lib.rows import Row


def answered(report: AnswerReport, rows: Mapping[Item, Row], kinds: Sequence[str]) -> Figure:
    """One question of each kind with its items, a wrongly answered one where there is any.

    Right answers are green; wrong ones red, with the truth beside them.
    """
    chosen = [
        min(places, key=lambda k: report.right[k])
        for kind in kinds
        if (places := [k for k, example in enumerate(report.examples) if example.kind == kind])
    ]
    columns = max(len(report.examples[k].items) for k in chosen)
    across = max(1, 4 // columns)
    lines = -(-len(chosen) // across)
    figure = plt.figure(figsize=(12.4, 2.5 * lines), layout="constrained")
    cells = figure.subfigures(lines, across, squeeze=False).flat
    for cell, k in zip(cells, chosen, strict=False):
        example, said = report.examples[k], report.answers[k]
        axes = cell.subplots(1, len(example.items), squeeze=False)[0]
        for axis, item in zip(axes, example.items, strict=True):
            draw_item(axis, open_row(rows[item]))
        truth = "" if report.right[k] else f" (truth: {example.answer})"
        text = fill(f"{example.question} {said}{truth}", 27 * columns)
        cell.suptitle(text, fontsize=9, color=GOOD if report.right[k] else BAD)
    return figure


def stage_bars(by_stage: Mapping[str, Mapping[str, float]], blind: Mapping[str, float]) -> Figure:
    """Accuracy of each set of questions after each stage, beside the best blind answer."""
    sets = list(blind)
    figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
    width = 0.8 / len(by_stage)
    for k, (name, scores) in enumerate(by_stage.items()):
        places = np.arange(len(sets)) + (k - (len(by_stage) - 1) / 2) * width
        values = [scores[what] for what in sets]
        bars = axis.bar(places, values, width, label=name, color=f"C{k}")
        axis.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=7)
    for k, what in enumerate(sets):
        label = "best blind answer" if k == 0 else None
        axis.hlines(blind[what], k - 0.42, k + 0.42, color=NEUTRAL, ls="--", lw=1.2, label=label)
    axis.set_xticks(range(len(sets)), sets)
    axis.set(ylim=(0, 1.1), ylabel="exact answers")
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2), fontsize=9)
    return figure
