"""Frozen encoders. A new modality is one class here and one line in `BUILDERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anymal_lib.encoders.base import Encoder, Features
from anymal_lib.encoders.image import build_image_encoder
from anymal_lib.encoders.imu import build_imu_encoder

BUILDERS: dict[str, Callable[[Any], Encoder]] = {
    "image": build_image_encoder,
    "imu": build_imu_encoder,
}

__all__ = ["BUILDERS", "Encoder", "Features"]
