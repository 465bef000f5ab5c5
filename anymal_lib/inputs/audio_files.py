"""Turn any sound, file or array, into one channel of float32, or refuse it.

Shapes: samples: one per 1 / rate seconds; channels: averaged to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from anymal_lib.errors import InputError
from anymal_lib.inputs.files import ENDS_EARLY_S, checked_window, cut_off
from anymal_lib.inputs.media import Media, opened

MAX_SAMPLES = 2**28  # a GiB as float32: 93 minutes at 48 kHz
MAX_PEAK = 10.0  # full scale is 1; floats above this hold another unit
MAX_CHANNELS = 64
_BLOCK = 2**18  # values, of all channels
_PREROLL_S = 1.0  # until a lossy decoder is right: MP3 borrows up to 511 bytes from before
_FOREVER = 2**62  # libsndfile's count of samples where a file states none


def read_sound(path: Path, start: float | None, end: float | None) -> tuple[np.ndarray, float]:
    """Read a window of a file's sound: samples (samples,) in about -1..1, and the rate in Hz.

    Raises:
        InputError: no sound in it, damaged, cut off, too long, NaN or infinity, or a window
            outside it.
    """
    sound = _read_plain(path, start, end) or _read_coded(path, start, end)
    check_values(str(path), sound[0])
    return sound


def sound_from_array(source: Any) -> np.ndarray:
    """Convert (samples,), (samples, channels) or (channels, samples) to float32 (samples,).

    The shorter axis is the channels.

    Raises:
        InputError: another shape or type, too long, or no sample.
    """
    try:
        array = np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _array_error(f"{type(source).__name__} ({error})") from error
    if array.dtype.kind != "f" and array.dtype.name not in ("int16", "int32", "uint8"):
        raise _array_error(f"{array.dtype} of shape {array.shape}")
    if array.ndim not in (1, 2) or array.size == 0 or array.size > MAX_SAMPLES:
        raise _array_error(f"{array.dtype} of shape {array.shape}")
    if array.ndim == 2:
        array = array.T if array.shape[0] < array.shape[1] else array
        if array.shape[1] > MAX_CHANNELS:
            raise _array_error(f"{array.dtype} of shape {array.shape}")
    return _mono(_scaled(array), 1) if array.ndim == 2 else _scaled(array)


def _read_plain(
    path: Path, start: float | None, end: float | None
) -> tuple[np.ndarray, float] | None:
    """By libsndfile, or None if it does not know the format."""
    import soundfile

    # By its number: libsndfile would take a name's suffix for a format.
    with path.open("rb") as file:
        try:
            sound = soundfile.SoundFile(file.fileno(), closefd=False)
        except soundfile.LibsndfileError:
            return None
        with sound:
            if sound.format == "MP3":  # its seeking lands elsewhere in files of variable bit rate
                return None
            rate = sound.samplerate
            length = sound.frames / rate if sound.frames < _FOREVER else None
            first, last = _window(str(path), start, end, length)
            try:
                blocks = _plain_blocks(sound, first, last)
                return _gathered(str(path), blocks, rate, first, last), rate
            except soundfile.LibsndfileError as error:
                raise InputError(
                    str(path),
                    expected="a whole sound file",
                    got=error.error_string.strip(" ."),
                    do="Play it in a viewer; convert it to WAV or FLAC, or fetch it again.",
                ) from error


def _plain_blocks(sound: Any, first: float, last: float | None) -> Iterator[np.ndarray]:
    """Mono blocks, and not a sample after the last second: what lies there may be damaged."""
    left = _FOREVER if last is None else round(last * sound.samplerate)
    left -= sound.seek(round(first * sound.samplerate))
    step = _BLOCK // sound.channels
    while len(block := sound.read(min(step, left), "float32", always_2d=True)):
        left -= len(block)
        yield _mono(block, 1)


def _read_coded(path: Path, start: float | None, end: float | None) -> tuple[np.ndarray, float]:
    """By FFmpeg: compressed sound, and the sound track of any film."""
    with opened(path, "audio") as media:
        first, last = _window(media.name, start, end, media.length)
        frames = _frames_from(media, first)
        opening = next(frames, None)
        if opening is None:
            raise _no_sample(media.name)
        time, frame = opening
        rate = frame.sample_rate
        # Both rounded, as in plain files: half way between two samples it begins at the same.
        skip = max(0, round(first * rate) - round(time * rate))
        blocks = _coded_blocks(media, frame, frames, skip)
        return _gathered(media.name, blocks, rate, max(first, time), last), rate


def _frames_from(media: Media, first: float) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their times, from one that begins at or before `first`, if any does."""
    import av

    frames = media.container.decode(media.track)
    if first > _PREROLL_S:
        opening = None
        with suppress(av.FFmpegError):
            media.seek(first - _PREROLL_S)
            opening = next(frames, None)
        time = None if opening is None else media.time(opening)
        if time is not None and time <= first:
            yield time, opening
        else:
            with suppress(av.FFmpegError):  # where no seeking is possible, nothing has moved
                media.seek(0.0)
            frames = media.container.decode(media.track)
    for frame in frames:
        yield media.time(frame) or 0.0, frame


