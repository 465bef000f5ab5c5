"""Raw inputs of prompts: what a user hands over, and its one form inside the kit.

Nothing is read before it is asked for, so lists of thousands of inputs are cheap.
"""

from __future__ import annotations

from anymal_lib.inputs.audio import Audio, Waveform
from anymal_lib.inputs.image import Image
from anymal_lib.inputs.imu import STANDARD_GRAVITY, Imu, ImuSignal
from anymal_lib.inputs.video import Video

__all__ = [
    "STANDARD_GRAVITY",
    "Audio",
    "Image",
    "Imu",
    "ImuSignal",
    "Video",
    "Waveform",
]
