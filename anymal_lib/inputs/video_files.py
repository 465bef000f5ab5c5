"""Frames of a film at chosen times, decoded from the keyframe before each, never the whole film.

Seconds count from the file's first timestamp. At any time a film shows its last frame that was due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymal_lib.errors import InputError
from anymal_lib.inputs.files import ENDS_EARLY_S, cut_off
from anymal_lib.inputs.image_files import check_pixels
from anymal_lib.inputs.media import Media, opened

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_KEPT_PIXELS = 2**30  # of all frames asked for: 3 GiB as RGB
MAX_DECODED_PIXELS = 2**36  # from one wanted frame to the next: 18 minutes of 1080p at 30 Hz
_JUMP_S = 2.0  # seek over gaps longer than this, where no index says that it is of use
_STEPS_BACK_S = (0.0, 1.0, 4.0, 16.0, 64.0, float("inf"))
_ROUNDING_S = 1e-6  # of timestamps, so that a frame due at a time is shown at it


@contextmanager
def open_film(path: Path) -> Iterator[Film]:
    """Open a film, whose length is counted by its packets where the file does not state it.

    Raises:
        InputError: not a film, damaged, without a frame, or with frames of too many pixels.
    """
    with opened(path, "video") as media:
        if media.length is not None:
            yield Film(media, media.length)
            return
        length, timed = _counted(media)
    with opened(path, "video") as media:
        yield Film(media, length, seekable=timed)


def check_kept(name: str, count: int, width: int, height: int) -> None:
    """Refuse frames that are too large, one by one or together, with an InputError."""
    check_pixels(name, width, height)
    if count * width * height > MAX_KEPT_PIXELS:
        raise InputError(
            name,
            expected=f"at most {MAX_KEPT_PIXELS} pixels in all frames together",
            got=f"{count} frames of {width} x {height}",
            do="Ask for fewer frames, or scale the film down first.",
        )


class Film:
    """An open film.

    Attributes:
        length: in seconds.
    """

    def __init__(self, media: Media, length: float, *, seekable: bool = True) -> None:
        self.length = length
        self._media = media
        self._rate = float(media.track.guessed_rate or 25)
        self._seekable = seekable
        self._index_right = True
        self._jump = _JUMP_S
        self._reached = 0.0  # where the last packet read, of any track, ends
        self._restart(keyframe_first=False)

    def frames(self, times: Sequence[float]) -> list[Image]:
        """The frames shown at these seconds, ascending, as upright RGB.

        Raises:
            InputError: too large, no frame in it, cut off before a wanted time, or too much to
                decode for one frame.
        """
        context = self._media.track.codec_context
        check_kept(self._media.name, len(times), context.width, context.height)
        pictures: list[Image] = []
        last = None
        for time in times:
            frame = self._shown_at(time)
            pictures.append(pictures[-1] if frame is last else _upright(frame))
            last = frame
        return pictures

    def _shown_at(self, time: float) -> Any:
        self._approach(time)
        budget = MAX_DECODED_PIXELS
        while self._ahead is not None and self._ahead[0] <= time + _ROUNDING_S:
            budget -= self._ahead[1].width * self._ahead[1].height
            if budget < 0:
                raise InputError(
                    self._media.name,
                    expected=f"a keyframe at most {MAX_DECODED_PIXELS} pixels before {time:.3f} s",
                    got="none",
                    do="Encode it again, with a keyframe every few seconds.",
                )
            self._advance()
        if self._ahead is None and self._reached < time - ENDS_EARLY_S:
            raise cut_off(self._media.name, self.length, self._reached)
        frame = self._shown or self._ahead  # the film may begin after the wanted time
        if frame is None:
            raise InputError(
                self._media.name,
                expected="a film with frames",
                got="none that can be decoded",
                do="Play it in a viewer; convert it, or fetch it again.",
            )
        return frame[1]

    def _restart(self, *, keyframe_first: bool) -> None:
        """Forget frames of before a seek."""
        self._shown: tuple[float, Any] | None = None
        self._ahead: tuple[float, Any] | None = None
        self._begun = False
        self._clock = 0.0  # when a frame without a timestamp is due
        self._decoded = _decoded(self._media, self._saw, keyframe_first)

    def _saw(self, packet: Any) -> None:
        self._reached = max(self._reached, self._media.end(packet))

    def _advance(self) -> None:
        """Decode one more frame."""
        self._begun = True
        self._shown = self._ahead or self._shown
        frame = next(self._decoded, None)
        if frame is None:
            self._ahead = None
            return
        time = self._media.time(frame)
        if time is None:
            self._seekable = False
            time = self._clock
            self._reached = max(self._reached, time + 1 / self._rate)
        self._clock = time + 1 / self._rate
        self._ahead = time, frame

    def _approach(self, time: float) -> None:
        """Seek if a keyframe lies, or may lie, between what was decoded and this time."""
        here = self._ahead[0] if self._ahead is not None else 0.0
        keyframe = self._keyframe_before(time) if self._index_right else None
        known = keyframe is not None and keyframe > here
        ended = self._begun and self._ahead is None
        if self._seekable and not ended and (known or time - here > self._jump):
            self._seek(time)
            if self._ahead is not None and self._ahead[0] <= here:  # in vain: learn from it
                self._index_right &= not known
                self._jump = max(self._jump, here - self._ahead[0])
        if not self._begun:
            self._advance()

    def _keyframe_before(self, time: float) -> float | None:
        """By the file's index; None if that has not been read, or not that far."""
        entries, track = self._media.track.index_entries, self._media.track
        ticks = round((time + self._media.origin) / track.time_base)
        if not len(entries) or entries[len(entries) - 1].timestamp < ticks:
            return None
        found = entries.search_timestamp(ticks)
        if found < 0:
            return None
        return float(entries[found].timestamp * track.time_base) - self._media.origin

    def _seek(self, time: float) -> None:
        """Decode from a keyframe at or before a time; some containers need several tries."""
        import av

        for back in _STEPS_BACK_S:
            target = max(0.0, time - back)
            try:
                self._media.seek(target)
            except av.FFmpegError:  # read on from here instead
                self._seekable = False
                return
            self._restart(keyframe_first=target > 0)
            self._advance()
            if target == 0 or (self._ahead and self._ahead[0] <= time + _ROUNDING_S):
                return


def _decoded(media: Media, saw: Any, keyframe_first: bool) -> Iterator[Any]:
    """Frames in the order in which they are shown; `saw` is told of each packet read."""
    for packet in media.container.demux():
        saw(packet)
        if packet.stream.index != media.track.index:  # at the end, the number itself is not set
            continue
        if keyframe_first and packet.size and not packet.is_keyframe:
            continue
        keyframe_first = False
        yield from packet.decode()


def _counted(media: Media) -> tuple[float, bool]:
    """Length in seconds by the packets, none of which is decoded; whether they bear timestamps."""
    packets, last, timed = 0, 0.0, False
    for packet in media.container.demux(media.track):
        packets += packet.size > 0
        if media.time(packet) is not None:
            timed = True
            last = max(last, media.end(packet))
    return last or packets / float(media.track.guessed_rate or 25), timed


def _upright(frame: Any) -> Image:
    """As RGB, turned as the camera was held: the rotation is counter-clockwise, in degrees."""
    return frame.to_image().rotate(round(frame.rotation / 90) * 90, expand=True)