def _coded_blocks(
    media: Media, frame: Any, frames: Iterator[tuple[float, Any]], skip: int
) -> Iterator[np.ndarray]:
    """Mono blocks of a frame and those after it, without the first `skip` samples."""
    rate = frame.sample_rate
    while frame is not None:
        if frame.sample_rate != rate:
            raise InputError(
                media.name,
                expected=f"one rate throughout, as it begins with {rate} Hz",
                got=f"{frame.sample_rate} Hz further on",
                do="Convert it to WAV or FLAC at one rate.",
            )
        values = _scaled(frame.to_ndarray())
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        yield _mono(values[:, skip:], 0)
        skip = max(0, skip - frame.samples)
        _, frame = next(frames, (0.0, None))


def _window(
    name: str, start: float | None, end: float | None, length: float | None
) -> tuple[float, float | None]:
    """First and last second; the last is None if it is the end of a file of unknown length."""
    if length == 0:
        raise _no_sample(name)
    if length is None and end is None:
        return checked_window(name, start, None, float("inf"), beyond=0)[0], None
    return checked_window(name, start, end, float("inf") if length is None else length, beyond=0.1)


def _gathered(
    name: str, blocks: Iterator[np.ndarray], rate: int, first: float, last: float | None
) -> np.ndarray:
    """Blocks that begin at `first`, joined up to `last` (seconds)."""
    wanted = MAX_SAMPLES + 1 if last is None else round(last * rate) - round(first * rate)
    too_long = last is not None and wanted > MAX_SAMPLES
    kept: list[np.ndarray] = []
    count = 0
    while not too_long and count < wanted and (block := next(blocks, None)) is not None:
        kept.append(block[: wanted - count])
        count += len(kept[-1])
    if too_long or count > MAX_SAMPLES:
        raise InputError(
            name,
            expected=f"at most {MAX_SAMPLES / rate / 60:.0f} minutes of sound at {rate} Hz",
            got="more",
            do="Select a window by start and end.",
        )
    if count == 0:
        raise _no_sample(name)
    if last is not None and count < wanted - ENDS_EARLY_S * rate:
        raise cut_off(name, last, first + count / rate)
    return np.concatenate(kept)


def _scaled(array: np.ndarray) -> np.ndarray:
    """Whole numbers to -1..1, as float32."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes inf and is refused by name
            return array.astype(np.float32)
    bits = 8 * array.dtype.itemsize
    middle = 128 if array.dtype.kind == "u" else 0
    return (array.astype(np.float32) - np.float32(middle)) / np.float32(2 ** (bits - 1))


def _mono(values: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused later, by name
        return values.mean(axis=axis, dtype=np.float32)


def check_values(name: str, samples: np.ndarray) -> None:
    """Refuse NaN, infinity and what is far beyond -1..1 with an InputError."""
    peak = float(max(samples.max(), -samples.min()))  # NaN if any sample is
    if not peak <= MAX_PEAK:
        bad = np.flatnonzero(~(np.abs(samples) <= MAX_PEAK))
        raise InputError(
            name,
            expected="finite samples in about -1..1",
            got=f"{samples[bad[0]]:g} at sample {bad[0]}",
            do="Divide by the full scale (32768 for 16 bits), and cut what is not a number.",
        )


def _no_sample(name: str) -> InputError:
    return InputError(
        name,
        expected="at least one sample of sound",
        got="none, in the file or in the window",
        do="Give a longer window, or another file.",
    )


def _array_error(got: str) -> InputError:
    return InputError(
        "array",
        expected="(samples,), (samples, channels) or (channels, samples), of one sample or more, "
        f"at most {MAX_CHANNELS} channels and {MAX_SAMPLES} values, as floats in -1..1, int16, "
        "int32 or uint8",
        got=got,
        do="Bring it to one of these forms.",
    )
