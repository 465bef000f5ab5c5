"""lmms-eval's media as items of a prompt, and the prompt that they make with a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anymal_lib.errors import InputError
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.sources.reading import SUFFIXES

_ITEMS: dict[str, type] = {"image": Image, "audio": Audio, "imu": Imu, "video": Video}
_PLACE = re.compile(r"<(?:image|audio|video)>")


def parts_of(text: str, items: Sequence[Any]) -> list[Any]:
    """A prompt's texts and items: the items after the text, the paper's order (section 3.2).

    Where the text has as many `<image>`, `<audio>` and `<video>` as there are items, these take
    their places.
    """
    around = _PLACE.split(text)
    if not items or len(around) != len(items) + 1:
        return [f"{text} ", *items] if items else [text]
    mixed: list[Any] = [around[0]]
    for item, following in zip(items, around[1:], strict=True):
        mixed += [item, following]
    return [part for part in mixed if part != ""]


def item_of(visual: Any) -> Any:
    """What a task hands over as one visual, as an item; nothing is read yet.

    A PIL image or an array (h, w, c) is a picture; a list of pictures or an array (t, h, w, c) a
    film; samples with their rate, as `datasets` gives them, a sound. A path is what its suffix
    says, a film where that says nothing; a mapping may say `type`, `video_start` and `video_end`.

    Raises:
        InputError: anything else.
    """
    from PIL.Image import Image as PilImage

    if isinstance(visual, PilImage):
        return Image(visual)
    if isinstance(visual, np.ndarray):
        return Video(visual) if visual.ndim == 4 else Image(visual)
    if isinstance(visual, list | tuple) and visual:
        return Video(list(visual))
    if hasattr(visual, "get_all_samples"):  # torchcodec's decoder
        samples = visual.get_all_samples()
        return Audio(samples.data.numpy(), samples.sample_rate)
    if isinstance(visual, str | Path):
        return _ITEMS[_kind(visual)](visual)
    if isinstance(visual, Mapping) and (item := _of_mapping(visual)) is not None:
        return item
    raise InputError(
        "visual of an lmms-eval task",
        expected="a picture, frames, a sound with its rate, or the path of a file",
        got=f"{type(visual).__name__} {str(visual)[:80]}",
        do="Let the task's doc_to_visual return one of these.",
    )


def _of_mapping(visual: Mapping[str, Any]) -> Any | None:
    if visual.get("array") is not None:
        return Audio(np.asarray(visual["array"]), visual.get("sampling_rate"))
    place = visual.get("path") or visual.get("url")
    kind = visual.get("type") or (_kind(place) if isinstance(place, str) else None)
    if kind not in _ITEMS or place is None:
        return None
    if kind == "image":
        return Image(place)
    return _ITEMS[kind](place, start=visual.get("video_start"), end=visual.get("video_end"))


def _kind(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    return next((kind for kind, known in SUFFIXES.items() if suffix in known), "video")
