"""Ego4D: narrations and recordings in its own format become windows that the kit reads."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.errors import ManifestError
from anymal_lib.inputs import STANDARD_GRAVITY
from anymal_lib.manifest import load_manifest
from anymal_lib.modalities import open_row
from anymal_lib.sources.convert import convert
from anymal_lib.sources.formats.ego4d import caption
from anymal_lib.sources.motion_windows import (
    RATE_HZ,
    WINDOW_S,
    Stretch,
    read_stretches,
    window_at,
)

HEADER = (
    "component_idx,component_timestamp_ms,canonical_timestamp_ms,"
    "gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"
)


def motion(seconds):
    """Six channels as known functions of the video's clock."""
    t = np.asarray(seconds)[:, None]
    swing = np.sin(2 * np.pi * np.array([0.5, 0.7, 0.9]) * t)
    gravity = np.array([0, STANDARD_GRAVITY, 0])
    return np.hstack([gravity + swing, 0.1 * swing])


def recording(folder, name, seconds, missing=()):
    """Write ``imu/<name>.csv``; rows whose number is in `missing` lose a value or their time."""
    lines = [HEADER]
    for number, (t, row) in enumerate(zip(seconds, motion(seconds), strict=True)):
        cells = [f"{value:.6f}" for value in (*row[3:], *row[:3])]
        cells[0] = "" if (number, "value") in missing else cells[0]
        time = "" if (number, "time") in missing else f"{t * 1000:.3f}"
        lines.append(",".join(["0", f"{t * 1000:.3f}", time, *cells]))
    (folder / "imu").mkdir(parents=True, exist_ok=True)
    (folder / "imu" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / "imu" / f"{name}.csv"


def narrated(*times, text="#C C opens a drawer"):
    return {
        "narrations": [
            {"narration_text": text, "timestamp_sec": t, "timestamp_frame": int(t * 30),
             "annotation_uid": "8e0f"}
            for t in times
        ],
        "summaries": [],
    }  # fmt: skip


def test_from_narrations_to_signals(tmp_path):
    source, target = tmp_path / "v2", tmp_path / "manifest"
    gap = np.concatenate([np.arange(0, 12, 0.005), np.arange(14, 20, 0.005)])
    recording(source, "uid-a", gap)
    recording(source, "uid-b", np.arange(0.2, 8, 0.01))  # another rate, a late start
    (source / "imu" / "uid-c.csv").write_text("time,x\n1,2\n")
    narrations = {
        "uid-a": {"narration_pass_1": narrated(1.0, 6.0, 13.0, 19.0, 40.0),
                  "narration_pass_2": narrated(6.0, text="#O A man X waves")},
        "uid-b": {"narration_pass_1": narrated(4.0), "status": "complete"},
        "uid-c": {"narration_pass_1": narrated(4.0)},
        "uid-d": {"narration_pass_1": narrated(4.0)},
        "uid-e": {"status": "redacted"},
    }  # fmt: skip
    (source / "annotations").mkdir()
    (source / "annotations" / "narration.json").write_text(json.dumps(narrations))
    report = convert("ego4d", source, target)
    assert report.lost == {
        "missing file": 1,
        "not what the wearer does": 1,
        "too short: no 5 s without a gap at the narration": 2,
        "unreadable: no recording in Ego4D's columns": 1,
    }
    assert (report.records, report.ok, report.paper) == (9, 4, 528_000)
    manifest = load_manifest(target / "card.yaml")
    rows = {row.id: row for row in manifest.rows}
    clock = {"uid-a-1-0": 0.0, "uid-a-1-1": 3.5, "uid-a-1-3": 15.0, "uid-b-1-0": 1.5}
    assert rows.keys() == clock.keys()
    for name, start in clock.items():
        row = rows[name]
        assert (row.text, row.group) == (("opens a drawer",), name[:5])
        signal = open_row(row).load()
        assert signal.rate == RATE_HZ
        assert signal.samples.shape == (1000, 6)
        true = motion(start + np.arange(1000) / RATE_HZ)
        true[:, :3] /= STANDARD_GRAVITY
        off = np.abs(signal.samples - true)[20:-20].max()  # resampling is less exact at the ends
        assert off < 0.005, name


def test_rows_without_a_time_go_and_missing_values_are_zero(tmp_path):
    lost = {(100, "time"), (200, "value")}
    file = recording(tmp_path, "uid", np.arange(0, 6, 0.005), lost)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")  # sorted by time again
    (stretch,) = read_stretches(file)
    assert len(stretch.samples) == 1200
    true = motion(np.arange(1200) / RATE_HZ)
    np.testing.assert_allclose(stretch.samples[200], [*true[200, :3], 0, *true[200, 4:]], atol=1e-4)
    others = np.delete(np.arange(1200), 200)
    np.testing.assert_allclose(stretch.samples[others], true[others], atol=1e-3)


def test_a_recording_that_is_none_is_refused(tmp_path):
    file = tmp_path / "x.csv"
    for content in ("", HEADER.replace("accl_z", "w") + "\n", HEADER + "\n" + "a," * 8 + "a\n"):
        file.write_text(content)
        with pytest.raises(ManifestError, match=r"x\.csv.*canonical_timestamp_ms"):
            read_stretches(file)


@given(
    st.floats(-5, 60), st.lists(st.tuples(st.floats(5, 12), st.floats(0.2, 4)), max_size=4)
)  # fmt: skip
@settings(max_examples=200)
def test_a_window_is_whole_and_holds_its_narration(seconds, parts):
    stretches, clock = [], 1.0
    for length, gap in parts:
        stretches.append(Stretch(clock, np.zeros((round(length * RATE_HZ), 6), np.float32)))
        clock = stretches[-1].end + gap
    place = window_at(seconds, stretches)
    if place is None:
        inside = any(s.start + WINDOW_S / 2 <= seconds <= s.end - WINDOW_S / 2 for s in stretches)
        assert not inside
        return
    number, start = place
    assert 0 <= start <= len(stretches[number].samples) / RATE_HZ - WINDOW_S
    begin = stretches[number].start + start
    assert begin - 0.01 <= seconds <= begin + WINDOW_S + 0.01


@pytest.mark.parametrize(
    ("narration", "text"),
    [
        ("#C C opens a drawer.", "opens a drawer"),
        ("#C C picks  up #unsure with his left hand", "picks up something with his left hand"),
        ("#c c Cuts Cucumber", "Cuts Cucumber"),
        ("#C looks around", "looks around"),
        ("#C C", None),
        ("#O a man X talks to C", None),
        ("#unsure", None),
    ],
)
def test_captions(narration, text):
    assert caption(narration) == text
