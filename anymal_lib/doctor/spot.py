"""Words that can be read in a picture: a text detector and a text recogniser.

Both networks are PP-OCRv4 (PaddlePaddle, Apache-2.0) as RapidOCR packs them, fetched as data
inside a pinned wheel. ONNX Runtime runs them, OpenCV cuts the lines out.

Shapes: h, w: height and width of a picture; t: steps along a line; c: characters known.
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
    import onnxruntime

MODELS = WheelAsset(
    package="rapidocr-onnxruntime",
    version="1.4.4",
    sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    member="rapidocr_onnxruntime/models/",
)

_DETECTOR, _RECOGNISER = "ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"
_MIN_PIXEL, _MIN_LINE = 0.3, 0.5  # probability of text, of a pixel and over a line
_MIN_SIDE = 3  # canvas pixels, of a line's core
_UNCLIP = 1.6  # RapidOCR's value, as the two above
_LINE_HEIGHT = 48  # pixels, what the recogniser was trained on
_MAX_LINE_WIDTH = 1600


@dataclass(frozen=True)
class SpottedText:
    """One line of text in a picture.

    Attributes:
        text: as read; the recogniser often loses the blanks between words.
        confidence: mean probability of its characters, 0..1.
        corners: four (x, y) pixels, clockwise from the line's upper left.
    """

    text: str
    confidence: float
    corners: tuple[tuple[float, float], ...]


def spot_text(picture: Any) -> list[SpottedText]:
    """Read the lines of text in a picture.

    Args:
        picture: anything that `anymal_lib.Image` takes. Pictures with a side above 640 pixels are
            scaled down first, so letters below about 8 pixels after that are not found.

    Raises:
        InputError: it is no picture.
        AssetError: the networks cannot be fetched.
    """
    pixels = np.asarray(Image(picture).load())
    found = []
    for corners in _line_corners(pixels):
        text, confidence = _read(_straight_line(pixels, corners))
        if text:
            found.append(SpottedText(text, confidence, tuple(map(tuple, corners.tolist()))))
    return sorted(found, key=lambda line: (line.corners[0][1], line.corners[0][0]))


@cache
def _session(name: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    return onnxruntime.InferenceSession(str(fetch(MODELS) / name))


@cache
def _characters() -> list[str]:
    """Characters by the recogniser's class number; class 0 is "no character here"."""
    known = _session(_RECOGNISER).get_modelmeta().custom_metadata_map["character"]
    return ["", *known.splitlines(), " "]


def _line_corners(pixels: np.ndarray) -> list[np.ndarray]:
    """Corners (4, 2) of each line of text, clockwise from its upper left."""
    import cv2

    canvas, scale = fit_to_canvas(pixels)
    # Networks of this kind halve their input five times: sides must be multiples of 32.
    height, width = (32 * -(-round(side * scale) // 32) for side in pixels.shape[:2])
    heat = _run(_DETECTOR, canvas[:height, :width])[0]  # (h, w), probability of text
    mask = (heat > _MIN_PIXEL).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for outline in outlines:
        middle, (wide, high), angle = cv2.minAreaRect(outline)
        inside = cv2.drawContours(np.zeros_like(mask), [outline], 0, 1, cv2.FILLED)
        if min(wide, high) >= _MIN_SIDE and cv2.mean(heat, inside)[0] >= _MIN_LINE:
            # The network marks the core of a line only (Liao et al., arXiv 1911.08947).
            grown = _UNCLIP * wide * high / (wide + high)
            box = cv2.boxPoints((middle, (wide + grown, high + grown), angle))
            lines.append(_clockwise(box) / scale)
    return lines


def _clockwise(box: np.ndarray) -> np.ndarray:
    """Corners (4, 2) of a rectangle, from the upper left of its reading direction."""
    first = box[np.argsort(box[:, 0], kind="stable")]
    left, right = first[:2], first[2:]
    left, right = left[np.argsort(left[:, 1])], right[np.argsort(right[:, 1])]
    return np.array([left[0], right[0], right[1], left[1]], np.float32)


def _straight_line(pixels: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cut a quadrilateral out of (h, w, 3) pixels as an upright strip, `_LINE_HEIGHT` high."""
    import cv2

    width = np.linalg.norm(corners[1] - corners[0])
    height = np.linalg.norm(corners[3] - corners[0])
    across = int(np.clip(_LINE_HEIGHT * width / max(height, 1), 16, _MAX_LINE_WIDTH))
    strip = np.array([[0, 0], [across, 0], [across, _LINE_HEIGHT], [0, _LINE_HEIGHT]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, strip)
    return cv2.warpPerspective(
        pixels, matrix, (across, _LINE_HEIGHT), flags=cv2.INTER_CUBIC, borderMode=1
    )


def _read(strip: np.ndarray) -> tuple[str, float]:
    """Greedy CTC decoding of one strip: its text, and the mean probability of its characters."""
    probabilities = _run(_RECOGNISER, strip)  # (t, c)
    best = probabilities.argmax(axis=1)
    fresh = (best > 0) & (best != np.insert(best[:-1], 0, 0))
    text = "".join(_characters()[k] for k in best[fresh]).strip()
    return text, float(probabilities.max(axis=1)[fresh].mean()) if text else 0.0


def _run(name: str, pixels: np.ndarray) -> np.ndarray:
    """A network's one output for one picture, uint8 (h, w, 3) in RGB."""
    session = _session(name)
    batch = (pixels[None, ..., ::-1].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: batch})[0][0]
