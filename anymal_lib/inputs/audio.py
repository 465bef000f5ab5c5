"""Sounds in prompts. Nothing is read before `load()`.

Shapes: samples: one per 1 / rate seconds, a single channel.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymal_lib.errors import InputError
from anymal_lib.inputs.audio_files import MAX_SAMPLES, check_values, read_sound, sound_from_array
from anymal_lib.inputs.files import checked_window, existing_file

RATES_HZ = (1_000.0, 768_000.0)


@dataclass(frozen=True, eq=False)
class Waveform:
    """One channel of sound.

    Attributes:
        samples: float32 (samples,), in about -1..1.
        rate: samples per second.
    """

    samples: np.ndarray
    rate: float

    def resampled(self, rate: float) -> Waveform:
        """The same sound at another rate: round(samples * new / old), anti-aliased.

        Raises:
            InputError: the rate is outside 1..768 kHz, or the result too long or without a sample.
        """
        rate = _checked_rate(rate, "resampled")
        if rate == self.rate:
            return self
        import soxr

        n = round(len(self.samples) * rate / self.rate)
        if not 0 < n <= MAX_SAMPLES:
            raise InputError(
                "resampled",
                expected=f"1 to {MAX_SAMPLES} samples at the new rate",
                got=f"{len(self.samples)} samples, from {self.rate:g} Hz to {rate:g} Hz",
                do="Give another window or another rate.",
            )
        out = soxr.resample(self.samples, self.rate, rate)[:n]
        return Waveform(np.pad(out, (0, n - len(out))), rate)


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound, the sound track of a film, or a window of one.

    Silence and clipped sound are sound; an encoder may be more particular.

    Args:
        source: a path (WAV, FLAC, OGG, Opus, MP3, M4A, or any container with a sound track); or
            an array (samples,), (samples, channels) or (channels, samples), as floats in about
            -1..1, int16, int32 or uint8. Channels are averaged.
        rate: samples per second of an array. A file states its own: another one given here is
            refused, as the sound would play at a wrong speed; `load().resampled(rate)` converts.
        start, end: the window in seconds from the beginning (of the film, for a sound track);
            None is the whole sound. Exact to a sample, in Matroska to its timestamps' millisecond.
    """

    source: Any
    rate: float | None = None
    _: KW_ONLY
    start: float | None = None
    end: float | None = None

    def load(self) -> Waveform:
        """Read the window as one channel. It keeps its own rate.

        A file that ends half a second or more before the length that it states is refused, unless
        the window lies before that; without a stated length (MP3, bare AAC) it is read to its end.

        Raises:
            InputError: no such file, no sound in it, damaged or cut off, NaN or infinity, an
                unknown or contradicted rate, or a window outside the sound.
        """
        if not isinstance(self.source, str | Path):
            return self._of_array()
        if self.rate is not None:
            _checked_rate(self.rate, str(self.source))
        samples, rate = read_sound(existing_file(self.source), self.start, self.end)
        if self.rate is not None and self.rate != rate:
            raise InputError(
                str(self.source),
                expected=f"no rate, or the {rate:g} Hz that the file states",
                got=f"rate={self.rate:g}",
                do="Leave rate out; .load().resampled(rate) converts.",
            )
        return Waveform(samples, _checked_rate(rate, str(self.source)))

    def _of_array(self) -> Waveform:
        rate = _checked_rate(self.rate, "array")
        samples = sound_from_array(self.source)
        length = len(samples) / rate
        start, end = checked_window("array", self.start, self.end, length, beyond=0.5 / rate)
        window = samples[round(start * rate) : round(end * rate)]
        if not len(window):
            raise InputError(
                "array",
                expected="at least one sample in the window",
                got=f"none from {start:g} s to {end:g} s at {rate:g} Hz",
                do="Give a longer window.",
            )
        check_values("array", window)
        return Waveform(window, rate)


def _checked_rate(rate: float | None, name: str) -> float:
    low, high = RATES_HZ
    if rate is None:
        raise InputError(
            name,
            expected="a rate",
            got="an array without one",
            do="Give rate=<samples per second>.",
        )
    if not low <= rate <= high:
        raise InputError(
            name,
            expected=f"a rate of {low:g} to {high:g} Hz",
            got=f"{rate:g} Hz",
            do="Correct the rate; it is in Hz, not in kHz.",
        )
    return float(rate)
