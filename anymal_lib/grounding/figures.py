"""The grounding report as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from anymal_lib.grounding.report import Grounding, Measure
from anymal_lib.modalities import MODALITIES
from anymal_lib.plots import BAD, GOOD, NEUTRAL

_LABEL = {"va": "center", "fontsize": 8, "bbox": {"fc": "white", "ec": "none", "pad": 0.8}}


def grounding_report(reports: Mapping[str, Grounding]) -> Figure:
    """A panel for each modality: score and log-likelihood under every condition, 95 % intervals.

    A control that the item itself does not stand above by more than chance is red.
    """
    columns = min(2, len(reports))
    lines = -(-len(reports) // columns)
    figure = plt.figure(figsize=(6.2 * columns, 2.5 * lines + 0.35), layout="constrained")
    cells = figure.subfigures(lines, columns, squeeze=False, wspace=0.04, hspace=0.06).flat
    for cell, report in zip(cells, reports.values(), strict=False):
        left, right = cell.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _bars(left, report)
        _points(right, report.log_likelihood)
        noun = MODALITIES[report.modality].noun or report.modality
        verb, colour = ("reads", GOOD) if report.grounded else ("ignores", BAD)
        cell.suptitle(f"{verb} the {noun}", fontsize=11, color=colour, weight="bold")
    meanings = {
        "the item itself": GOOD,
        "a control": NEUTRAL,
        "a control that comes too close": BAD,
    }
    keys: list[Artist] = [Patch(color=colour, label=what) for what, colour in meanings.items()]
    keys.append(Line2D([], [], color=NEUTRAL, ls="--", lw=1, label="best caption without any item"))
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _bars(axis: plt.Axes, report: Grounding) -> None:
    names, values, spread, colours = _drawn(report.score)
    axis.barh(names, values, xerr=spread, color=colours, height=0.62, capsize=2.5, alpha=0.85)
    axis.axvline(report.chance, color=NEUTRAL, ls="--", lw=1)
    for k, (value, end) in enumerate(zip(values, values + spread[1], strict=True)):
        if end > 0.85:  # no room beside the bar
            place = value - spread[0, k] - 0.02
            axis.text(place, k, f"{value:.2f}", ha="right", va="center", fontsize=8, color="white")
        else:
            axis.text(end + 0.02, k, f"{value:.2f}", **_LABEL)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.05))
    _named(axis, report.score.title)


def _points(axis: plt.Axes, found: Measure) -> None:
    _, values, spread, colours = _drawn(found)
    low, high = values - spread[0], values + spread[1]
    span = max(high.max() - low.min(), 0.1)
    axis.axvline(found.of["clean"].value, color=GOOD, lw=0.8, alpha=0.5)
    for k, (value, colour) in enumerate(zip(values, colours, strict=True)):
        axis.errorbar(value, k, xerr=spread[:, [k]], fmt="o", ms=5, color=colour, capsize=2.5)
        axis.text(low[k] - 0.05 * span, k, f"{value:.2f}", ha="right", **_LABEL)
    axis.set(xlim=(low.min() - 0.33 * span, high.max() + 0.08 * span))
    axis.grid(axis="x", alpha=0.3)
    _named(axis, f"{found.title} (nats)")


def _named(axis: plt.Axes, what: str) -> None:
    axis.set_xlabel(what, fontsize=9)
    axis.tick_params(labelsize=9)


def _drawn(found: Measure) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Names, means (conditions,), what lies below and above them (2, conditions), colours."""
    names = [condition.replace("_", " ") for condition in found.of]
    values = np.array([mean.value for mean in found.of.values()])
    spread = np.array([[m.value - m.low, m.high - m.value] for m in found.of.values()]).T
    colours = [GOOD if c == "clean" else NEUTRAL if found.clears(c) else BAD for c in found.of]
    return names, values, spread, colours
