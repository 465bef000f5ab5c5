"""Figures of the notebooks. Each function returns a matplotlib figure and shows nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from anymal_lib.manifest import Row
from anymal_lib.metrics.facts import named_value
from anymal_lib.metrics.intervals import Interval
from anymal_lib.modalities import MODALITIES, modality_of, open_row
from anymal_lib.specs import Profile

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from anymal_lib.evaluate import CaptionReport
    from anymal_lib.train import StepReport

_COLUMNS = {"video": 2}  # items in a row of samples, where four are too many
GOOD, BAD, NEUTRAL = "#1b7837", "#b2182b", "#4d4d4d"


def samples(
    rows: Sequence[Row], captions: Sequence[str] | None = None, right: Sequence[bool] | None = None
) -> Figure:
    """Items with captions below: what the data says or, with `captions`, what the model said.

    With `right`, correct captions are green and wrong ones red with the truth below.
    """
    columns = min(_COLUMNS.get(rows[0].modality, 4), len(rows))
    lines = -(-len(rows) // columns)
    width = 12.4 / _COLUMNS.get(rows[0].modality, 4)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for k, axis in enumerate(axes.flat):
        if k >= len(rows):
            axis.axis("off")
            continue
        row = rows[k]
        draw_item(axis, open_row(row))
        text, colour = (captions[k] if captions else row.text[0]), NEUTRAL
        if right is not None:
            colour = GOOD if right[k] else BAD
            text += "" if right[k] else f"\n(truth: {row.text[0]})"
        axis.set_title(_wrapped(text), fontsize=8, color=colour)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def answers(rows: Sequence[Row], report: CaptionReport, count: int = 8) -> Figure:
    """Held-out items with what the model said: mistakes first (at most half), then right ones."""
    wrong = [k for k, right in enumerate(report.right) if not right][: count // 2]
    good = [k for k, right in enumerate(report.right) if right]
    spread = good[:: max(1, len(good) // count)][: count - len(wrong)]
    chosen = wrong + spread
    return samples(
        [rows[k] for k in chosen],
        [report.captions[k] for k in chosen],
        [report.right[k] for k in chosen],
    )


def draw_item(axis: plt.Axes, item: Any) -> None:
    """One raw input on an axis, as its modality is drawn; its name where it is not."""
    name = modality_of(item)
    if name is None or MODALITIES[name].draw is None:
        axis.text(0.5, 0.5, type(item).__name__, ha="center", va="center")
        axis.axis("off")
        return
    MODALITIES[name].draw(axis, item)


def loss_curve(curves: Mapping[str, Sequence[StepReport]], title: str) -> Figure:
    """Loss over steps, one line a run, with a running mean."""
    figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for k, (name, curve) in enumerate(curves.items()):
        losses = np.array([point.loss for point in curve])
        steps = [point.step for point in curve]
        axis.plot(steps, losses, color=f"C{k}", alpha=0.25, lw=1)
        axis.plot(steps, running_mean(losses), color=f"C{k}", lw=1.8, label=name)
    axis.set(xlabel="step", ylabel="loss (nats)", title=title, yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    return figure


def grounding(controls: Mapping[str, Interval], chance: float, score: str) -> Figure:
    """Score with its interval, clean against the controls, and the best blind answer."""
    figure, axis = plt.subplots(figsize=(6.5, 2.4), layout="constrained")
    names = list(controls)
    values = np.array([controls[name].value for name in names])
    spread = np.array([[c.value - c.low, c.high - c.value] for c in controls.values()]).T
    colours = [GOOD if name == "clean" else NEUTRAL for name in names]
    axis.barh(names, values, xerr=spread, color=colours, height=0.6, capsize=3)
    axis.axvline(chance, color=BAD, ls="--", lw=1, label=f"best blind answer {chance:.2f}")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.05), xlabel=score.replace("_", " "))
    axis.legend(frameon=False, loc="lower right")
    return figure


def confusion(
    rows: Sequence[Row], captions: Sequence[str], fact: str, values: Sequence[str]
) -> Figure:
    """How often a fact's value (rows) was named as which value (columns)."""
    truth = [row.facts[fact] for row in rows]
    named = [named_value(caption, values) for caption in captions]
    columns = [*values, "none or several"]
    counts = np.zeros((len(values), len(columns)), dtype=int)
    for true, said in zip(truth, named, strict=True):
        counts[values.index(true), columns.index(said) if said else -1] += 1
    side = 0.55 * len(values)
    figure, axis = plt.subplots(figsize=(3 + side, 1.6 + side), layout="constrained")
    axis.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Greens", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            ink = "white" if count > counts[i].sum() / 2 else "black"
            axis.text(j, i, count, ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(values)), values, fontsize=8)
    axis.set(xlabel="named in the caption", ylabel="true")
    return figure


