"""What an item looks like on the page: a picture, and a player where there is time in it."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from anymal_lib.drawing import draw_audio
from anymal_lib.inputs import Audio, Imu
from anymal_lib.rating import views

_SIZE = (5.2, 3.2)  # inches


def view(item: Any) -> widgets.VBox:
    """One item to look at and to play.

    Raises:
        AnyMALError: it cannot be read.
    """
    found = views.view(item, picture(item))
    for part in found.children:
        part.layout = widgets.Layout(max_width="100%", max_height="320px", object_fit="contain")
    return found


def picture(item: Any) -> bytes:
    """PNG: a sound as waveform and spectrogram, motion as six channels, others as everywhere."""
    if isinstance(item, Audio):
        return views.png(_sound(item))
    if isinstance(item, Imu):
        return views.png(_motion(item))
    return views.drawing(item)


def _sound(item: Audio) -> Figure:
    sound = item.load()
    figure = Figure(figsize=_SIZE, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2, 3), sharex=True)
    above.plot(np.arange(len(sound.samples)) / sound.rate, sound.samples, lw=0.5)
    above.set_xlim(0, len(sound.samples) / sound.rate)
    above.set_ylabel("amplitude", fontsize=8)
    above.tick_params(labelsize=7)
    draw_audio(below, item)
    below.set_ylabel("frequency", fontsize=8)
    return figure


def _motion(item: Imu) -> Figure:
    signal = item.load()
    seconds = np.arange(len(signal.samples)) / signal.rate
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, first, title in zip(
        axes, (0, 3), ("acceleration (g)", "rotation (rad/s)"), strict=True
    ):
        for k, name in enumerate("xyz"):
            axis.plot(seconds, signal.samples[:, first + k], lw=1, color=f"C{k}", label=name)
        axis.set_ylabel(title, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.margins(x=0)
    axes[1].set_xlabel("s", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
