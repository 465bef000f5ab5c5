"""Moving shapes as a captioned video set: colour, shape and direction of one figure.

Every clip is drawn, encoded as a real MP4 (H.264), and decoded again by whoever reads it. Place,
size, speed, path and ground are drawn anew for each clip, so no two splits share one.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymal_lib.progress import track
from anymal_lib.sources.easy_vqa import VALUES

if TYPE_CHECKING:
    import PIL.Image

BUILD_VERSION = 2
HAS_FOLDS = False

SIDE = 96  # pixels
FRAMES, FPS = 16, 8
CLIPS = {"train": 1440, "test": 288}  # so many of each (colour, shape, direction) as of any other
COLOURS = {
    "green": (20, 160, 40),
    "red": (220, 30, 30),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "black": (0, 0, 0),
    "yellow": (240, 220, 20),
    "brown": (139, 69, 19),
    "blue": (30, 50, 220),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PHRASES = (
    "a {colour} {shape} moves {direction}",
    "The {colour} {shape} is moving {direction}.",
    "In the video a {colour} {shape} goes {direction}.",
    "This is a {colour} {shape} that moves {direction}.",
)


def build(member: Path | None, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Draw and encode the clips into ``folder/clips`` and return their rows.

    Args:
        member: unused, nothing is fetched.
        folder: the manifest's folder to be.
        fold: unused, the split is fixed.
    """
    (folder / "clips").mkdir()
    combinations = [
        {"colour": colour, "shape": shape, "direction": direction}
        for colour in COLOURS
        for shape in VALUES["shape"]
        for direction in DIRECTIONS
    ]
    chosen = [
        (split, f"{split}-{k:04d}", combinations[k % len(combinations)])
        for split, count in CLIPS.items()
        for k in range(count)
    ]

    def write(entry: tuple[str, str, dict[str, str]]) -> None:
        _, name, facts = entry
        write_clip(folder / "clips" / f"{name}.mp4", draw_clip(facts, random.Random(name)))

    with ThreadPoolExecutor() as pool:  # the encoder releases the lock
        list(track(pool.map(write, chosen), "clips", total=len(chosen), unit="files"))
    return [
        {
            "id": name,
            "split": split,
            "video": f"clips/{name}.mp4",
            "text": [phrase.format(**facts) for phrase in PHRASES],
            "facts": facts,
            "licence": "CC0-1.0",
        }
        for split, name, facts in chosen
    ]


def draw_clip(facts: dict[str, str], draw: random.Random) -> list[PIL.Image.Image]:
    """The frames of one clip; `draw` chooses ground, size, path and speed."""
    import PIL.Image
    import PIL.ImageDraw

    ground = tuple(draw.randint(215, 255) for _ in range(3))
    half = draw.randint(9, 15)
    aspect = draw.uniform(0.75, 1.3) if facts["shape"] == "rectangle" else 1.0
    along = (SIDE - 2 * half) * draw.uniform(0.6, 1.0)  # how far it goes
    begin = draw.uniform(half, SIDE - half - along)
    across = draw.uniform(half, SIDE - half)
    dx, dy = DIRECTIONS[facts["direction"]]
    frames = []
    for k in range(FRAMES):
        way = begin + along * k / (FRAMES - 1)
        way = SIDE - way if dx + dy < 0 else way
        centre = (way, across) if dx else (across, way)
        frame = PIL.Image.new("RGB", (SIDE, SIDE), ground)
        _draw_figure(PIL.ImageDraw.Draw(frame), facts, centre, half, aspect)
        frames.append(frame)
    return frames


def _draw_figure(
    canvas: Any, facts: dict[str, str], centre: tuple[float, float], half: int, aspect: float
) -> None:
    x, y = centre
    fill = COLOURS[facts["colour"]]
    box = (x - half, y - half * aspect, x + half, y + half * aspect)
    if facts["shape"] == "circle":
        canvas.ellipse(box, fill)
    elif facts["shape"] == "rectangle":
        canvas.rectangle(box, fill)
    else:
        canvas.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill)


def write_clip(path: Path, frames: list[PIL.Image.Image]) -> None:
    """Encode frames as H.264 in an MP4."""
    import av

    with av.open(str(path), "w") as container:
        # The same bytes in every run: with x264's assembly, one in some hundred encodings of the
        # same frames came out differently, on one thread too (measured); without, none of 5,500.
        options = {"crf": "18", "threads": "1", "x264-params": "asm=0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
