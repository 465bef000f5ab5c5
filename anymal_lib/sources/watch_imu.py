"""Smartwatch recordings of shoulder exercises as a captioned IMU set, held-out people apart.

Ten people do seven exercises with either arm; rows are windows of 5 s. Every training recording is
there a second time as in a mirror, with the other arm in its captions. Names of the exercises and
the meaning of the side are those of the data's documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BUILD_VERSION = 2
HAS_FOLDS = True

RATE_HZ = 50
WINDOW_S = 5
TRAIN_STRIDE_S = 1
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "lower trapezius row",
    "ROW": "bent over row",
}
ARMS = ("left", "right")  # the data's `side`, 0 and 1
PHRASES = (
    "a person does the {exercise} exercise with the {arm} arm",
    "Someone performs the {exercise} exercise with the {arm} arm.",
    "The {arm} arm does the {exercise} exercise.",
    "This is the {exercise} exercise, done with the {arm} arm.",
)
# Seen in a mirror that swaps the arms, the watch's x axis points the other way. Acceleration is a
# vector and turn rate a rotation, so opposite components change sign.
MIRROR = np.array([-1, 1, 1, 1, -1, -1])
HEADER = "timestamp_ms,accl_x,accl_y,accl_z,gyro_x,gyro_y,gyro_z"


def build(member: Path, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Write one CSV per recording into ``folder/recordings`` and return the windows' rows.

    Args:
        member: the wheel's ``watch_dataset.npy``. It holds a pickle, so it is opened only
            because the wheel's checksum held.
        folder: the manifest's folder to be.
        fold: 1..5; people 2 * fold - 1 and 2 * fold are the test split.
    """
    data = np.load(member, allow_pickle=True).item()
    (folder / "recordings").mkdir()
    rows = []
    for samples, y, side, subject in zip(
        data["X"], data["y"], data["side"], data["subject"], strict=True
    ):
        exercise, person = EXERCISES[data["y_labels"][int(y)]], int(subject)
        if person in held_out(fold):
            rows += _recording(folder, "test", person, exercise, int(side), samples)
        else:
            rows += _recording(folder, "train", person, exercise, int(side), samples)
            mirrored = samples * MIRROR
            rows += _recording(
                folder, "train", person, exercise, 1 - int(side), mirrored, "-mirrored"
            )
    return sorted(rows, key=lambda row: row["id"])


def _recording(
    folder: Path,
    split: str,
    person: int,
    exercise: str,
    side: int,
    samples: np.ndarray,
    suffix: str = "",
) -> list[dict[str, Any]]:
    """Write one recording (samples, 6) as CSV and return the rows of its windows."""
    facts = {"exercise": exercise, "arm": ARMS[side]}
    name = f"p{person:02d}-{exercise.replace(' ', '-')}-{facts['arm']}{suffix}"
    _write_csv(folder / "recordings" / f"{name}.csv", samples)
    return [
        {
            "id": f"{name}-{start:03d}",
            "split": split,
            "imu": f"recordings/{name}.csv",
            "start": start,
            "end": start + WINDOW_S,
            "rate": RATE_HZ,
            "text": [phrase.format(**facts) for phrase in PHRASES],
            "facts": facts,
            "group": f"person {person}",
            "licence": "BSD-3-Clause",
        }
        for start in window_starts(len(samples), split)
    ]


def held_out(fold: int) -> tuple[int, int]:
    """The two people of a fold (1..5) who are in the test split only."""
    return 2 * fold - 1, 2 * fold


def window_starts(samples: int, split: str) -> range:
    """Starts in seconds: every second for training, without overlap for the test split."""
    stride = TRAIN_STRIDE_S if split == "train" else WINDOW_S
    return range(0, samples // RATE_HZ - WINDOW_S + 1, stride)


def _write_csv(path: Path, samples: np.ndarray) -> None:
    """``samples``: (samples, 6), acceleration in g, then rotation in rad/s."""
    times = np.arange(len(samples)) * (1000 // RATE_HZ)
    # Nine digits give every float32 back exactly.
    table = np.column_stack([times, samples])
    np.savetxt(path, table, fmt=["%d"] + ["%.9g"] * 6, delimiter=",", header=HEADER, comments="")
