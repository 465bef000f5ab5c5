"""easy-VQA as a captioned image set: colour and shape of one figure, 64 x 64 pixels.

The official answers state both facts for most images. For the rest they are read from the
pixels, by a palette and a rule that agree with every fact the answers do state.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

BUILD_VERSION = 1
HAS_FOLDS = False

VALUES = {
    "colour": ("green", "red", "gray", "teal", "black", "yellow", "brown", "blue"),
    "shape": ("circle", "rectangle", "triangle"),
}
PHRASES = (
    "a {colour} {shape}",
    "The picture shows a {colour} {shape}.",
    "There is a {colour} {shape} in the image.",
    "This is a {colour} {shape} on a pale background.",
)
FILL = {"rectangle": 1.0, "circle": np.pi / 4, "triangle": 0.5}

Rgb = tuple[int, int, int]


def build(member: Path, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Copy the images into ``folder/images`` and return their rows.

    Args:
        member: the wheel's ``easy_vqa/data`` folder.
        folder: the manifest's folder to be.
        fold: unused, the split is the official one.
    """
    answered = {split: facts_from_answers(member, split) for split in ("train", "test")}
    seen = {split: read_figures(member / split / "images") for split in answered}
    palette = learn_palette(seen["train"], answered["train"])
    rows = []
    for split, figures in seen.items():
        shutil.copytree(member / split / "images", folder / "images" / split)
        for image_id, figure in figures.items():
            stated = answered[split].get(image_id, {})
            facts = {**facts_from_pixels(figure, palette), **stated}
            rows.append(
                {
                    "id": f"{split}-{image_id}",
                    "split": split,
                    "image": f"images/{split}/{image_id}.png",
                    "text": [phrase.format(**facts) for phrase in PHRASES],
                    "facts": facts,
                    "facts_from": "answers" if len(stated) == len(VALUES) else "pixels",
                    "licence": "MIT",
                }
            )
    return rows


def facts_from_answers(member: Path, split: str) -> dict[int, dict[str, str]]:
    """Image id -> the facts that its questions and answers state or leave no choice about."""
    questions = json.loads((member / split / "questions.json").read_text(encoding="utf-8"))
    left: dict[int, dict[str, set[str]]] = defaultdict(
        lambda: {name: set(values) for name, values in VALUES.items()}
    )
    for question, answer, image_id in questions:
        denied = re.search(r"\b(not|no)\b", question) is not None
        for name, values in VALUES.items():
            named = {word for word in re.findall(r"\w+", question) if word in values}
            if answer in values:
                left[image_id][name] &= {answer}
            elif answer not in ("yes", "no") or (answer == "yes") != denied:
                left[image_id][name] &= named or set(values)
            else:
                left[image_id][name] -= named
    return {
        image_id: {name: min(values) for name, values in known.items() if len(values) == 1}
        for image_id, known in left.items()
    }


def read_figures(folder: Path) -> dict[int, tuple[Rgb, float]]:
    """Image id -> the figure's colour, and the share of its bounding box that it fills (0..1)."""
    import PIL.Image

    figures = {}
    for path in sorted(folder.glob("*.png"), key=lambda p: int(p.stem)):
        with PIL.Image.open(path) as image:
            figures[int(path.stem)] = _figure(np.asarray(image.convert("RGB")))
    return figures


def _figure(pixels: np.ndarray) -> tuple[Rgb, float]:
    """``pixels``: (h, w, 3), a flat figure on a pale flat ground, edges blended."""
    ground = _modal(pixels.reshape(-1, 3))
    distance = np.abs(pixels.astype(int) - ground).sum(axis=2)
    colour = _modal(pixels[distance > distance.max() // 2])
    # Edges are blended: counting each pixel by how much of it the figure covers keeps small
    # circles (0.79 to 0.87) clear of triangles (0.53 to 0.63) and rectangles (1.00).
    cover = np.clip(distance / np.abs(np.subtract(colour, ground)).sum(), 0, 1)
    box = cover.max(axis=0).sum() * cover.max(axis=1).sum()
    return colour, float(cover.sum() / box)


def _modal(pixels: np.ndarray) -> Rgb:
    """The most frequent colour of (n, 3) pixels."""
    values, counts = np.unique(pixels.astype(int) @ (65536, 256, 1), return_counts=True)
    code = int(values[counts.argmax()])
    return code >> 16, code >> 8 & 255, code & 255


def learn_palette(
    figures: dict[int, tuple[Rgb, float]], answered: dict[int, dict[str, str]]
) -> dict[str, Rgb]:
    """Colour name -> the RGB that most images have of which the answers state that colour."""
    votes: dict[str, Counter[Rgb]] = defaultdict(Counter)
    for image_id, facts in answered.items():
        if "colour" in facts:
            votes[facts["colour"]][figures[image_id][0]] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in votes.items()}


def facts_from_pixels(figure: tuple[Rgb, float], palette: dict[str, Rgb]) -> dict[str, str]:
    """The facts of one figure: the nearest palette colour, the nearest fill."""
    colour, fill = figure
    nearest = min(palette, key=lambda name: np.abs(np.subtract(palette[name], colour)).sum())
    return {"colour": nearest, "shape": min(FILL, key=lambda name: abs(FILL[name] - fill))}
