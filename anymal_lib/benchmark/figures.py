"""Figures and tables of notebook 11. A figure is returned, nothing is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from anymal_lib.benchmark.curves import Size
from anymal_lib.benchmark.recipes import Headline
from anymal_lib.benchmark.timing import Spread, Times

_OURS, _BARE, _OTHER = "#1b7837", "#4d4d4d", "#b2182b"
_COLOURS = {"ours": _OURS, "bare": _BARE, "ours, resampler": "#5aae61"}


def table(rows: Mapping[Any, Any], title: str = "") -> pd.DataFrame:
    """Rows of values, spreads or dataclasses as a table; a spread is median (quartiles)."""
    plain = {
        name: {f.name.replace("_", " "): getattr(row, f.name) for f in fields(row)}
        if is_dataclass(row) and not isinstance(row, Spread)
        else row
        if isinstance(row, Mapping)
        else {title: row}
        for name, row in rows.items()
    }
    return pd.DataFrame({k: {n: _shown(v) for n, v in row.items()} for k, row in plain.items()}).T


def _shown(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def against_bare(found: Mapping[Any, Times], positions: Mapping[Any, int]) -> pd.DataFrame:
    """Our step over the bare one, and how many positions a second it takes in."""
    return table(
        {
            name: {
                "bare, seconds": times.of("bare"),
                "ours, seconds": times.of("ours"),
                "ours / bare": times.ratio("ours", "bare"),
                "ours, tokens / s": round(positions[name] / times.of("ours").median),
            }
            for name, times in found.items()
        }
    )


def headline(found: Headline) -> Figure:
    """Time of each step over the bare one's, with quartiles."""
    names = list(found.times.seconds)
    ratios = [found.times.ratio(name, "bare") for name in names]
    values = np.array([r.median for r in ratios])
    spread = np.array([[r.median - r.low, r.high - r.median] for r in ratios]).T
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    colours = [_OURS if n.startswith("ours") else _BARE if n == "bare" else _OTHER for n in names]
    axis.barh(names, values, xerr=spread, color=colours, height=0.6, capsize=3)
    for k, ratio in enumerate(ratios):  # beyond the whisker
        axis.text(ratio.high * 1.08, k, f"{ratio.median:.2f}", va="center", fontsize=9)
    axis.axvline(1, color=_BARE, lw=0.8, ls="--")
    axis.invert_yaxis()
    axis.set(xscale="log", xlim=(0.3, max(r.high for r in ratios) * 1.6), xlabel="time / bare step")
    axis.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axis.minorticks_off()
    return figure


def costs(
    captions: Mapping[int, Times],
    tokens: Mapping[int, Times],
    batches: Mapping[int, Times],
    sizes: Mapping[str, Size],
) -> Figure:
    """Seconds of a step as captions, modality tokens, the batch and the LLM grow."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    panels = {
        "caption tokens": captions,
        "modality tokens": tokens,
        "batch": batches,
        "LLM parameters, millions": {s.parameters / 1e6: s.times for s in sizes.values()},
    }
    for axis, (label, points) in zip(axes, panels.items(), strict=True):
        for name in next(iter(points.values())).seconds:
            spreads = [times.of(name) for times in points.values()]
            middle = [s.median for s in spreads]
            axis.plot(list(points), middle, "o-", ms=4, color=_COLOURS[name], label=name)
            low, high = [s.low for s in spreads], [s.high for s in spreads]
            axis.fill_between(list(points), low, high, color=_COLOURS[name], alpha=0.2)
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds a step")
    axes[1].legend(frameon=False, fontsize=8)
    return figure
