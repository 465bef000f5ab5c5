"""Raw inputs on a matplotlib axis, one function a modality."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from anymal_lib.inputs import Audio, Image, Imu, Video

_SIDE = 160  # pixels of a drawn frame
_FLOOR = 60  # dB below its peak at which a spectrogram is drawn black


def draw_image(axis: Axes, item: Image) -> None:
    """The picture."""
    axis.imshow(item.load())
    axis.axis("off")


def draw_imu(axis: Axes, item: Imu) -> None:
    """Six channels over time: acceleration in g as lines, rotation dotted below."""
    signal = item.load()
    seconds = np.arange(len(signal.samples)) / signal.rate
    for k, name in enumerate("xyz"):
        axis.plot(seconds, signal.samples[:, k], lw=1, color=f"C{k}", label=name)
        axis.plot(seconds, signal.samples[:, 3 + k] / 4 - 3, lw=0.8, color=f"C{k}", ls=":")
    axis.set_xlabel("s", fontsize=7)
    axis.set_yticks([0, -3], ["acc", "gyro"], fontsize=7)
    axis.tick_params(labelsize=7)


def draw_audio(axis: Axes, item: Audio) -> None:
    """The spectrogram up to 4 kHz over time; loud is bright."""
    sound = item.load().resampled(8000)
    # Silence has no logarithm.
    faint = np.random.default_rng(0).normal(0, 1e-10, len(sound.samples))
    axis.specgram(
        sound.samples + faint,
        NFFT=512,
        Fs=sound.rate,
        noverlap=384,
        cmap="magma",
        **_loudness(sound.samples),
    )
    axis.set_xlabel("s", fontsize=7)
    axis.set_yticks([0, 2000, 4000], ["0", "2", "4 kHz"], fontsize=7)
    axis.tick_params(labelsize=7)


def _loudness(samples: np.ndarray) -> dict[str, float]:
    """The range of colours: the loudest spectrum that a sine of this amplitude has, and below."""
    top = 20 * np.log10(max(float(np.abs(samples).max(initial=0)), 1e-4)) - 25
    return {"vmin": top - _FLOOR, "vmax": top}


def draw_video(axis: Axes, item: Video, count: int = 4) -> None:
    """Some frames side by side."""
    frames = [frame.resize((_SIDE, _SIDE)) for frame in item.frames(count)]
    gap = np.full((_SIDE, 6, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (np.asarray(frame), gap)][:-1]
    axis.imshow(np.concatenate(parts, axis=1))
    axis.axis("off")
