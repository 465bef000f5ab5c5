"""A file that somebody hands over -> the input in it, by the readers of the modalities."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from anymal_lib.demo.session import DemoItem, Session
from anymal_lib.errors import AnyMALError, InputError
from anymal_lib.inputs import Imu
from anymal_lib.inputs.imu_files import read_recording
from anymal_lib.modalities import MODALITIES

# What a name promises -> whose readers are asked, the most likely first. A container of films may
# hold sound alone, and the other way round.
_PROMISED = {
    "image": ("image",),
    "audio": ("audio", "video"),
    "video": ("video", "audio"),
    "text": ("imu",),
}


class MissingRateError(InputError):
    """A recording of motion that does not say how many samples a second it has."""


def take_file(session: Session, path: Path, rate: float | None = None) -> DemoItem:
    """Encode a file of any modality that the session's model has.

    `rate` is in samples per second, for motion that does not state it.

    Raises:
        MissingRateError: motion, and no rate is known.
        InputError: nobody can read it; what the most likely reader says of it.
    """
    refused = None
    for modality in _candidates(path, session.modalities):
        try:
            if modality == "imu":
                return session.take(path.name, _imu(path, rate))
            return session.take(path.name, MODALITIES[modality].item(path))
        except MissingRateError:
            raise
        except AnyMALError as error:
            refused = refused or error
    if refused is not None and _promised(path):
        raise refused
    nouns = [MODALITIES[name].noun or name for name in session.modalities]
    raise InputError(
        path.name,
        expected=f"a file with a {', a '.join(nouns)}",
        got="something that none of their readers can read",
        do="Convert it to PNG, WAV, MP4 or CSV.",
    )


def _candidates(path: Path, known: Sequence[str]) -> list[str]:
    promised = _promised(path)
    # Motion comes first of those without a promise: FFmpeg takes a table of numbers for a film.
    order = promised or ("imu", "image", "video", "audio", *known)
    if _is_animation(path) and "image" in order:
        order = ("video", *order)
    return [name for name in dict.fromkeys(order) if name in known]


def _promised(path: Path) -> tuple[str, ...]:
    kind, _ = mimetypes.guess_type(path.name)
    return _PROMISED.get((kind or "").partition("/")[0], ())


def _is_animation(path: Path) -> bool:
    try:
        with PIL.Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except Exception:  # no picture, or a damaged one: its reader says so
        return False


def _imu(path: Path, rate: float | None) -> Imu:
    if rate is None and read_recording(path, None).rate is None:
        raise MissingRateError(
            path.name,
            expected="a column of time, or a rate",
            got="six channels and no time",
            do="Say how many samples a second it has, and add it.",
        )
    return Imu(path, rate)
