"""What all inputs share: files that are not there, rows of a manifest, light imports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from input_checks import refused

from anymal_lib.errors import AnyMALError
from anymal_lib.inputs import Image, Imu
from anymal_lib.modalities import open_row
from anymal_lib.rows import Row


@pytest.mark.parametrize("kind", [Image, Imu])
def test_what_is_no_file_is_named(tmp_path, kind):
    refused(kind(tmp_path / "none.png"), tmp_path / "none.png", "no such file")
    refused(kind(tmp_path), tmp_path, "a folder")
    refused(kind("https://a.org/x.png"), "https://a.org/x.png", "address")
    refused(kind("a\0b"), "no such file")
    refused(kind("a" * 5000), "aaa", "too long")


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
    with pytest.raises(AnyMALError, match=r"row 'i'.*image and imu.*audio"):
        open_row(replace(image, modality="audio"))


def test_inputs_import_neither_torch_nor_rows():
    code = (
        "import sys, anymal_lib.inputs;"
        "print({'torch', 'anymal_lib.rows', 'av', 'soundfile', 'soxr', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr
