"""Open one film or sound file with FFmpeg (PyAV): whatever the container, and nothing but it.

Seconds count from the container's first timestamp, so that a film and its sound track agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anymal_lib.errors import InputError
from anymal_lib.inputs.image_files import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer

_WANTED = {
    "audio": ("a file with a sound track", "Give a sound, or a film that has any."),
    "video": ("a film, a file with moving pictures", "Give a film; sound goes into Audio()."),
}


@dataclass(frozen=True, eq=False)
class Media:
    """One track of an open file.

    Attributes:
        name: the file, for messages.
        origin: the container's first timestamp, in seconds.
        length: seconds from the origin to the track's end as the file states it, None if not.
    """

    name: str
    container: InputContainer
    track: Any
    origin: float
    length: float | None

    def seek(self, seconds: float) -> None:
        """Go to a place where decoding can begin, at or before a time; often, not always.

        Raises:
            av.FFmpegError: this file cannot be sought in.
        """
        ticks = round((max(seconds, 0.0) + self.origin) / self.track.time_base)
        self.container.seek(ticks, stream=self.track)

    def time(self, of: Any) -> float | None:
        """Seconds at which a packet or frame is due, None if it bears no timestamp."""
        stamp = of.dts if of.pts is None else of.pts
        return None if stamp is None else float(stamp * of.time_base) - self.origin

    def end(self, packet: Any) -> float:
        """Seconds at which a packet's content ends; 0 without a timestamp."""
        return (self.time(packet) or 0.0) + float((packet.duration or 0) * packet.time_base)


@contextmanager
def opened(path: Path, kind: Literal["audio", "video"]) -> Iterator[Media]:
    """Open a file's best track of a kind; its content decides, not its suffix.

    Decoding uses the calling thread alone: rows of a data set are decoded side by side.

    Raises:
        InputError: not a container that FFmpeg knows, damaged, without such a track, or (also
            from the body) whatever a decoder says of its content.
    """
    import av

    name = str(path)
    try:
        # By its number: FFmpeg would take a name's suffix for a format. As no other protocol is
        # allowed, play lists do not lead to other files or addresses.
        options = {"protocol_whitelist": "fd"}
        with (
            path.open("rb") as file,
            av.open(
                "fd:", options=options | {"fd": str(file.fileno())}, metadata_errors="ignore"
            ) as container,
        ):
            track = _track(name, container, kind)
            yield Media(name, container, track, *_extent(container, track))
    except av.FFmpegError as error:
        raise InputError(
            name,
            expected=f"a whole {'sound file' if kind == 'audio' else 'film'} in a format "
            "that FFmpeg reads",
            got=f"{type(error).__name__} ({error.strerror})",
            do="Play it in a viewer; convert it, or fetch it again.",
        ) from error


def _track(name: str, container: InputContainer, kind: Literal["audio", "video"]) -> Any:
    from av.stream import Disposition

    # A cover of an album is stored as a track of pictures.
    tracks = [
        track
        for track in container.streams
        if track.type == kind and not track.disposition & Disposition.attached_pic
    ]
    best = container.streams.best(kind)
    track = best if best in tracks else next(iter(tracks), None)
    if track is None or track.codec_context is None:
        expected, do = _WANTED[kind]
        kinds = sorted({each.type for each in container.streams}) or ["nothing"]
        got = f"{container.format.long_name} with {' and '.join(kinds)}"
        got += ", coded in a way that FFmpeg does not know" if track else ""
        raise InputError(name, expected=expected, got=got, do=do)
    track.codec_context.thread_count = 1
    track.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return track


def _extent(container: InputContainer, track: Any) -> tuple[float, float | None]:
    """Origin and length of a track in seconds."""
    from av.format import Flags

    starts = container.start_time
    origin = 0.0 if starts is None else starts / 1e6
    # A file that is nothing but packets has no index; FFmpeg guesses its length from the first
    # few of them, and may be wrong by a factor of 20.
    if Flags.generic_index in Flags(container.format.flags):
        return origin, None
    if track.duration:
        first = track.start_time * track.time_base if track.start_time is not None else origin
        return origin, float(first + track.duration * track.time_base) - origin
    return origin, container.duration / 1e6 if container.duration else None
