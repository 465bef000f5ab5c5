"""Raw inputs of prompts: what a user hands over, and its one form inside the kit.

Shapes: h, w: height and width of an image; samples: rows of a sensor recording. Nothing is read
before `load()`, so lists of thousands of inputs are cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anymal_lib.errors import AnyMALError, InputError
from anymal_lib.image_files import (
    image_from_array,
    image_from_bytes,
    image_from_pil,
    read_image,
)
from anymal_lib.imu_files import (
    CHANNELS,
    GAP,
    Recording,
    read_recording,
    recording_from_array,
)
from anymal_lib.rows import Row

if TYPE_CHECKING:
    import PIL.Image

RATES_HZ = (1.0, 10_000.0)
STANDARD_GRAVITY = 9.80665  # m/s² in one g
GAP_S = 0.02  # a step of more than GAP medians is a gap if it is also longer than this


@dataclass(frozen=True, eq=False)
class Image:
    """An image: a file, its content, a PIL image, or an array.

    Args:
        source: a path; or a file's content as bytes; or a PIL image; or an array (h, w), (h, w, c)
            or (c, h, w) with c of 1, 3 or 4, as uint8, uint16, or floats in 0..1.
    """

    source: Any

    def load(self) -> PIL.Image.Image:
        """Return it as RGB, upright, its first frame only, transparency on white.

        Raises:
            InputError: missing, empty, damaged, not an image, too large, or an array of another
                shape, type or range.
        """
        from PIL.Image import Image as PilImage

        if isinstance(self.source, PilImage):
            return image_from_pil(self.source)
        if isinstance(self.source, str | Path):
            return read_image(_existing_file(self.source))
        if isinstance(self.source, bytes):
            return image_from_bytes(self.source)
        return image_from_array(self.source)


@dataclass(frozen=True, eq=False)
class ImuSignal:
    """Six channels of an inertial sensor.

    Attributes:
        samples: float32 (samples, 6): acceleration x, y, z in g, rotation x, y, z in rad/s.
        rate: samples per second.
    """

    samples: np.ndarray
    rate: float

    def resampled(self, rate: float) -> ImuSignal:
        """The same motion at another rate: round(samples * new / old) rows, anti-aliased.

        Raises:
            InputError: the rate is outside 1..10000 Hz, or the result has no sample.
        """
        rate = _checked_rate(rate, "resampled")
        if rate == self.rate:
            return self
        import soxr

        n = round(len(self.samples) * rate / self.rate)
        if n == 0:
            raise InputError(
                "resampled",
                expected="a signal of at least one sample at the new rate",
                got=f"{len(self.samples)} samples, from {self.rate:g} Hz to {rate:g} Hz",
                do="Give a longer window or a higher rate.",
            )
        # The filter takes what lies outside for 0, but gravity never is: hold the edge values,
        # longer than the filter and for a whole number of samples at both rates.
        whole = Fraction(rate / self.rate).limit_denominator(1000).denominator
        pad = whole * math.ceil(64 * max(1, self.rate / rate) / whole)
        held = np.pad(self.samples, ((pad, pad), (0, 0)), mode="edge")
        skip = round(pad * rate / self.rate)
        out = soxr.resample(held, self.rate, rate)[skip : skip + n]
        out = np.pad(out, ((0, n - len(out)), (0, 0)), mode="edge")
        return ImuSignal(np.ascontiguousarray(out, np.float32), rate)


@dataclass(frozen=True, eq=False)
class Imu:
    """A recording of an inertial sensor, or a window of one.

    Args:
        source: a CSV or .npy path, or an array (samples, 6) or (6, samples): acceleration
            x, y, z, then rotation x, y, z. A CSV's header may order its columns otherwise.
        rate: samples per second; None takes it from the CSV's time column, which otherwise
            serves only to find gaps.
        start, end: the window in seconds from the first sample; None is the whole recording.
        accel_unit: "g" or "m/s2"; None decides by the recording's median norm, which gravity
            dominates: 5 to 20 is m/s², everything else g.
        gyro_unit: "rad/s" or "deg/s".
        channels: the six columns, in the order above, by header name or by number from 0, where
            the kit cannot know them.
    """

    source: Any
    rate: float | None = None
    _: KW_ONLY
    start: float | None = None
    end: float | None = None
    accel_unit: Literal["g", "m/s2"] | None = None
    gyro_unit: Literal["rad/s", "deg/s"] = "rad/s"
    channels: Sequence[str | int] | None = None

    def load(self) -> ImuSignal:
        """Read, cut the window, check it and convert its units. It keeps its own rate.

        Raises:
            InputError: no such recording, another number of channels, cells that are no numbers,
                NaN or infinity, gaps, an unknown rate, or a window outside the recording.
        """
        name = str(self.source) if isinstance(self.source, str | Path) else "array"
        self._check_units(name)
        channels = None if self.channels is None else tuple(self.channels)
        if name == "array":
            recording = recording_from_array(self.source, channels)
        else:
            recording = read_recording(_existing_file(self.source), channels)
        rate = _checked_rate(recording.rate if self.rate is None else self.rate, name)
        first, last = self._window(recording, rate, name)
        if recording.seconds is not None:
            _check_gaps(recording.seconds[first:last], first, name)
        samples = recording.samples[first:last].copy()
        bad = np.argwhere(~np.isfinite(samples))
        if len(bad):
            row, column = bad[0]
            raise InputError(
                name,
                expected="finite numbers",
                got=f"{samples[row, column]} in data row {first + row + 1}, {CHANNELS[column]}",
                do="Fill or cut such rows, or select a window without them by start and end.",
            )
        samples[:, :3] /= self._accel_divisor(recording.samples)
        if self.gyro_unit == "deg/s":
            samples[:, 3:] = np.deg2rad(samples[:, 3:])
        return ImuSignal(samples, rate)

    def _check_units(self, name: str) -> None:
        for unit, known in (
            (self.accel_unit, ("g", "m/s2", None)),
            (self.gyro_unit, ("rad/s", "deg/s")),
        ):
            if unit not in known:
                raise InputError(
                    name, expected=f"a unit out of {known}", got=repr(unit), do="Name one of them."
                )

    def _accel_divisor(self, samples: np.ndarray) -> float:
        unit = self.accel_unit
        if unit is None:
            norm = float(np.nanmedian(np.linalg.norm(samples[:, :3].astype(np.float64), axis=1)))
            unit = "m/s2" if 5 <= norm <= 20 else "g"
        return STANDARD_GRAVITY if unit == "m/s2" else 1.0

    def _window(self, recording: Recording, rate: float, name: str) -> tuple[int, int]:
        """First and one-past-last row; a bound takes the nearest sample."""
        n = len(recording.samples)
        timed = self.rate is None and recording.seconds is not None
        seconds = recording.seconds if timed else np.arange(n) / rate
        length = float(seconds[-1]) + 1 / rate
        start = 0.0 if self.start is None else float(self.start)
        end = length if self.end is None else float(self.end)
        half = 0.5 / rate
        if not (0 <= start < length and start <= end <= length + half):
            raise InputError(
                name,
                expected=f"start and end inside its {length:.3f} s",
                got=f"start {start:g} s, end {end:g} s",
                do="Correct the window; seconds count from the first sample.",
            )
        first, last = np.searchsorted(seconds, [start - half, end - half])
        if last <= first:
            raise InputError(
                name,
                expected="at least one sample in the window",
                got=f"none from {start:g} s to {end:g} s at {rate:g} Hz",
                do="Give a longer window.",
            )
        return int(first), int(last)


# One line per modality: what opens a manifest's row.
READERS: dict[str, Callable[[Row], Any]] = {
    "image": lambda row: Image(row.path if row.content is None else row.content),
    "imu": lambda row: Imu(
        row.path, row.rate, start=row.start, end=row.end, gyro_unit=row.gyro_unit or "rad/s"
    ),
}


def open_row(row: Row) -> Image | Imu:
    """The input of a manifest's row, not read yet.

    Raises:
        AnyMALError: this version has no reader for the row's modality.
    """
    if row.modality not in READERS:
        raise AnyMALError(
            f"row {row.id!r}",
            expected=f"a modality that this version reads ({' and '.join(READERS)})",
            got=row.modality,
            do="Use a manifest of one of these.",
        )
    return READERS[row.modality](row)


def _existing_file(source: str | Path) -> Path:
    path = Path(source).expanduser()
    try:
        if str(source).startswith(("http://", "https://")):
            got = "an address on the network"
        elif not path.is_file():
            got = "a folder" if path.is_dir() else "no such file"
        elif path.stat().st_size == 0:
            got = "an empty file (0 bytes)"
        else:
            return path
    except OSError as error:  # no permission, a name too long
        got = str(error)
    raise InputError(
        str(source),
        expected="a file on this machine with something in it",
        got=got,
        do="Check the path, or fetch the file again.",
    )


def _checked_rate(rate: float | None, name: str) -> float:
    low, high = RATES_HZ
    if rate is None:
        raise InputError(
            name, expected="a rate", got="neither a rate nor a time column", do="Give rate=<Hz>."
        )
    if not low <= rate <= high:
        raise InputError(
            name,
            expected=f"a rate of {low:g} to {high:g} Hz",
            got=f"{rate:g} Hz",
            do="Correct rate=, or the unit of the time column by its header (time_ms, time_s).",
        )
    return float(rate)


def _check_gaps(seconds: np.ndarray, first: int, name: str) -> None:
    steps = np.diff(seconds)
    gaps = np.flatnonzero(steps > max(GAP * np.median(steps), GAP_S)) if len(steps) else steps
    if len(gaps):
        at = int(gaps[0])
        raise InputError(
            name,
            expected="samples without a gap",
            got=f"a gap of {steps[at]:.3f} s at {seconds[at]:.3f} s (data row {first + at + 1})",
            do="Cut the recording there, or select a window without it by start and end.",
        )
