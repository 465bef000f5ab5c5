"""Turn any picture, file or array, into 8-bit RGB, or refuse it.

Shapes: h, w: height and width; c: channels (1 grey, 3 RGB, 4 RGB and transparency).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anymal_lib.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB as RGB


def read_image(path: Path) -> Image:
    """Read a file as upright RGB, first frame only; its content decides, not its suffix.

    Raises:
        InputError: not an image, damaged, or of more than `MAX_PIXELS` pixels.
    """
    return _read(path, str(path))


def image_from_bytes(content: bytes) -> Image:
    """Read a file's content as `read_image` does the file.

    Raises:
        InputError: not an image, damaged, or of more than `MAX_PIXELS` pixels.
    """
    return _read(BytesIO(content), f"{len(content)} bytes")


def _read(source: Path | BytesIO, name: str) -> Image:
    import PIL.Image

    with refusing(name), PIL.Image.open(source) as image:
        check_pixels(name, *image.size)  # before any of them is decoded
        image.load()
        return _rgb(image)


def image_from_pil(image: Image) -> Image:
    """Convert a PIL image to upright RGB.

    Raises:
        InputError: its pixels cannot be converted.
    """
    with refusing("PIL image"):
        return _rgb(image)


def image_from_array(source: Any) -> Image:
    """Convert an array (h, w), (h, w, c) or (c, h, w): uint8, uint16, or floats in 0..1.

    Raises:
        InputError: another shape, type or range.
    """
    import PIL.Image

    try:
        array = np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _array_error(f"{type(source).__name__} ({error})") from error
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not shaped or array.size == 0 or array.dtype.name not in ("uint8", "uint16"):
        if not shaped or array.size == 0 or array.dtype.kind != "f":
            raise _array_error(f"{array.dtype} of shape {array.shape}")
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails both
            raise _array_error(f"{array.dtype} from {array.min()} to {array.max()}")
    check_pixels("array", *array.shape[:2])
    if array.dtype == np.uint16:
        array = array / 65535
    if array.dtype.kind == "f":
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return _rgb(PIL.Image.fromarray(np.ascontiguousarray(array)))


def _rgb(image: Image) -> Image:
    import PIL.Image
    import PIL.ImageOps

    image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def _eight_bit(image: Image) -> Image:
    """Scale one channel of 16 bits, or floats in 0..1, where Pillow would clip at 255."""
    import PIL.Image

    values = np.asarray(image).astype(np.float64)
    full = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= full):
        raise ValueError(f"mode {image.mode} with values from {values.min()} to {values.max()}")
    return PIL.Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse a picture of more than `MAX_PIXELS` pixels with an InputError."""
    if width * height > MAX_PIXELS:
        raise InputError(
            name,
            expected=f"at most {MAX_PIXELS} pixels",
            got=f"{width} x {height}",
            do="Scale it down first; a file that claims such a size is often a trap.",
        )


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an InputError that names the input."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # decoders raise a dozen unrelated kinds on damaged files
        raise InputError(
            name,
            expected="a whole image in a format that Pillow reads",
            got=f"{type(error).__name__} ({error})",
            do="Open it in a viewer; convert it to PNG or JPEG, or fetch it again.",
        ) from error


def _array_error(got: str) -> InputError:
    return InputError(
        "array",
        expected="(h, w), (h, w, c) or (c, h, w) with c of 1, 3 or 4, "
        "as uint8, uint16, or floats in 0..1",
        got=got,
        do="Bring it to one of these forms.",
    )
