"""Pairs and portraits on which the doctor shows what it does.

The captions are of the kinds that web data holds; their pictures are drawn here, some with text.
The portraits are real: Grace Hopper (US Navy, public domain; comes with matplotlib) and Marie
Curie (about 1920, public domain; in a pinned wheel of plenoptic, MIT, with a parrot).
"""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from anymal_lib.assets import WheelAsset, fetch
from anymal_lib.inputs import Image
from anymal_lib.manifest import Manifest, load_manifest, write_manifest

PORTRAITS = WheelAsset(
    package="plenoptic",
    version="2.1.1",
    sha256="1b19454d5113b956913efba9790dc48e0417138f6d5c6b214665f00fb8d8d88b",
    member="plenoptic/data/",
)

_SIZE = (480, 320)
_SKY, _GROUND, _INK = (176, 205, 232), (120, 150, 96), (250, 250, 245)

# Caption, and the text that its picture holds (None: no text).
PAIRS: tuple[tuple[str, str | None], ...] = (
    ("A black cat is chasing a small brown bird across the lawn", None),
    ("Two children fly a red kite above the beach", None),
    ("An old man repairs his wooden boat in the harbour", None),
    ("A woman in a yellow coat crosses the street beside a stop sign", "STOP"),
    ("A man with the number 27 is running through the city", "27"),
    ("Sunset over the mountains", None),
    ("Vintage leather armchair with brass buttons", None),
    ("The picture shows a stone bridge over a narrow river", None),
    ("IMG_2041", None),
    ("Wallpapers", None),
    ("Keep calm and carry on baking bread", "KEEP CALM AND CARRY ON\nBAKING BREAD"),
    ("Dream big and never stop learning new things", "Dream big and\nnever stop learning"),
)


COPY_OF = 3  # the pair whose picture is in the test split too, smaller and recompressed


def example_pairs(folder: Path) -> Manifest:
    """Draw the pictures of `PAIRS` and write them as an image manifest into `folder`.

    One picture leaks: its copy is the only row of the test split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, (caption, text) in enumerate(PAIRS):
        _drawn(k, text).save(folder / f"{k}.png")
        rows.append({"id": f"pair-{k}", "split": "train", "image": f"{k}.png", "text": caption})
    size = (_SIZE[0] * 2 // 3, _SIZE[1] * 2 // 3)
    copy = _drawn(COPY_OF, PAIRS[COPY_OF][1]).resize(size)
    copy.save(folder / "copy.jpg", quality=60)
    text = "Somebody in a bright coat walks past a traffic sign"
    rows.append({"id": "copy", "split": "test", "image": "copy.jpg", "text": text})
    card = {"name": "doctor-examples", "modality": "image"}
    return load_manifest(write_manifest(folder, card, rows))


def example_portraits() -> dict[str, PIL.Image.Image]:
    """Pictures with one face, several faces of different sizes, and none.

    Raises:
        AssetError: the wheel with two of them cannot be fetched.
    """
    from matplotlib.cbook import get_sample_data

    folder = fetch(PORTRAITS)
    hopper = Image(get_sample_data("grace_hopper.jpg", asfileobj=False)).load()
    curie = Image(folder / "curie.pgm").load()
    sized = [
        portrait.resize((round(portrait.width * height / portrait.height), height))
        for portrait, height in ((hopper, 400), (curie, 256), (hopper, 200), (curie, 128))
    ]
    group = PIL.Image.new("RGB", (sum(portrait.width for portrait in sized), 400), _SKY)
    left = 0
    for portrait in sized:
        group.paste(portrait, (left, 400 - portrait.height))
        left += portrait.width
    return {"one face": hopper, "four faces": group, "no face": Image(folder / "parrot.png").load()}


def _drawn(k: int, text: str | None) -> PIL.Image.Image:
    """A plain landscape, another one for each `k`, with `text` on a dark board."""
    picture = PIL.Image.new("RGB", _SIZE, _SKY)
    draw = PIL.ImageDraw.Draw(picture)
    horizon = 170 + 11 * (k * 5 % 8)
    draw.rectangle((0, horizon, *_SIZE), _GROUND)
    draw.ellipse((40 + 30 * k, 30, 90 + 30 * k, 80), (250, 220, 110))
    draw.polygon(
        [(60 * (k % 5), horizon), (60 * (k % 5) + 90, 90), (60 * (k % 5) + 180, horizon)],
        (130, 130, 140),
    )
    if text:
        font = PIL.ImageFont.load_default(34)
        middle = (_SIZE[0] / 2, _SIZE[1] / 2)
        box = draw.multiline_textbbox(middle, text, font, anchor="mm", align="center")
        draw.rectangle((box[0] - 16, box[1] - 12, box[2] + 16, box[3] + 12), (40, 52, 66))
        draw.multiline_text(middle, text, _INK, font, anchor="mm", align="center")
    return picture
