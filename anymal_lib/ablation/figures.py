"""Figures of notebook 08: Figure 4 as panels, and a user's own curve. Nothing is shown."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from anymal_lib.ablation.experiment import Outcome
from anymal_lib.ablation.grid import FACTORS, Same, Setting
from anymal_lib.ablation.reference import Beside, Curve
from anymal_lib.ablation.results import Results
from anymal_lib.plots import BAD, NEUTRAL

# What is on the axis of a panel, and what the runs that are drawn there have in common.
_AXES: tuple[tuple[str, Same], ...] = (
    ("steps", "steps"),
    ("samples", "samples"),
    ("seconds", "samples"),
)
_LOW, _HIGH = 0.15, 0.8  # of the colour map: its ends are hard to see on white


def figure_4(results: Results) -> Figure:
    """A row for each factor: training loss over steps, samples and time, final accuracy beside.

    Lines are means over the seeds of running means over a tenth of the steps, bands reach from the
    lowest seed to the highest. Batches are compared at equal steps over steps, else at equal
    samples. Bars are mean accuracies, dots the seeds.
    """
    factors = [factor for factor, values in results.grid.values.items() if len(values) > 1]
    figure, panels = plt.subplots(
        max(1, len(factors)),
        4,
        figsize=(13.5, 2.7 * max(1, len(factors)) + 0.3),
        layout="constrained",
        squeeze=False,
        width_ratios=(3, 3, 3, 2.4),
    )
    for row, factor in zip(panels, factors, strict=False):
        colours = _colours(results, factor)
        for axis, (along, same) in zip(row, _AXES, strict=False):
            for value in results.grid.values[factor]:
                runs = results.runs[results.grid.at(factor, value, same)]
                _band(axis, _x(runs, along), _smoothed(runs), colours[value], str(value))
            axis.set(yscale="log", xlabel="training time, s" if along == "seconds" else along)
            _plain_ticks(axis)
        row[0].set_ylabel("training loss (nats)")
        names = {"llm_layers": "LLM layers"}
        row[0].legend(title=names.get(factor, FACTORS[factor]), frameon=False, fontsize=8)
        _accuracies(row[3], results, factor, colours)
    return figure


def own_curve(found: Beside) -> Figure:
    """A user's curve over the stored ones, loss over samples."""
    figure, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for k, curve in enumerate(found.others):
        label = "other runs of notebook 08" if k == 0 else None
        axis.plot(curve.samples, curve.loss, color=NEUTRAL, alpha=0.2, lw=0.8, label=label)
    if found.base:
        losses = np.stack([curve.loss for curve in found.base])
        label = f"base of notebook 08, {len(found.base)} seeds"
        _band(axis, found.base[0].samples, losses, "C0", label)
    for curve, colour, style in ((found.notebook, "black", "--"), (found.own, BAD, "-")):
        if curve is not None:
            axis.plot(curve.samples, curve.loss, style, color=colour, lw=1.8, label=curve.name)
    axis.set(yscale="log", xlabel="samples", ylabel="training loss (nats)")
    _plain_ticks(axis)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=9)
    return figure


def _colours(results: Results, factor: str) -> dict[int, tuple[float, ...]]:
    values = results.grid.values[factor]
    shades = plt.get_cmap("viridis_r")(np.linspace(_LOW, _HIGH, len(values)))
    return dict(zip(values, map(tuple, shades), strict=True))


def _x(runs: Sequence[Outcome], along: str) -> np.ndarray:
    return np.mean([run.along(along) for run in runs], axis=0)


def _smoothed(runs: Sequence[Outcome]) -> np.ndarray:
    """Running means of the loss: (seeds, steps)."""
    return np.stack([Curve.of("", run.along("samples"), run.losses).loss for run in runs])


def _band(axis: Axes, x: np.ndarray, losses: np.ndarray, colour: object, label: str) -> None:
    axis.plot(x, losses.mean(0), color=colour, lw=1.8, label=label)
    axis.fill_between(x, losses.min(0), losses.max(0), color=colour, alpha=0.2, lw=0)


def _plain_ticks(axis: Axes) -> None:
    shown = axis.get_ylim()
    axis.set_yticks([0.2, 0.3, 0.5, 1, 2, 3, 5], minor=False)
    axis.set_ylim(shown)  # ticks outside would widen it
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3, which="both")


def _accuracies(
    axis: Axes, results: Results, factor: str, colours: dict[int, tuple[float, ...]]
) -> None:
    """Exact match of every setting of a factor: a bar, and a dot a seed."""
    settings = results.grid.of(factor)
    for k, setting in enumerate(settings):
        found = [run.exact_match for run in results.runs[setting]]
        colour = colours[getattr(setting, factor)]
        axis.barh(k, np.mean(found), color=colour, height=0.62, alpha=0.8)
        axis.plot(found, [k] * len(found), ".", color="black", ms=5)
    axis.set_yticks(range(len(settings)), [_named(results, s, factor) for s in settings])
    axis.tick_params(labelsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="exact match, held out")
    axis.grid(alpha=0.3, axis="x")


def _named(results: Results, setting: Setting, factor: str) -> str:
    """A setting's value of a factor; of another batch, what it shares with the base."""
    value = getattr(setting, factor)
    if factor != "batch" or value == results.grid.base.batch:
        return str(value)
    return f"{value}, equal {'steps' if setting.steps == results.grid.base.steps else 'samples'}"
