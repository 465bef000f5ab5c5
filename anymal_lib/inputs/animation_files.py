"""Animated pictures (GIF, PNG, WEBP) as films, by Pillow: FFmpeg drops their transparency, and does
not know animated WEBP."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anymal_lib.errors import InputError
from anymal_lib.inputs.image_files import image_from_pil, refusing
from anymal_lib.inputs.video_files import MAX_DECODED_PIXELS, check_kept

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("GIF", "PNG", "WEBP")
_MIN_S = 0.1  # browsers show a frame without a duration for this long


class Animation:
    """An open animated picture; a still one is an animation of one frame.

    Attributes:
        length: in seconds, of one round.
    """

    def __init__(self, name: str, image: Image) -> None:
        self._name = name
        self._image = image
        count = getattr(image, "n_frames", 1)
        check_kept(name, 1, *image.size)
        if count * image.width * image.height > MAX_DECODED_PIXELS:
            raise InputError(
                name,
                expected=f"at most {MAX_DECODED_PIXELS} pixels in all frames together",
                got=f"{count} frames of {image.width} x {image.height}",
                do="Encode it as a film, such as MP4, from which frames can be picked.",
            )
        self._ends = []
        end = 0.0
        for index in range(count):
            image.seek(index)
            image.load()  # WEBP knows a frame's duration only then
            end += (image.info.get("duration") or 0) / 1000 or _MIN_S
            self._ends.append(end)
        self.length = end

    def frames(self, times: Sequence[float]) -> list[Image]:
        """The frames shown at these seconds as RGB, transparency on white.

        Raises:
            InputError: too many pixels in all of them, or damaged.
        """
        check_kept(self._name, len(times), *self._image.size)
        wanted = [min(bisect_right(self._ends, time), len(self._ends) - 1) for time in times]
        pictures: dict[int, Image] = {}
        for index in wanted:
            if index not in pictures:
                self._image.seek(index)
                pictures[index] = image_from_pil(self._image)
        return [pictures[index] for index in wanted]


@contextmanager
def open_animation(path: Path) -> Iterator[Animation | None]:
    """Open a file by its content; None if it is no picture of a format that can be animated.

    Raises:
        InputError: such a picture, but damaged or too large.
    """
    import PIL.Image

    with refusing(str(path)):
        try:
            image = PIL.Image.open(path, formats=_FORMATS)
        except PIL.UnidentifiedImageError:
            yield None
            return
        with image:
            yield Animation(str(path), image)