def running_mean(values: np.ndarray, window: int = 10) -> np.ndarray:
    """The mean of each value and those before it, at most `window` in all: (n,)."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _wrapped(text: str, width: int = 34) -> str:
    from textwrap import fill

    return "\n".join(fill(line, width) for line in text.splitlines())


class LiveCurve:
    """A loss curve that grows while a run trains; give it as `on_step`.

    It redraws in place now and then, so an executed notebook holds its last state only.
    """

    _every = 15.0  # seconds at least from one picture to the next
    _share = 0.02  # of the run at most goes into pictures: one takes a second or two

    def __init__(self, title: str) -> None:
        self.title = title
        self.curve: list[StepReport] = []
        self._handle: DisplayHandle | None = None
        self._next = 0.0

    def __call__(self, report: StepReport) -> None:
        """Take one step's report."""
        self.curve.append(report)
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Show the curve so far, where a step was taken."""
        from IPython.display import display

        if not self.curve:
            return
        began, last = time.monotonic(), self.curve[-1]
        title = f"{self.title}: step {last.step}, loss {last.loss:.3f}, {last.seconds:.0f} s"
        figure = loss_curve({"training loss": self.curve}, title)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
        plt.close(figure)
        ended = time.monotonic()
        self._next = ended + max(self._every, (ended - began) / self._share)


def system(profile: Profile) -> Figure:
    """AnyMAL in one picture, drawn from a profile."""
    count = len(profile.modalities)
    figure, axis = plt.subplots(figsize=(10, 1.7 + 1.15 * count))
    axis.set(xlim=(0, 10), ylim=(-0.3, count + 1))
    axis.axis("off")
    low, height = count / 2 - 0.5, 1.6  # of the LLM
    for k, (name, spec) in enumerate(reversed(profile.modalities.items())):
        level = k + 0.25
        shape = f", {spec.adapter.layers} layers" if spec.adapter.kind == "resampler" else ""
        _box(axis, 0.1, level, 1.3, name, "white")
        _box(axis, 2.0, level, 2.0, f"{name} encoder\naligned to text", _FROZEN)
        adapter = f"{spec.adapter.kind}{shape}\n{spec.adapter.tokens} tokens"
        _box(axis, 4.6, level, 1.9, adapter, _TRAINED)
        for start, end in ((1.4, 2.0), (4.0, 4.6)):
            _arrow(axis, (start, level + 0.28), (end, level + 0.28))
        _arrow(axis, (6.5, level + 0.28), (7.2, low + height * (k + 1) / (count + 2)))
    _box(axis, 4.6, count + 0.25, 1.9, "instruction\n(text tokens)", "white")
    _arrow(axis, (6.5, count + 0.53), (7.2, low + height * (count + 1) / (count + 2)))
    source = getattr(profile.llm, "package", None) or getattr(profile.llm, "repo_id", "")
    _box(axis, 7.2, low, 1.6, f"LLM\n{source.split('/')[-1]}", _FROZEN, height=height)
    if profile.finetune is not None:
        lora = f"LoRA, rank {profile.finetune.lora.rank}\n(notebook 06)"
        _box(axis, 7.2, low - 0.56, 1.6, lora, _TRAINED)
    _arrow(axis, (8.8, low + height / 2), (9.2, low + height / 2))
    axis.text(9.25, low + height / 2, "answer", va="center", fontsize=10)
    for x, colour, text in ((0.1, _FROZEN, "frozen"), (1.4, _TRAINED, "trained here")):
        axis.add_patch(plt.Rectangle((x, -0.25), 0.25, 0.2, fc=colour, ec="black", lw=0.8))
        axis.text(x + 0.33, -0.15, text, va="center", fontsize=9)
    figure.tight_layout()
    return figure


_FROZEN, _TRAINED = "#d9e6f2", "#f9d9b4"


def _box(
    axis: plt.Axes, x: float, y: float, width: float, text: str, colour: str, height: float = 0.56
) -> None:
    axis.add_patch(plt.Rectangle((x, y), width, height, fc=colour, ec="black", lw=0.9))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axis: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "lw": 1.1})
