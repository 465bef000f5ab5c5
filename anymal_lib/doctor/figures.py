"""Figures of the data doctor. Each function returns a matplotlib figure and shows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from anymal_lib.doctor.captions import CaptionStatistics
from anymal_lib.doctor.cat import REASONS, CatReport
from anymal_lib.doctor.duplicates import NearPair
from anymal_lib.doctor.faces import FaceBox
from anymal_lib.inputs import Image

_KEPT, _DROPPED, _NEUTRAL = "#1b7837", "#b2182b", "#4d4d4d"


def cat_pictures(report: CatReport, columns: int = 4) -> Figure:
    """Every picture of a small set, with its caption and its verdict."""
    lines = -(-len(report.verdicts) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.1 * columns, 2.55 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, verdict in zip(axes.flat, report.verdicts, strict=False):
        axis.imshow(Image(verdict.row.path).load())
        word = f"dropped: {verdict.reason}" if verdict.reason else "kept"
        colour = _DROPPED if verdict.reason else _KEPT
        axis.set_title(f"{fill(verdict.caption, 36)}\n{word}", fontsize=8, color=colour)
    return figure


def cat_flow(reports: Mapping[str, CatReport]) -> Figure:
    """Share of the pairs of each set that stay, and that are dropped for each reason."""
    figure, axis = plt.subplots(figsize=(7.5, 1.3 + 0.5 * len(reports)), layout="constrained")
    colours = (_KEPT, "#67001f", _DROPPED, "#f4a582", "#bababa")
    left = np.zeros(len(reports))
    for part, colour in zip(("after", *REASONS), colours, strict=True):
        shares = np.array([r.counts[part] / max(1, r.counts["before"]) for r in reports.values()])
        label = "kept" if part == "after" else f"dropped: {part}"
        axis.barh(list(reports), shares, left=left, color=colour, height=0.6, label=label)
        left += shares
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of the pairs")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def faces(
    blurred: Mapping[str, tuple[PIL.Image.Image, PIL.Image.Image, Sequence[FaceBox]]],
) -> Figure:
    """Name -> (picture, blurred picture, faces): what was found, and what is left to see."""
    widths = [before.width / before.height for before, _, _ in blurred.values()]
    figure, axes = plt.subplots(
        2,
        len(blurred),
        figsize=(2.6 * sum(widths), 5.6),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for (top, bottom), (name, (before, after, found)) in zip(axes.T, blurred.items(), strict=True):
        top.imshow(before)
        bottom.imshow(after)
        for face in found:
            size = (face.right - face.left, face.bottom - face.top)
            box = plt.Rectangle((face.left, face.top), *size, fill=False, ec="#ffd92f", lw=2)
            top.add_patch(box)
        top.set_title(f"{name}: {len(found)} found", fontsize=9)
        bottom.set_title("after" if found else "after: unchanged", fontsize=9)
        top.axis("off")
        bottom.axis("off")
    return figure


def near_pictures(pairs: Sequence[NearPair], count: int = 6) -> Figure:
    """The first pairs, one above the other, with their rows' ids, splits and captions."""
    shown = pairs[:count]
    figure, axes = plt.subplots(
        2, max(1, len(shown)), figsize=(2.1 * max(2, len(shown)), 5.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for column, pair in zip(axes.T, shown, strict=False):
        for axis, row in zip(column, (pair.first, pair.second), strict=True):
            axis.imshow(Image(row.path).load())
            title = f"{row.id} ({row.split})"
            if row.text:
                title += f"\n{fill(row.text[0], 24)}"
            axis.set_title(title, fontsize=8, color=_DROPPED if pair.leaks else _NEUTRAL)
    if not shown:
        axes[0, 0].text(0.5, 0, "no pair found", ha="center", fontsize=11)
    return figure


def captions(statistics: Mapping[str, CaptionStatistics], words: int = 10) -> Figure:
    """For each set: caption lengths, relations of the richest object, and the common words."""
    figure, axes = plt.subplots(
        len(statistics), 3, figsize=(11, 2.6 * len(statistics)), squeeze=False,
        layout="constrained", width_ratios=(1, 1, 1.2),
    )  # fmt: skip
    for line, (name, facts) in zip(axes, statistics.items(), strict=True):
        for axis, counts, what in (
            (line[0], facts.lengths, "words a caption"),
            (line[1], facts.relations, "relations of the richest object"),
        ):
            shares = np.array(list(counts.values())) / max(1, facts.captions)
            axis.bar(list(counts), shares, color=_NEUTRAL, width=0.8)
            axis.set_xlabel(what, fontsize=8)
            axis.xaxis.get_major_locator().set_params(integer=True)
        line[0].set_ylabel(f"{name}\nshare of captions", fontsize=9)
        top = list(facts.words.items())[:words]
        line[2].barh([w for w, _ in top], [n for _, n in top], color=_KEPT, height=0.7)
        line[2].invert_yaxis()
        line[2].set_xlabel("occurrences of the common words", fontsize=8)
        for axis in line:
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    return figure
