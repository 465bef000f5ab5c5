"""The modalities that the kit knows: one entry each, and `register` for one of your own.

An entry says what a prompt holds, how a manifest's row becomes that, what an input without
anything to sense is, and what encodes it. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from anymal_lib.errors import AnyMALError, ConfigError
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.specs import (
    SAVED_TYPES,
    AudioEncoderSpec,
    ImageEncoderSpec,
    ImuEncoderSpec,
    VideoEncoderSpec,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anymal_lib.encoders import Encoder
    from anymal_lib.rows import Row


@dataclass(frozen=True)
class Modality:
    """What the kit has to know of a modality.

    Attributes:
        item: the class of its raw inputs in prompts.
        open_row: a manifest's row -> such an input, not read yet.
        blank: an input in which there is nothing to sense, a control of every evaluation.
        blank_means: what that is, in words.
        encoder_spec: the dataclass that a profile describes its encoder with.
        build_encoder: such a spec -> the encoder.
        draw: shows an input on a matplotlib axis; None draws its name only.
        noun: what one input is called in a sentence; "" is the modality's name.
    """

    item: type
    open_row: Callable[[Row], Any]
    blank: Callable[[], Any]
    blank_means: str
    encoder_spec: type
    build_encoder: Callable[[Any], Encoder]
    draw: Callable[[Axes, Any], None] | None = None
    noun: str = ""


MODALITIES: dict[str, Modality] = {}


def register(name: str, modality: Modality) -> None:
    """Make a modality known under `name`, the key of its media in manifest rows.

    Raises `ConfigError` where another modality has the name or its class of inputs.
    """
    for other, known in MODALITIES.items():
        if known is not modality and (other == name or known.item is modality.item):
            raise ConfigError(
                f"modality '{name}'",
                expected=f"a name and a class of inputs of its own, beside {sorted(MODALITIES)}",
                got=f"'{name}' with {modality.item.__name__}",
                do="Choose another name, or derive a class of inputs.",
            )
    SAVED_TYPES[modality.encoder_spec.__name__] = modality.encoder_spec
    MODALITIES[name] = modality


def modality_of(item: Any) -> str | None:
    """The name of the modality that an input belongs to; None for anything else."""
    return next((name for name, known in MODALITIES.items() if known.item is type(item)), None)


def open_row(row: Row) -> Any:
    """The raw input of a manifest's row, not read yet.

    Raises:
        AnyMALError: no such modality is registered.
    """
    if row.modality not in MODALITIES:
        raise AnyMALError(
            f"row {row.id!r}",
            expected=f"a modality that is registered ({', '.join(sorted(MODALITIES))})",
            got=row.modality,
            do="Use a manifest of one of these, or register the modality first.",
        )
    return MODALITIES[row.modality].open_row(row)


def _encoder(module: str) -> Callable[[Any], Encoder]:
    """The `build` function of a module of `anymal_lib.encoders`, imported when it is called."""
    return lambda spec: import_module(f"anymal_lib.encoders.{module}").build(spec)


def _drawing(name: str) -> Callable[[Axes, Any], None]:
    return lambda axis, item: getattr(import_module("anymal_lib.drawing"), name)(axis, item)


register(
    "image",
    Modality(
        Image,
        open_row=lambda row: Image(row.path if row.content is None else row.content),
        blank=lambda: Image(np.full((64, 64, 3), 128, dtype=np.uint8)),
        blank_means="a grey picture",
        encoder_spec=ImageEncoderSpec,
        build_encoder=_encoder("image"),
        draw=_drawing("draw_image"),
        noun="picture",
    ),
)
register(
    "imu",
    Modality(
        Imu,
        open_row=lambda row: Imu(
            row.path, row.rate, start=row.start, end=row.end, gyro_unit=row.gyro_unit or "rad/s"
        ),
        blank=lambda: Imu(np.zeros((250, 6), dtype=np.float32), rate=50),
        blank_means="a sensor that feels nothing, not even gravity",
        encoder_spec=ImuEncoderSpec,
        build_encoder=_encoder("imu"),
        draw=_drawing("draw_imu"),
        noun="motion",
    ),
)
register(
    "audio",
    Modality(
        Audio,
        open_row=lambda row: Audio(row.path, row.rate, start=row.start, end=row.end),
        blank=lambda: Audio(np.zeros(48_000, dtype=np.float32), rate=48_000),
        blank_means="silence",
        encoder_spec=AudioEncoderSpec,
        build_encoder=_encoder("audio"),
        draw=_drawing("draw_audio"),
        noun="sound",
    ),
)
register(
    "video",
    Modality(
        Video,
        open_row=lambda row: Video(row.path, start=row.start, end=row.end),
        blank=lambda: Video(np.full((4, 64, 64, 3), 128, dtype=np.uint8)),
        blank_means="a grey clip",
        encoder_spec=VideoEncoderSpec,
        build_encoder=_encoder("video"),
        draw=_drawing("draw_video"),
        noun="clip",
    ),
)
