"""Pictures in prompts, as a user hands them over. Nothing is read before `load()`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymal_lib.inputs.files import existing_file
from anymal_lib.inputs.image_files import (
    image_from_array,
    image_from_bytes,
    image_from_pil,
    read_image,
)

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, eq=False)
class Image:
    """An image: a file, its content, a PIL image, or an array.

    Args:
        source: a path; or a file's content as bytes; or a PIL image; or an array (h, w), (h, w, c)
            or (c, h, w) with c of 1, 3 or 4, as uint8, uint16, or floats in 0..1.
    """

    source: Any

    def load(self) -> PIL.Image.Image:
        """Return it as RGB, upright, its first frame only, transparency on white.

        Raises:
            InputError: missing, empty, damaged, not an image, too large, or an array of another
                shape, type or range.
        """
        from PIL.Image import Image as PilImage

        if isinstance(self.source, PilImage):
            return image_from_pil(self.source)
        if isinstance(self.source, str | Path):
            return read_image(existing_file(self.source))
        if isinstance(self.source, bytes):
            return image_from_bytes(self.source)
        return image_from_array(self.source)
