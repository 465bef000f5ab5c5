"""Ego4D's recordings of head motion as stretches at one rate, and windows inside them.

Shapes: samples: rows of a recording; six channels: acceleration x, y, z in m/s², rotation x, y, z
in rad/s. Times are seconds of the video's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anymal_lib.inputs import ImuSignal
from anymal_lib.rows import refusal

RATE_HZ = 200  # IMU2CLIP
WINDOW_S = 5.0  # IMU2CLIP: 2.5 s on either side
GAP_S = 0.1  # a longer step between samples ends a stretch (ours)
_SHORTEST_STEP_S = 1e-4  # 10 kHz; a shorter one is no sensor's

_TIME = "canonical_timestamp_ms"
_CHANNELS = ["accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a recording without gaps, at `RATE_HZ`.

    Attributes:
        start: seconds of the video's clock at its first sample.
        samples: float32 (samples, 6).
    """

    start: float
    samples: np.ndarray

    @property
    def end(self) -> float:
        """Seconds of the video's clock after its last sample."""
        return self.start + len(self.samples) / RATE_HZ


def read_stretches(file: Path) -> list[Stretch]:
    """The stretches of one of Ego4D's ``<video uid>.csv`` that hold at least one window.

    Schema: ``canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z`` among other
    columns. As IMU2CLIP does: rows without a time are dropped, the rest is sorted by it, missing
    values become 0, acceleration stands first. Unlike it, which resamples across gaps as if they
    were not there, every stretch between gaps is brought to even times and resampled by itself.

    Raises:
        ManifestError: no such columns, or cells that are no numbers.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file, usecols=[_TIME, *_CHANNELS], low_memory=False)
        table = table.astype(float).dropna(subset=[_TIME]).sort_values(_TIME, kind="stable")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        expected = f"a CSV of numbers with the columns {_TIME}, {', '.join(_CHANNELS)}"
        raise refusal(file, expected, str(error), "Fetch it again.") from error
    seconds = table[_TIME].to_numpy() / 1000
    samples = table[_CHANNELS].fillna(0.0).to_numpy(np.float32)
    cuts = np.flatnonzero(np.diff(seconds) > GAP_S) + 1
    return [
        stretch
        for times, part in zip(np.split(seconds, cuts), np.split(samples, cuts), strict=True)
        if (stretch := _resampled(times, part)) is not None
    ]


def _resampled(times: np.ndarray, samples: np.ndarray) -> Stretch | None:
    """Samples (samples, 6) at any times -> a stretch; None if it is too short for a window."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    if step < _SHORTEST_STEP_S or times[-1] - times[0] + step < WINDOW_S:
        return None
    # Even times first: a sample that is missing would otherwise shift all that follow it.
    even = np.arange(times[0], times[-1] + step / 2, step)
    even_samples = np.stack([np.interp(even, times, channel) for channel in samples.T], axis=1)
    signal = ImuSignal(even_samples.astype(np.float32), 1 / step).resampled(RATE_HZ)
    stretch = Stretch(float(times[0]), signal.samples)
    return stretch if stretch.end - stretch.start >= WINDOW_S else None


def window_at(seconds: float, stretches: list[Stretch]) -> tuple[int, float] | None:
    """The window of a narration: which stretch, and its start in seconds from that one's start.

    The rule: `WINDOW_S` centred on the narration's time; where that reaches beyond the first or
    the last sample of the whole recording, it is moved inside, if the narration still lies in it
    (IMU2CLIP moves it so at both ends of the video, and then rounds down to whole seconds, which
    is left out here). A window that crosses a gap is none.
    """
    if not stretches:
        return None
    low, high = stretches[0].start, stretches[-1].end - WINDOW_S
    start = min(max(seconds - WINDOW_S / 2, low), high)
    if not start <= seconds <= start + WINDOW_S:
        return None
    for number, stretch in enumerate(stretches):
        # Half a sample: the start of a stretch is a rounded time.
        if stretch.start - 0.5 / RATE_HZ <= start <= stretch.end - WINDOW_S + 0.5 / RATE_HZ:
            last = len(stretch.samples) / RATE_HZ - WINDOW_S
            return number, min(max(0.0, start - stretch.start), last)
    return None
