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
    """A column for each description: its items, the answer (right ones green), and the meter."""
    trials = [trial for trial in trials if trial.kind != "question"]
    rows = max(len(trial.answered.items) for trial in trials)
    figure, axes = plt.subplots(
        rows + 1,
        len(trials),
        figsize=(3.3 * len(trials), 2.2 * rows + 1.1),
        height_ratios=[2.2] * rows + [0.45 * rows],
        squeeze=False,
        layout="constrained",
    )
    for column, trial in zip(axes.T, trials, strict=True):
        asked = trial.answered
        for k, axis in enumerate(column[:-1]):
            if k < len(asked.items):
                draw_item(axis, asked.items[k].raw)
            else:
                axis.axis("off")
        said = fill(asked.answer, 36) or "(no answer)"
        title = f"{fill(asked.question, 36)}\n{said}"
        column[0].set_title(title, fontsize=9, color=GOOD if trial.right else BAD)
        _meter(column[-1], asked.weights)
    return figure


def _meter(axis: plt.Axes, weights: Sequence[Weight]) -> None:
    names = [weight.item.label for weight in weights]
    colours = [GOOD if weight.reads else BAD for weight in weights]
    axis.barh(names, [weight.rests for weight in weights], color=colours, height=0.6)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="likelihood lost without it")
    axis.xaxis.label.set_size(8)
    axis.tick_params(labelsize=8)
