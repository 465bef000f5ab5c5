"""One fixed size for networks that see pictures of any size."""

from __future__ import annotations

import numpy as np

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
