"""What all inputs share: files that are not there, rows of a manifest, light imports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from input_checks import refused
from media_files import red_of, shade, sweep, write_sound

from anymal_lib.errors import AnyMALError
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.modalities import open_row
from anymal_lib.rows import Row


@pytest.mark.parametrize(
    "read",
    [
        lambda source: Audio(source).load(),
        lambda source: Image(source).load(),
        lambda source: Imu(source).load(),
        lambda source: Video(source).frames(2),
    ],
    ids=["audio", "image", "imu", "video"],
)
def test_what_is_no_file_is_named(tmp_path, read):
    for source, says in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "a folder"),
        ("https://a.org/x.png", "address"),
        ("a\0b", "no such file"),
        ("a" * 5000, "too long"),
    ):
        error = refused(lambda source=source: read(source), says)
        assert error.subject == str(source)


def test_open_row(tmp_path):
    PIL.Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    image = Row("i", "train", "image", tmp_path / "a.png", ("red",))
    assert open_row(image).load().getpixel((0, 0)) == (255, 0, 0)
    samples = np.random.default_rng(0).normal(0, 0.1, (200, 6)).round(6)
    table = np.column_stack([np.arange(200) / 25, samples])
    header = "time_s,ax,ay,az,gx,gy,gz"
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=header, comments="")
    imu = Row("m", "train", "imu", tmp_path / "a.csv", ("moves",), start=1.0, end=2.0)
    window = open_row(imu).load()
    assert window.rate == pytest.approx(25)
    np.testing.assert_allclose(window.samples, samples[25:50], rtol=1e-6)
    at_50 = open_row(replace(imu, rate=50.0)).load()
    np.testing.assert_allclose(at_50.samples, samples[50:100], rtol=1e-6)
    degrees = open_row(replace(imu, gyro_unit="deg/s")).load().samples
    np.testing.assert_allclose(degrees[:, 3:], np.deg2rad(samples[25:50, 3:]), rtol=1e-6)


def test_open_row_of_sound_and_film(tmp_path):
    path = write_sound(tmp_path / "a.mp4", sweep(2.0), film=True)
    audio = Row("a", "train", "audio", path, ("rises",), start=0.5, end=1.0)
    assert open_row(audio).load().samples.shape == (8000,)
    assert open_row(replace(audio, rate=16_000.0)).load().rate == 16_000
    refused(open_row(replace(audio, rate=48_000.0)), path, "rate=48000")
    video = Row("v", "train", "video", path, ("changes",), start=1.0, end=1.5, rate=7.0)
    assert [abs(red_of(image) - shade(12)) < 5 for image in open_row(video).frames(1)] == [True]


def test_open_row_of_an_unknown_modality(tmp_path):
    row = Row("i", "train", "depth", tmp_path / "a.png", ("far",))
    with pytest.raises(AnyMALError, match=r"row 'i'.*audio, image, imu, video.*depth"):
        open_row(row)


def test_names_are_exported():
    import anymal_lib

    assert [getattr(anymal_lib, kind.__name__) for kind in (Audio, Image, Imu, Video)] == [
        Audio,
        Image,
        Imu,
        Video,
    ]


def test_inputs_import_neither_torch_nor_rows():
    code = (
        "import sys, anymal_lib.inputs;"
        "print({'torch', 'anymal_lib.rows', 'av', 'soundfile', 'soxr', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr
