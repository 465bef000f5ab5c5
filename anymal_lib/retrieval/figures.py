"""The figure of the retrieval test: items, what was read of each, what was answered."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from anymal_lib.modalities import open_row
from anymal_lib.plots import BAD, GOOD, NEUTRAL, draw_item
from anymal_lib.retrieval.naming import NamingReport
from anymal_lib.stages import spread

_WIDTH = 36  # characters of a line


def named(report: NamingReport, count: int = 4) -> Figure:
    """Some items with what was retrieved and the answers off and on, a mistake among them.

    Right answers are green, wrong ones red with the true name.
    """
    wrong = [k for k, right in enumerate(report.asked["on"].right) if not right][:1]
    right = [k for k, right in enumerate(report.asked["on"].right) if right]
    chosen = spread(right, count - len(wrong)) + wrong
    figure = plt.figure(figsize=(3.1 * len(chosen), 3.9), layout="constrained")
    for cell, k in zip(figure.subfigures(1, len(chosen), squeeze=False).flat, chosen, strict=True):
        above, below = cell.subplots(2, 1, height_ratios=(1.3, 1))
        draw_item(above, open_row(report.rows[k]))
        _write(below, _lines(report, k))
    return figure


def _lines(report: NamingReport, k: int) -> list[tuple[str, str]]:
    off, on = report.asked["off"], report.asked["on"]
    lines = [("read: " + " ".join(entry.text for entry in on.read[k]), NEUTRAL)]
    for name, asked in (("off", off), ("on", on)):
        truth = "" if asked.right[k] else f" (truth: {report.titles[k]})"
        lines.append((f"{name}: {asked.answers[k]}{truth}", GOOD if asked.right[k] else BAD))
    return lines


def _write(axis: plt.Axes, lines: list[tuple[str, str]]) -> None:
    """Paragraphs of text below each other, each in its colour."""
    axis.axis("off")
    height, top = 0.105, 1.0  # of a line, of the next paragraph; shares of the axis
    for text, colour in lines:
        wrapped = fill(text, _WIDTH)
        axis.text(0, top, wrapped, va="top", fontsize=8, color=colour, transform=axis.transAxes)
        top -= height * (wrapped.count("\n") + 1.6)
