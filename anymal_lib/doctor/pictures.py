"""What the checks of pictures share: rows that have one, and one size for networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anymal_lib.errors import DataError
from anymal_lib.rows import Row

CANVAS = 640  # pixels a side


def fit_to_canvas(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Put (h, w, 3) pixels at the upper left of a black square of `CANVAS` pixels a side.

    Larger pictures are scaled down, smaller ones are not scaled up. Every picture has one size
    because OpenCV 4.11 computes garbage when the input size of a loaded network changes.

    Returns:
        uint8 (CANVAS, CANVAS, 3), and canvas pixels per picture pixel (0..1].
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, CANVAS / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas, scale


def require_images(rows: Sequence[Row]) -> None:
    """Refuse rows of another modality.

    Raises:
        DataError: naming the first such row.
    """
    for row in rows:
        if row.modality != "image":
            raise DataError(
                f"row {row.id!r}",
                expected="an image",
                got=row.modality,
                do="Give the rows of an image manifest.",
            )
