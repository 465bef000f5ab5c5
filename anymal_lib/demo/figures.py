"""What was asked about, what was answered and what that rests on, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from anymal_lib.demo.session import Weight
from anymal_lib.demo.stages import Trial
from anymal_lib.plots import BAD, GOOD, draw_item


def answers(trials: Sequence[Trial]) -> Figure:
    """A column for each description, and the answer about two: right ones green, meter below."""
    trials = [trial for trial in trials if trial.kind != "question"]
    figure = plt.figure(figsize=(3.1 * len(trials), 3.9), layout="constrained")
    columns = figure.subfigures(1, len(trials), squeeze=False).flat
    for column, trial in zip(columns, trials, strict=True):
        asked = trial.answered
        count = len(asked.items)
        axes = column.subplots(count + 1, 1, height_ratios=[3 / count] * count + [0.6])
        for axis, item in zip(axes, asked.items, strict=False):
            draw_item(axis, item.raw)
        said = fill(asked.answer, 36) or "(no answer)"
        colour = GOOD if trial.right else BAD
        column.suptitle(f"{fill(asked.question, 36)}\n{said}", fontsize=10, color=colour)
        _meter(axes[-1], asked.weights)
    return figure


def _meter(axis: plt.Axes, weights: Sequence[Weight]) -> None:
    places = range(len(weights))
    colours = [GOOD if weight.reads else BAD for weight in weights]
    axis.barh(places, [weight.rests for weight in weights], color=colours, height=0.6)
    axis.set_yticks(places, [weight.item.noun for weight in weights])
    axis.invert_yaxis()
    axis.set(xlim=(0, 1))
    axis.set_xlabel("likelihood lost without it", fontsize=8)
    axis.tick_params(labelsize=8)
