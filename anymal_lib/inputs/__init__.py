"""Raw inputs of prompts: what a user hands over, and its one form inside the kit.

Nothing is read before it is asked for, so lists of thousands of inputs are cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anymal_lib.errors import AnyMALError
from anymal_lib.inputs.audio import Audio, Waveform
from anymal_lib.inputs.image import Image
from anymal_lib.inputs.imu import STANDARD_GRAVITY, Imu, ImuSignal
from anymal_lib.inputs.video import Video

if TYPE_CHECKING:
    from anymal_lib.rows import Row

__all__ = [
    "READERS",
    "STANDARD_GRAVITY",
    "Audio",
    "Image",
    "Imu",
    "ImuSignal",
    "Video",
    "Waveform",
    "open_row",
]

# One line per modality: what opens a manifest's row.
READERS: dict[str, Callable[[Row], Any]] = {
    "audio": lambda row: Audio(row.path, row.rate, start=row.start, end=row.end),
    "image": lambda row: Image(row.path),
    "imu": lambda row: Imu(
        row.path, row.rate, start=row.start, end=row.end, gyro_unit=row.gyro_unit or "rad/s"
    ),
    "video": lambda row: Video(row.path, start=row.start, end=row.end),
}


def open_row(row: Row) -> Audio | Image | Imu | Video:
    """The input of a manifest's row, not read yet.

    Raises:
        AnyMALError: this version has no reader for the row's modality.
    """
    if row.modality not in READERS:
        raise AnyMALError(
            f"row {row.id!r}",
            expected=f"a modality that this version reads ({', '.join(READERS)})",
            got=row.modality,
            do="Use a manifest of one of these.",
        )
    return READERS[row.modality](row)
