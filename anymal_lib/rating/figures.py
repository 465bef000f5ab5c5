"""The figure of preferences, as the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anymal_lib.paper.results import WINS
from anymal_lib.plots import BAD, GOOD, NEUTRAL
from anymal_lib.rating.results import Preference

_PARTS = (("win", GOOD), ("tie", "#c7c7c7"), ("lose", BAD))
_LOW = 0.06  # a narrower part of a bar has no room for its number
_HEIGHT = 0.42  # inches a bar
_EDGE = 0.24  # how far whiskers stand from the middle of a bar: wins above, losses below


def win_tie_lose(found: Sequence[Preference]) -> Figure:
    """A stacked bar of win, tie and lose for every pairing, and the paper's wins below.

    Whiskers are 95 % intervals of wins (from the left) and losses (from the right).
    """
    paper = WINS.column("MM-IT", "wins against the human reference")
    heights = [max(1, len(found)), len(paper)]
    figure = plt.figure(figsize=(9, _HEIGHT * sum(heights) + 1.6), layout="constrained")
    ours, theirs = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_ours(ours, found)
    _draw_paper(theirs, paper)
    theirs.set_xlabel("% of the items")
    handles, labels = ours.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_ours(axis: Axes, found: Sequence[Preference]) -> None:
    for k, one in enumerate(found):
        start = 0.0
        for name, colour in _PARTS:
            part = 100 * getattr(one, name).value
            label = name if k == 0 else None
            axis.barh(k, part, left=start, color=colour, height=0.62, label=label)
            _number(axis, start + part / 2, k, part, "black" if name == "tie" else "white")
            start += part
        _whisker(axis, k - _EDGE, 100 * one.win.low, 100 * one.win.high)
        _whisker(axis, k + _EDGE, 100 - 100 * one.lose.high, 100 - 100 * one.lose.low)
    names = [f"{p.system} against {p.against}\n{p.raters}, {p.items} items" for p in found]
    _frame(
        axis, names, "here: each pairing with who rated it, and 95 % intervals of wins and losses"
    )


def _draw_paper(axis: Axes, wins: dict[str, float]) -> None:
    for k, value in enumerate(wins.values()):
        axis.barh(k, value, color=GOOD, height=0.62, alpha=0.55)
        axis.barh(k, 100 - value, left=value, color="#ededed", height=0.62)
        axis.text(value + 0.8, k, f"{value:.1f}", va="center", fontsize=8)
    title = f"{WINS.source} of the paper: people, against the human reference (wins only)"
    _frame(axis, list(wins), title)


def _frame(axis: Axes, names: list[str], title: str) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title(title, fontsize=9, loc="left", color=NEUTRAL)
    axis.set(xlim=(0, 100), ylim=(max(1, len(names)) - 0.4, -0.6))  # the first one on top
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)


def _number(axis: Axes, x: float, y: float, value: float, colour: str) -> None:
    if value >= 100 * _LOW:
        axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)


def _whisker(axis: Axes, y: float, low: float, high: float) -> None:
    if high > low:
        half = (high - low) / 2
        axis.errorbar(low + half, y, xerr=half, color="black", lw=1, capsize=2, fmt="none")
