"""Raw inputs as widgets: drawn as everywhere in the kit, with a player where there is time in them.

Pictures travel as bytes, so that JupyterLab, VS Code and Voila show the same.
"""

from __future__ import annotations

import io
from typing import Any

import ipywidgets as widgets
import soundfile
from matplotlib.figure import Figure

from anymal_lib.inputs import Audio, Video
from anymal_lib.modalities import modality_of
from anymal_lib.plots import draw_item

_INCHES = {"image": (4, 4), "video": (9.6, 2.6)}  # width and height of a drawing
_FRAMES = 16  # of a moving picture
_SIDE = 320  # its longer side in pixels
_SECONDS = 4.0  # how long it takes where a clip does not say


def view(item: Any, picture: bytes | None = None) -> widgets.VBox:
    """One item to look at and, where it has any, to listen to; `picture` in place of its drawing.

    Raises:
        AnyMALError: it cannot be read.
    """
    parts: list[widgets.Widget] = [widgets.Image(value=picture or drawing(item), format="png")]
    if isinstance(item, Audio):
        parts.append(widgets.Audio(value=wav(item), format="wav", autoplay=False, loop=False))
    if isinstance(item, Video):
        parts.append(widgets.Image(value=moving(item), format="webp", layout=_clip()))
    return widgets.VBox(parts)


def _clip() -> widgets.Layout:
    # A box stretches its children to its own width, and a clip may be a few pixels wide.
    side = f"{_SIDE}px"
    return widgets.Layout(
        width=side, max_height=side, object_fit="contain", align_self="flex-start", max_width="100%"
    )


def drawing(item: Any) -> bytes:
    """The item's drawing as PNG."""
    figure = Figure(figsize=_INCHES.get(modality_of(item) or "", (7, 3)), layout="constrained")
    axis = figure.subplots()
    draw_item(axis, item)
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return png(figure)


def png(figure: Figure) -> bytes:
    """A figure as PNG, cut to what is on it."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        return buffer.getvalue()


def wav(item: Audio) -> bytes:
    """The sound as WAV, 16 bits, whatever it came in."""
    sound = item.load()
    with io.BytesIO() as buffer:
        soundfile.write(buffer, sound.samples, round(sound.rate), format="WAV", subtype="PCM_16")
        return buffer.getvalue()


def moving(item: Video) -> bytes:
    """The clip as a moving WebP: browsers play it, whatever the film's codec and window."""
    frames = item.frames(_FRAMES)
    for frame in frames:
        frame.thumbnail((_SIDE, _SIDE))
    pause = round(1000 * (item.seconds or _SECONDS) / _FRAMES)  # milliseconds
    first, *others = frames
    with io.BytesIO() as buffer:
        first.save(
            buffer, "WEBP", save_all=True, append_images=others, duration=pause, loop=0, quality=90
        )
        return buffer.getvalue()
