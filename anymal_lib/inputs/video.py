"""Films in prompts. Nothing is read before it is asked for.

Shapes: t: frames; h, w: height and width; c: channels of colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from anymal_lib.errors import InputError
from anymal_lib.inputs.animation_files import open_animation
from anymal_lib.inputs.files import checked_window, existing_file
from anymal_lib.inputs.image import Image
from anymal_lib.inputs.video_files import open_film

if TYPE_CHECKING:
    import PIL.Image

_BEYOND_S = 0.1  # lengths are rounded, and sound and pictures end at different times
_ROUNDING = 1e-9  # of a frame


class _Clip(Protocol):
    """Anything that has frames at times."""

    length: float

    def frames(self, times: Sequence[float]) -> list[PIL.Image.Image]: ...


@dataclass(frozen=True, eq=False)
class Video:
    """A film, or a window of one.

    Args:
        source: a path (MP4, MKV, WEBM, MOV, AVI, an animated GIF, PNG or WEBP, ...); or a list of
            PIL images or arrays (h, w, 3); or one array (t, h, w, c) or (t, c, h, w), as `Image`
            takes them.
        rate: frames per second of a list or array, needed for start and end; a file states when
            its frames are due.
        start, end: the window in seconds from the beginning; None is the whole film.
    """

    source: Any
    _: KW_ONLY
    rate: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def seconds(self) -> float | None:
        """Length of the window; None for a list or array without a rate.

        Raises:
            InputError: as `frames` does.
        """
        with self._clip() as clip:
            start, end = self._window(clip)
        return None if self.rate is None and not self._is_file else end - start

    def frames(self, count: int) -> list[PIL.Image.Image]:
        """Return the RGB frames shown at the centres of `count` equal parts of the window.

        They stand upright. A clip of fewer frames repeats the nearest.

        Raises:
            InputError: no such file, no film, damaged or cut off, too large, another shape, a
                rate that is missing or not wanted, or a window outside the film.
        """
        if not isinstance(count, int | np.integer) or count < 1:
            raise InputError(
                self._name, expected="1 frame or more", got=repr(count), do="Correct the count."
            )
        with self._clip() as clip:
            start, end = self._window(clip)
            part = (end - start) / count
            return clip.frames([start + (k + 0.5) * part for k in range(count)])

    @property
    def _is_file(self) -> bool:
        return isinstance(self.source, str | Path)

    @property
    def _name(self) -> str:
        return str(self.source) if self._is_file else "frames"

    @contextmanager
    def _clip(self) -> Iterator[_Clip]:
        self._check_rate()
        if not self._is_file:
            yield _Pictures(self.source, self.rate or 1.0)
            return
        path = existing_file(self.source)
        with open_animation(path) as animation:
            if animation is not None:
                yield animation
                return
        with open_film(path) as film:
            yield film

    def _check_rate(self) -> None:
        if self._is_file:
            good, expected = self.rate is None, "no rate, as the file states when frames are due"
        elif self.rate is None:
            good, expected = self.start is self.end is None, "a rate, to find start and end"
        else:
            good, expected = 0 < self.rate <= 100_000, "a rate above 0 and up to 100000 Hz"
        if not good:
            do = "Leave rate out." if self._is_file else "Give rate=<frames per second>."
            raise InputError(self._name, expected=expected, got=f"rate={self.rate}", do=do)

    def _window(self, clip: _Clip) -> tuple[float, float]:
        start, end = checked_window(self._name, self.start, self.end, clip.length, beyond=_BEYOND_S)
        if start == end:
            raise InputError(
                self._name,
                expected="a window that lasts",
                got=f"one from {start:g} s to {end:g} s",
                do="Give a later end.",
            )
        return start, end


class _Pictures:
    """Frames in memory."""

    def __init__(self, source: Any, rate: float) -> None:
        if not isinstance(source, list | tuple):
            try:
                source = np.asarray(source)
            except (ValueError, TypeError, RuntimeError) as error:
                raise _shape_error(f"{type(source).__name__} ({error})") from error
            if source.ndim != 4:
                raise _shape_error(f"{source.dtype} of shape {source.shape}")
        if not len(source):
            raise _shape_error("no frame")
        self._source = source
        self._rate = rate
        self.length = len(source) / rate

    def frames(self, times: Sequence[float]) -> list[PIL.Image.Image]:
        last = len(self._source) - 1
        wanted = [min(int(time * self._rate + _ROUNDING), last) for time in times]
        pictures = {index: self._picture(index) for index in sorted(set(wanted))}
        return [pictures[index] for index in wanted]

    def _picture(self, index: int) -> PIL.Image.Image:
        try:
            return Image(self._source[index]).load()
        except InputError as error:
            raise InputError(
                f"frame {index}", expected=error.expected, got=error.got, do=error.do
            ) from error


def _shape_error(got: str) -> InputError:
    return InputError(
        "frames",
        expected="a path, a list of PIL images or arrays (h, w, 3), or an array (t, h, w, c) or "
        "(t, c, h, w), of one frame or more",
        got=got,
        do="Bring it to one of these forms.",
    )
