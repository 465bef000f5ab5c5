"""Ego4D: what people wearing a camera do, narrated, with the motion of their heads.

Schema: ``narration.json``: ``{video uid: {"narration_pass_1" | "narration_pass_2": {"narrations":
[{"narration_text": "#C C opens a drawer", "timestamp_sec", "timestamp_frame", ...}]}}}``, and
``imu/<video uid>.csv`` (see `anymal_lib.sources.motion_windows`). Written: ``imu/<uid>-<k>.npy``,
float32 (samples, 6) at 200 Hz, one per stretch without gaps.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anymal_lib.errors import ManifestError
from anymal_lib.sources.motion_windows import (
    RATE_HZ,
    WINDOW_S,
    Stretch,
    read_stretches,
    window_at,
)
from anymal_lib.sources.reading import Item, Lost, SourceFolder, hashed_split, json_members

WRITES_MEDIA = True
_PASSES = ("narration_pass_1", "narration_pass_2")


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per narration of the wearer's own actions whose window the recording holds.

    Our split: by the hash of the video; neither the paper nor IMU2CLIP publishes one for motion.
    """
    (target / "imu").mkdir(exist_ok=True)
    (file, *_) = source.annotations("narration.json")
    for video, passes in json_members(file):
        narrations = [
            (f"{video}-{k}-{number}", narration)
            for k, name in enumerate(_PASSES, start=1)
            for number, narration in enumerate(passes.get(name, {}).get("narrations", ()))
        ]
        yield from _windows(source, target, video, narrations)


def _windows(
    source: SourceFolder, target: Path, video: str, narrations: list[tuple[str, dict[str, Any]]]
) -> Iterator[Item]:
    stretches, problem = _recording(source, video) if narrations else ([], "")
    written: dict[int, str] = {}
    for name, narration in narrations:
        text = caption(narration["narration_text"])
        place = window_at(float(narration["timestamp_sec"]), stretches)
        if text is None:
            yield Lost(name, "not what the wearer does")
        elif place is None:
            yield Lost(name, problem or "too short: no 5 s without a gap at the narration")
        else:
            number, start = place
            if number not in written:
                written[number] = _write(target, f"{video}-{number}", stretches[number])
            yield {
                "id": name,
                "split": hashed_split(video),
                "imu": written[number],
                "start": round(start, 4),
                "end": round(start, 4) + WINDOW_S,
                "rate": RATE_HZ,
                "text": text,
                "group": video,
            }


def _recording(source: SourceFolder, video: str) -> tuple[list[Stretch], str]:
    """The stretches of a video's recording; without one, none and the reason."""
    found = source.media(f"imu/{video}")
    if isinstance(found, Lost):
        return [], found.reason
    try:
        return read_stretches(source.path / found), ""
    except ManifestError:
        return [], "unreadable: no recording in Ego4D's columns"


def caption(narration: str) -> str | None:
    """``"#C C opens a drawer."`` -> ``"opens a drawer"``; None for what others do, or nothing.

    As IMU2CLIP: only what the wearer (#C) does, without the tags; what the narrator was unsure of
    is "something". Unlike it, case and length are kept.
    """
    if "#c" not in narration.lower():
        return None
    plain = re.sub(r"#c(\s+c\b)?", " ", narration, flags=re.IGNORECASE)
    plain = re.sub(r"#unsure", "something", plain, flags=re.IGNORECASE)
    return " ".join(plain.split()).strip(string.punctuation + " ") or None


def _write(target: Path, name: str, stretch: Stretch) -> str:
    path = target / "imu" / f"{name}.npy"
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    with partial.open("wb") as file:
        np.save(file, stretch.samples)
    os.replace(partial, path)
    return f"imu/{path.name}"
