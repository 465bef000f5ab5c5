"""Read recordings of an inertial sensor from CSV, .npy or an array.

Shapes: samples: rows of a recording; columns of a file may stand in any order and number, the six
channels come out as acceleration x, y, z, then rotation x, y, z, in the file's own units.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anymal_lib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CHANNELS = tuple(f"{what} {axis}" for what in ("acceleration", "rotation") for axis in "xyz")
GAP = 2.5  # a step longer than this many median steps is no ordinary step
SMALL_BYTES = 2**21

_UNITS = "(?:g|mg|ms2|mss|mps2|s2|rads|radps|degs|dps|s)?"
_AXIS = "(?:axis)?([xyz])(?:axis)?"
_ACCEL = "acc|accl|accel|accelero|accelerometer|acceleration|linearacceleration"
_GYRO = "gyr|gyro|gyros|gyroscope|omega|rot|rotation|rotationrate|angularvelocity|angvel"
_SENSORS = tuple(
    re.compile(f"(?:{words}|{short}){_AXIS}{_UNITS}|{_AXIS}(?:{words}){_UNITS}")
    for words, short in ((_ACCEL, "a"), (_GYRO, "g|w"))
)
_SECONDS = {
    1e-9: "ns|nsec|nanos|nanosecond|nanoseconds",
    1e-6: "us|usec|micros|microsecond|microseconds",
    1e-3: "ms|msec|millis|millisecond|milliseconds",
    1.0: "s|sec|secs|second|seconds",
}
_UNIT = "|".join(_SECONDS.values())
_TIME = re.compile(
    f"(?:canonical|unix|epoch|elapsed|sensor|sample)?(?:timestamp|time|ts|t|elapsed)({_UNIT})?"
    f"|({_UNIT})(?:elapsed)?"
)


@dataclass(frozen=True, eq=False)
class Recording:
    """A whole recording, as it stands in its file.

    Attributes:
        samples: float32 (samples, 6), read-only, in the file's units.
        seconds: float64 (samples,) from the first sample, or None without a time column.
        rate: samples per second by the time column, or None.
    """

    samples: np.ndarray
    seconds: np.ndarray | None = None
    rate: float | None = None


def read_recording(path: Path, channels: tuple[str | int, ...] | None) -> Recording:
    """Read a CSV or .npy file; its content decides, not its suffix.

    A time column without a unit in its name (``time_ms``, ``timestamp [ns]``) is taken by its
    median step: below 1 s, below 1e3 ms, below 1e6 µs, above that ns. So each unit covers
    recordings of 1 to 1000 Hz.

    Args:
        path: an existing file.
        channels: the six columns by name or number, or None to go by the header, or without a
            header by the number of columns: 6 are the channels, 7 the time and the channels.

    Raises:
        InputError: naming the file.
    """
    # A manifest cuts many windows from one recording. Many small recordings are kept, which
    # bounds the memory as well as few large ones.
    stat = path.stat()
    read = _read_small if stat.st_size <= SMALL_BYTES else _read_large
    return read(path, stat.st_mtime_ns, stat.st_size, channels)


def recording_from_array(
    source: Any, channels: Sequence[str | int] | None, name: str = "array"
) -> Recording:
    """Take an array (samples, 6) or (6, samples); with ``channels``, (samples, columns).

    Raises:
        InputError: another shape, or values that are no real numbers.
    """
    try:
        array = np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _channels_error(name, f"{type(source).__name__} ({error})") from error
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.size:
        raise _channels_error(name, f"{array.dtype} of shape {array.shape}")
    if channels is not None:
        array = array[:, _columns(name, [str(i) for i in range(array.shape[1])], channels)]
    elif array.shape[1] != 6:
        array = array.T
    if array.shape[1] != 6:
        raise _channels_error(name, f"shape {array.T.shape}")
    return Recording(_samples(array))


def _read(
    path: Path, _mtime_ns: int, _size: int, channels: tuple[str | int, ...] | None
) -> Recording:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x93NUMPY"):
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
            raise _unreadable(path, "a whole .npy file of numbers", str(error)) from error
        return recording_from_array(array, channels, str(path))
    if b"\0" in head:
        raise _unreadable(path, "a CSV or .npy file", "other binary data")
    return _read_csv(path, channels)


_read_small = lru_cache(maxsize=256)(_read)
_read_large = lru_cache(maxsize=4)(_read)


def _read_csv(path: Path, channels: tuple[str | int, ...] | None) -> Recording:
    import pandas as pd

    try:
        skip, delimiter, cells = _first_line(path)
        header = any(cell and not _is_number(cell) for cell in cells)
        frame = pd.read_csv(
            path,
            sep=delimiter or r"\s+",
            header=None,
            names=list(range(len(cells) + 1)),  # one more, to see rows that are too wide
            index_col=False,
            skiprows=skip + header,
            skipinitialspace=True,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except (OSError, ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        raise _unreadable(path, "a CSV file in UTF-8", str(error).strip()) from error
    if frame[len(cells)].notna().any():
        raise _channels_error(str(path), f"rows of more than the {len(cells)} named columns")
    if frame.empty:
        raise _unreadable(path, "rows of data", "a header alone")
    time, six = _pick_columns(str(path), cells, header, channels)
    names = [cell or f"column {i}" for i, cell in enumerate(cells)] if header else None
    table = [_numbers(path, frame[i], names[i] if names else f"column {i}") for i in six]
    samples = _samples(np.stack(table, axis=1))
    if time is None:
        return Recording(samples)
    label = names[time] if names else ""
    seconds = _seconds(path, _numbers(path, frame[time], label or "the time column"), label)
    return Recording(samples, seconds, _rate(seconds))


def _first_line(path: Path) -> tuple[int, str, list[str]]:
    """Blank lines before it, its delimiter ("" is white space), its cells."""
    with path.open(encoding="utf-8-sig") as file:
        for skip, line in enumerate(file):
            if line.strip():
                delimiter = next((d for d in "\t;," if d in line), "")
                cells = next(csv.reader([line], delimiter=delimiter)) if delimiter else line.split()
                return skip, delimiter, [cell.strip() for cell in cells]
    raise ValueError("no line with anything in it")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _normal(name: str) -> str:
    """``"Acc X (m/s²)"`` -> ``"accxms2"``."""
    plain = unicodedata.normalize("NFKC", name).lower().replace("μ", "u")
    return re.sub("[^a-z0-9]+", "", plain)


def _pick_columns(
    name: str, cells: list[str], header: bool, channels: tuple[str | int, ...] | None
) -> tuple[int | None, list[int]]:
    """Numbers of the time column, if there is one, and of the six channels."""
    normal = [_normal(cell) if header else "" for cell in cells]
    time = next((i for i, cell in enumerate(normal) if _TIME.fullmatch(cell)), None)
    if channels is not None:
        return time, _columns(name, cells, channels)
    if not header:
        width = len(cells) - (cells[-1] == "")
        if width not in (6, 7):
            raise _channels_error(name, f"{width} columns without a header")
        return (0 if width == 7 else None), list(range(width - 6, width))
    six = []
    for sensor in _SENSORS:
        matches = [sensor.fullmatch(cell) for cell in normal]
        for axis in "xyz":
            columns = [i for i, m in enumerate(matches) if m and axis in m.groups()]
            if len(columns) != 1:
                which = CHANNELS[len(six)]
                raise _channels_error(
                    name, f"{len(columns)} columns for {which} in the header {cells}"
                )
            six += columns
    return time, six


def _columns(name: str, cells: list[str], channels: Sequence[str | int]) -> list[int]:
    lower = [cell.lower() for cell in cells]
    try:
        six = [c if isinstance(c, int) else lower.index(c.strip().lower()) for c in channels]
    except ValueError as error:
        raise _channels_error(name, f"channels={list(channels)} for {cells}") from error
    if len(six) != 6 or not all(0 <= i < len(cells) for i in six):
        raise _channels_error(name, f"channels={list(channels)} for {len(cells)} columns")
    return six


def _numbers(path: Path, column: pd.Series, label: str) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero((numbers.isna() & column.notna()).to_numpy() | (column.dtype == bool))
    if len(wrong):
        row = int(wrong[0])
        got = f"{str(column.iloc[row])[:40]!r} in data row {row + 1}, {label}"
        raise _unreadable(path, "numbers with a decimal point", got)
    return numbers.to_numpy(np.float64)


def _seconds(path: Path, time: np.ndarray, label: str) -> np.ndarray:
    if len(bad := np.flatnonzero(~np.isfinite(time))):
        got = f"{time[bad[0]]} in data row {bad[0] + 1}"
        raise _unreadable(path, "a time in every row", got)
    steps = np.diff(time)
    if len(back := np.flatnonzero(steps < 0)):
        got = f"{time[back[0] + 1]:.17g} after {time[back[0]]:.17g} in data row {back[0] + 2}"
        raise _unreadable(path, "time that never goes backwards", got)
    named = _TIME.fullmatch(_normal(label))
    unit = (named.group(1) or named.group(2)) if named else None
    if unit:
        scale = next(s for s, names in _SECONDS.items() if unit in names.split("|"))
    else:
        step = float(np.median(steps)) if len(steps) else 0.0
        scale = 1.0 if step < 1 else 1e-3 if step < 1e3 else 1e-6 if step < 1e6 else 1e-9
    return (time - time[0]) * scale


def _rate(seconds: np.ndarray) -> float | None:
    steps = np.diff(seconds)
    if not len(steps) or not np.median(steps) > 0:
        return None
    # The mean, as stamps are often rounded; without gaps, which belong to no rate.
    return round(1 / float(steps[steps <= GAP * np.median(steps)].mean()), 6)


def _samples(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes inf and is refused by name
        samples = np.array(array, dtype=np.float32, order="C")
    samples.flags.writeable = False  # shared by every window that is cut from it
    return samples


def _unreadable(path: Path, expected: str, got: str) -> InputError:
    do = "Correct the file, or export it again."
    return InputError(str(path), expected=expected, got=got, do=do)


def _channels_error(name: str, got: str) -> InputError:
    return InputError(
        name,
        expected="six channels of numbers: acceleration x, y, z and rotation x, y, z "
        "(columns such as accl_x and gyro_x; arrays (samples, 6) or (6, samples))",
        got=got,
        do="Rename the columns, or name the six in this order by channels=.",
    )
