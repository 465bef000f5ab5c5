"""Raw inputs: whatever the form, it is converted; what cannot be is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anymal_lib import imu_files
from anymal_lib.errors import AnyMALError, InputError
from anymal_lib.inputs import STANDARD_GRAVITY, Image, Imu, ImuSignal, open_row
from anymal_lib.rows import Row

RED, WHITE = (255, 0, 0), (255, 255, 255)


def refused(item, *says):
    with pytest.raises(InputError) as error:
        item.load()
    for words in says:
        assert str(words) in str(error.value)
    return error.value


# Images: what is converted -----------------------------------------------------------------------


def red(mode, size=(6, 4)):
    return PIL.Image.new("RGB", size, RED).convert(mode)


def near(pixel, wanted, tolerance=3):
    return np.abs(np.subtract(pixel, wanted)).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("rgb.png", red("RGB"), {}),
        ("rgb.jpg", red("RGB"), {"quality": 95}),
        ("cmyk.jpg", red("CMYK"), {"quality": 95}),
        ("palette.png", red("P"), {}),
        ("rgba.png", red("RGBA"), {}),
        ("rgb.bmp", red("RGB"), {}),
        ("rgb.webp", red("RGB"), {"lossless": True}),
        ("rgb.gif", red("RGB"), {}),
        ("rgb.tif", red("RGB"), {}),
    ],
)
def test_formats_and_modes_become_rgb(tmp_path, name, image, options):
    image.save(tmp_path / name, **options)
    for source in (tmp_path / name, str(tmp_path / name)):
        loaded = Image(source).load()
        assert (loaded.mode, loaded.size) == ("RGB", (6, 4))
        assert near(loaded.getpixel((2, 2)), RED)
    assert near(Image(image).load().getpixel((2, 2)), RED), "the PIL image itself"


def test_the_content_decides_not_the_suffix(tmp_path):
    red("RGB").save(tmp_path / "x.jpg", format="PNG")
    assert Image(tmp_path / "x.jpg").load().getpixel((0, 0)) == RED


def test_transparency_is_laid_on_white(tmp_path):
    image = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    palette = PIL.Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    palette.save(tmp_path / "p.png", transparency=0)
    assert Image(tmp_path / "a.png").load().getpixel((0, 0)) == WHITE
    assert near(Image(tmp_path / "a.png").load().getpixel((1, 0)), (255, 127, 127))
    assert [Image(tmp_path / "p.png").load().getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]
    grey = PIL.Image.new("LA", (1, 1), (0, 0))
    assert Image(grey).load().getpixel((0, 0)) == WHITE


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "deep.png")
    loaded = Image(tmp_path / "deep.png").load()
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert list(Image(values).load().tobytes()) == [0, 0, 0, 128, 128, 128, 255, 255, 255]


def test_exif_orientation_is_applied(tmp_path):
    image = PIL.Image.new("RGB", (4, 2), WHITE)
    image.putpixel((0, 0), RED)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees: the top left comes to the top right
    image.save(tmp_path / "turned.png", exif=exif)
    loaded = Image(tmp_path / "turned.png").load()
    assert loaded.size == (2, 4)
    assert loaded.getpixel((1, 0)) == RED


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [red("RGB"), PIL.Image.new("RGB", (6, 4), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image(tmp_path / "a.gif").load().getpixel((0, 0)) == RED


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["hw", "hw1", "hw3", "hw4", "1hw", "3hw", "4hw"])
def test_arrays_of_every_layout(dtype, layout):
    full = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    array = np.full((5, 7, 4), full, dtype)
    array[1, 2] = [0, 0, 0, full]
    array = {"hw": array[..., 0]}.get(layout, array[..., : int(layout.strip("hw") or 1)])
    array = np.moveaxis(array, 2, 0) if layout.endswith("hw") and layout != "hw" else array
    loaded = Image(array).load()
    assert (loaded.mode, loaded.size) == ("RGB", (7, 5))
    assert loaded.getpixel((2, 1)) == (0, 0, 0)
    assert loaded.getpixel((1, 2)) == WHITE


@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "f2", "f4", "f8", "i4", "i8", "?", "c8", "O", "U3", "M8[s]"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
@settings(max_examples=300, deadline=None)
def test_any_array_converts_or_is_refused(array):
    try:
        loaded = Image(array).load()
    except InputError as error:
        assert error.subject == "array"
        assert str(array.dtype) in error.got
        return
    assert loaded.mode == "RGB"
    assert sorted(loaded.size)[-1] in array.shape
    assert array.dtype.name in ("uint8", "uint16") or 0 <= array.min() <= array.max() <= 1


@given(hnp.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.just(3))))
@settings(max_examples=50, deadline=None)
def test_rgb_arrays_come_through_unchanged(array):
    for same in (array, np.moveaxis(array, 2, 0), array / 255, array.astype(np.uint16) * 257):
        np.testing.assert_array_equal(np.asarray(Image(same).load()), array)


# Images: what is refused -------------------------------------------------------------------------


def png_claiming(width, height):
    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def half(format):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"only words, no picture", "whole image"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "whole image"),
        (half("PNG"), "whole image"),
        (half("JPEG"), "whole image"),
        (b"\x89PNG\r\n\x1a\n", "whole image"),
        (png_claiming(20_000, 20_000), "whole image"),  # Pillow itself refuses this one
        (png_claiming(10_000, 10_000), "at most 89478485 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_named(tmp_path, content, says):
    (tmp_path / "bad.png").write_bytes(content)
    error = refused(Image(tmp_path / "bad.png"), says)
    assert error.subject == str(tmp_path / "bad.png")


@pytest.mark.parametrize("kind", [Image, Imu])
def test_what_is_no_file_is_named(tmp_path, kind):
    refused(kind(tmp_path / "none.png"), tmp_path / "none.png", "no such file")
    refused(kind(tmp_path), tmp_path, "a folder")
    refused(kind("https://a.org/x.png"), "https://a.org/x.png", "address")
    refused(kind("a\0b"), "no such file")
    refused(kind("a" * 5000), "aaa", "too long")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(st.binary(min_size=1, max_size=100), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]))
@settings(max_examples=200, deadline=None)
def test_damaged_files_load_or_raise_input_errors(tmp_path_factory, noise, format):
    buffer = io.BytesIO()
    red("RGB").save(buffer, format=format)
    content = bytearray(buffer.getvalue())
    for i, byte in enumerate(noise):
        content[(i * 31 + byte) % len(content)] = byte
    path = tmp_path_factory.mktemp("x") / "bad.img"
    path.write_bytes(content)
    try:
        assert Image(path).load().mode == "RGB"
    except InputError as error:
        assert error.subject == str(path)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((4, 4), 2.0), "from 2.0 to 2.0"),
        (np.full((4, 4), -0.1), "-0.1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((5, 4, 2), np.uint8), "(5, 4, 2)"),
        (np.zeros((0, 4), np.uint8), "(0, 4)"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "at most"),
        ([[1, 2], [3]], "list"),
        (None, "object"),
    ],
)
def test_bad_arrays_say_what_came(array, says):
    refused(Image(array), "array", says)


# IMU: fixtures -----------------------------------------------------------------------------------

NAMES = ["accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z"]


def motion(n=200, seed=0):
    """(n, 6): gravity on z, some movement."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (n, 6))
    samples[:, 2] += 1
    return samples.round(6)


def write(path, samples, header=NAMES, rate=50, time="timestamp_ms", scale=1000, sep=","):
    """A CSV with a time column if ``time``; header None writes none."""
    columns = [np.arange(len(samples)) / rate * scale] if time else []
    names = [time, *header] if time and header else header
    lines = [sep.join(names)] if names else []
    for values in np.column_stack([*columns, samples]):
        lines.append(sep.join(f"{v:.17g}" for v in values))
    path.write_text("\n".join(lines) + "\n")
    return path


def same(signal, samples, rate=50):
    assert signal.rate == pytest.approx(rate)
    assert signal.samples.dtype == np.float32
    assert signal.samples.flags.c_contiguous
    np.testing.assert_allclose(signal.samples, samples, rtol=1e-6, atol=1e-6)


# IMU: what is converted --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.uint8])
def test_arrays_either_way_round(dtype):
    samples = (motion() * 10).astype(dtype)
    for array in (samples, samples.T, samples.tolist()):
        same(Imu(array, 50, accel_unit="g").load(), samples.astype(np.float64))
    assert Imu(np.eye(6), 50).load().samples[0, 0] == 1


@pytest.mark.parametrize(
    "header",
    [
        NAMES,
        ["ax", "ay", "az", "gx", "gy", "gz"],
        ["ax", "ay", "az", "wx", "wy", "wz"],
        ["Acc_X", "Acc_Y", "Acc_Z", "Gyr_X", "Gyr_Y", "Gyr_Z"],
        ["ACCEL_X", "ACCEL_Y", "ACCEL_Z", "GYRO_X", "GYRO_Y", "GYRO_Z"],
        [f"{s} {a}" for s in ("accelerometer", "gyroscope") for a in "xyz"],
        [f"{s}-{a}-axis" for s in ("acceleration", "gyro") for a in "xyz"],
        [f"{a}-axis {s}" for s in ("acceleration", "angular velocity") for a in "XYZ"],
        [f"{s}.{a}" for s in ("linear_acceleration", "angular_velocity") for a in "xyz"],
        [f"acc_{a} (g)" for a in "xyz"] + [f"gyro_{a} [rad/s]" for a in "xyz"],
        [f'"{s}{a}"' for s in ("a", "g") for a in "xyz"],
    ],
)
def test_headers_of_many_makers(tmp_path, header):
    same(Imu(write(tmp_path / "a.csv", motion(), header)).load(), motion())


def test_order_comes_from_the_header_and_other_columns_are_ignored(tmp_path):
    samples = motion()
    order = [4, 0, 5, 2, 3, 1]
    table = np.column_stack([samples[:, order], np.full(len(samples), 7.0)])
    path = write(tmp_path / "a.csv", table, [NAMES[i] for i in order] + ["mag_x"])
    same(Imu(path).load(), samples)


def test_channels_named_by_hand(tmp_path):
    samples = motion()
    path = write(tmp_path / "a.csv", samples, list("pqruvw"))
    refused(Imu(path), path, "acceleration x", "channels=")
    same(Imu(path, channels=list("PQRUVW")).load(), samples)
    same(Imu(path, channels=range(1, 7)).load(), samples)
    wide = np.column_stack([samples[:, ::-1], samples[:, :2]])
    same(Imu(wide, 50, channels=[5, 4, 3, 2, 1, 0]).load(), samples)
    for wrong in (list("pqruvx"), [0, 1], [0, 1, 2, 3, 4, 99]):
        refused(Imu(path, channels=wrong), path, "channels=")
        refused(Imu(wide, 50, channels=wrong), "array", "channels=")


@pytest.mark.parametrize("sep", [",", ";", "\t", " "])
def test_delimiters_and_no_header(tmp_path, sep):
    samples = motion()
    six = write(tmp_path / "6.csv", samples, None, time=None, sep=sep)
    same(Imu(six, 50).load(), samples)
    same(Imu(write(tmp_path / "7.csv", samples, None, scale=1, sep=sep)).load(), samples)
    same(Imu(write(tmp_path / "h.csv", samples, sep=sep)).load(), samples)


def test_bom_crlf_blank_lines_and_a_leading_index(tmp_path):
    path = write(tmp_path / "a.csv", motion())
    text = "\r\n\r\n" + path.read_text().replace("\n", "\r\n") + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    same(Imu(path).load(), motion())
    lines = write(path, motion()).read_text().splitlines()
    path.write_text("\n".join(f"{'' if i == 0 else i},{line}" for i, line in enumerate(lines)))
    same(Imu(path).load(), motion())


@pytest.mark.parametrize(
    ("time", "scale"),
    [
        ("timestamp", 1), ("time", 1), ("t", 1), ("Time (s)", 1), ("time_s", 1), ("seconds", 1),
        ("timestamp_ms", 1e3), ("canonical_timestamp_ms", 1e3), ("time [ms]", 1e3), ("time", 1e3),
        ("timestamp_us", 1e6), ("time (µs)", 1e6), ("timestamp", 1e6), ("ts", 1e9),
        ("timestamp_ns", 1e9), ("timestamp", 1e9), ("seconds_elapsed", 1),
    ],
)  # fmt: skip
def test_the_time_column_gives_the_rate(tmp_path, time, scale):
    path = write(tmp_path / "a.csv", motion(), time=time, scale=scale)
    same(Imu(path).load(), motion())
    same(Imu(path, start=1, end=2).load(), motion()[50:100])


@pytest.mark.parametrize("rate", [1, 2.5, 26, 100, 400, 1000])
def test_rates_are_found(tmp_path, rate):
    for time, scale in (("time_s", 1), ("time_ms", 1e3), ("time_us", 1e6)):
        path = write(tmp_path / f"{time}.csv", motion(), rate=rate, time=time, scale=scale)
        assert Imu(path).load().rate == pytest.approx(rate, rel=1e-5)


def test_stamps_rounded_to_milliseconds_give_the_mean_rate(tmp_path):
    path = write(tmp_path / "a.csv", motion(600), rate=60, scale=1000)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for cells in lines[1:]:
        cells[0] = str(round(float(cells[0])))
    path.write_text("\n".join(",".join(cells) for cells in lines))
    assert Imu(path).load().rate == pytest.approx(60, rel=1e-3)


def test_windows_take_the_nearest_samples(tmp_path):
    samples = motion()
    for source in (samples, write(tmp_path / "a.csv", samples)):
        for start, end, rows in (
            (None, None, slice(0, 200)), (0, 4, slice(0, 200)), (1, 3, slice(50, 150)),
            (0.999, 3.001, slice(50, 150)), (3.98, None, slice(199, 200)),
            (None, 0.02, slice(0, 1)),
        ):  # fmt: skip
            same(Imu(source, 50, start=start, end=end).load(), samples[rows])


def test_units(tmp_path):
    samples = motion()
    metric = samples * ([STANDARD_GRAVITY] * 3 + [180 / np.pi] * 3)
    same(Imu(metric, 50, gyro_unit="deg/s").load(), samples)
    same(Imu(metric, 50, accel_unit="m/s2", gyro_unit="deg/s").load(), samples)
    same(Imu(metric, 50, accel_unit="g").load(), metric)
    same(Imu(samples * [3, 3, 3, 1, 1, 1], 50).load(), samples * [3, 3, 3, 1, 1, 1])
    # The whole recording decides, so that its windows agree: this one has a wild second.
    wild = samples.copy()
    wild[50:100, :3] *= 10
    same(Imu(wild, 50, start=1, end=2).load(), wild[50:100])
    refused(Imu(samples, 50, accel_unit="ms2"), "array", "m/s2")
    refused(Imu(samples, 50, gyro_unit="rpm"), "array", "deg/s")


def test_npy_by_content_and_the_source_is_not_changed(tmp_path):
    samples = (motion() * STANDARD_GRAVITY).astype(np.float32)
    np.save(tmp_path / "a.npy", samples)
    (tmp_path / "a.npy").rename(tmp_path / "a.csv")
    before = samples.copy()
    same(Imu(tmp_path / "a.csv", 50).load(), Imu(samples, 50).load().samples)
    np.testing.assert_array_equal(samples, before)


def test_a_recording_is_parsed_once_until_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", motion())
    first = Imu(path, start=0, end=1).load()
    parsed = []
    real = imu_files._read_csv
    monkeypatch.setattr(imu_files, "_read_csv", lambda *a: parsed.append(a) or real(*a))
    first.samples[:] = 0
    same(Imu(path, start=1, end=2).load(), motion()[50:100])
    same(Imu(path, start=0, end=1).load(), motion()[:50])
    assert not parsed
    write(path, motion(300, seed=1))
    same(Imu(path).load(), motion(300, seed=1))
    assert len(parsed) == 1


# IMU: resampling ---------------------------------------------------------------------------------


@given(
    n=st.integers(1, 400),
    old=st.sampled_from([1, 12.5, 26, 49.87, 50, 100, 200, 1000]),
    new=st.sampled_from([1, 12.5, 26, 50, 100, 199.9, 1000]),
)
@settings(max_examples=150, deadline=None)
def test_resampling_has_the_promised_length_and_rate(n, old, new):
    signal = ImuSignal(np.ones((n, 6), np.float32), old)
    wanted = n if old == new else round(n * new / old)
    if wanted == 0:
        with pytest.raises(InputError, match="at least one sample"):
            signal.resampled(new)
        return
    out = signal.resampled(new)
    assert out.samples.shape == (wanted, 6)
    assert out.samples.dtype == np.float32
    assert out.rate == new
    np.testing.assert_allclose(out.samples, 1, atol=1e-3)  # gravity stays, at the edges too


@pytest.mark.parametrize(("old", "new"), [(100, 50), (50, 100), (200, 50), (50, 49.87), (104, 50)])
def test_resampling_keeps_the_motion_in_time(old, new):
    def wave(rate):
        t = np.arange(round(6 * rate)) / rate
        return np.repeat(np.sin(2 * np.pi * 2 * t)[:, None], 6, axis=1).astype(np.float32)

    out = ImuSignal(wave(old), old).resampled(new).samples
    edge = round(new / 2)
    np.testing.assert_allclose(out[edge:-edge], wave(new)[edge:-edge], atol=2e-3)


def test_resampling_does_not_alias():
    t = np.arange(2000) / 200
    fast = np.repeat(np.sin(2 * np.pi * 40 * t)[:, None], 6, axis=1).astype(np.float32)
    out = ImuSignal(fast, 200).resampled(50).samples
    assert np.abs(out[50:-50]).max() < 0.01  # every fourth sample would be a 10 Hz wave


def test_resampling_to_the_same_rate_does_nothing_and_bad_rates_are_refused():
    signal = ImuSignal(motion().astype(np.float32), 50)
    assert signal.resampled(50) is signal
    for rate in (0, 0.5, 10_001, float("nan")):
        with pytest.raises(InputError, match="1 to 10000 Hz"):
            signal.resampled(rate)


# IMU: what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, -5, 0.99, 10_001, float("nan"), float("inf")])
def test_rates_out_of_range(rate):
    refused(Imu(motion(), rate), "array", "1 to 10000 Hz")


def test_unknown_rates(tmp_path):
    refused(Imu(motion()), "array", "neither a rate nor a time column")
    path = write(tmp_path / "a.csv", motion(), time=None)
    refused(Imu(path), path, "neither a rate nor a time column")
    one = write(tmp_path / "1.csv", motion(1))
    refused(Imu(one), one, "rate")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 5)), "(5, 5)"),
        (np.zeros(6), "(6,)"),
        (np.zeros((0, 6)), "(0, 6)"),
        (np.zeros((2, 6, 6)), "(2, 6, 6)"),
        (np.zeros((9, 6), complex), "complex128"),
        (np.zeros((9, 6), bool), "bool"),
        (np.full((9, 6), "1"), "<U1"),
        (np.full((9, 6), None), "object"),
        ([[1, 2], [3]], "list"),
        (np.full((9, 6), 1e300), "inf in data row 1, acceleration x"),
    ],
)
def test_bad_imu_arrays_say_what_came(array, says):
    refused(Imu(array, 50), "array", says)


@given(
    hnp.arrays(
        st.sampled_from(["u1", "i2", "f4", "f8", "?", "c8", "O", "U3", "M8[s]"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_array_is_a_signal_or_refused(array):
    try:
        signal = Imu(array, 50).load()
    except InputError as error:
        assert error.subject == "array"
        return
    assert signal.samples.shape[1] == 6
    assert np.isfinite(signal.samples).all()
    assert 6 in array.shape


@pytest.mark.parametrize("bad", ["nan", "NaN", "", "inf", "-inf"])
def test_nan_and_inf_name_the_first_row_of_the_window(tmp_path, bad):
    path = write(tmp_path / "a.csv", motion())
    lines = path.read_text().splitlines()
    for number in (121, 150):  # data rows, counted from 1
        cells = lines[number].split(",")
        cells[5] = bad
        lines[number] = ",".join(cells)
    path.write_text("\n".join(lines))
    refused(Imu(path), path, "in data row 121, rotation y")
    refused(Imu(path, start=2.5), path, "in data row 150, rotation y")
    same(Imu(path, start=0, end=2).load(), motion()[:100])


def edited(path, edit):
    lines = write(path, motion()).read_text().splitlines()
    path.write_text("\n".join(edit(lines)))
    return path


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda ls: [*ls[:7], ls[7].replace(ls[7].split(",")[2], "oops"), *ls[8:]],
         "'oops' in data row 7, accl_y"),
        (lambda ls: [*ls[:7], "x" + ls[7], *ls[8:]], "in data row 7, timestamp_ms"),
        (lambda ls: [*ls[:7], ls[7] + ",1,2", *ls[8:]], "in line 8, saw 9"),
        (lambda ls: [ls[0], *(line + ",1" for line in ls[1:])], "more than the 7 named columns"),
        (lambda ls: [line.rsplit(",", 1)[0] for line in ls], "0 columns for rotation z"),
        (lambda ls: [ls[0].replace("gyro_x", "accl_x"), *ls[1:]], "2 columns for acceleration x"),
        (lambda ls: ls[:1], "a header alone"),
        (lambda ls: ["", "  "], "no line with anything"),
        (lambda ls: [line.split(",", 4)[-1] for line in ls[1:]], "3 columns without a header"),
        (lambda ls: ['"' + ls[0], *ls[1:]], "a header alone"),
        (lambda ls: [*ls[:9], ls[5], *ls[9:]], "never goes backwards"),
        (lambda ls: [*ls[:9], ls[9].replace("160,", ",", 1), *ls[10:]], "a time in every row"),
        (lambda ls: [*ls[:61], *ls[66:]], "a gap of 0.120 s at 1.180 s (data row 60)"),
        (lambda ls: [ls[0], *("5," + line.split(",", 1)[1] for line in ls[1:])], "rate"),
    ],
)  # fmt: skip
def test_bad_csv_files_are_named(tmp_path, edit, says):
    path = edited(tmp_path / "bad.csv", edit)
    assert refused(Imu(path), says).subject == str(path)


def test_a_gap_outside_the_window_is_no_matter(tmp_path):
    path = edited(tmp_path / "a.csv", lambda lines: [*lines[:61], *lines[111:]])
    refused(Imu(path), path, "gap")
    refused(Imu(path, 50), path, "gap")
    same(Imu(path, end=1).load(), motion()[:50])
    same(Imu(path, start=3).load(), motion()[150:])


def test_jitter_below_20_ms_is_no_gap(tmp_path):
    path = write(tmp_path / "a.csv", motion(), rate=1000)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:50], *lines[60:]]))  # 11 ms where 1 ms is usual
    assert Imu(path).load().rate == pytest.approx(1000)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{'descr'", b"PK\x03\x04\0\0\0",
        b"\xff\xfe\xfa",
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9, 6), }"
        + b" " * 58 + b"\n",
    ],
)  # fmt: skip
def test_other_bad_recordings_are_named(tmp_path, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert refused(Imu(path, 50)).subject == str(path)


def test_a_pickle_is_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(Imu(tmp_path / "a.npy", 50), tmp_path / "a.npy", "pickle")


@pytest.mark.parametrize(
    ("start", "end"), [(-1, None), (4, None), (9, 10), (0, 4.2), (3, 2), (float("nan"), None)]
)
def test_windows_outside_are_refused(tmp_path, start, end):
    for source in (motion(), write(tmp_path / "a.csv", motion())):
        name = source if isinstance(source, Path) else "array"
        refused(Imu(source, 50, start=start, end=end), name, "inside its 4.000 s")


def test_an_empty_window_is_refused():
    refused(Imu(motion(), 50, start=1, end=1), "array", "at least one sample")
    refused(Imu(motion(), 50, start=1.011, end=1.019), "array", "at least one sample")


CELLS = st.sampled_from(["1", "-0.5", "2e3", "nan", "", "x", '"', "1,2", "ax", "time", "é", ";"])


@pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")
@given(st.lists(st.lists(CELLS, max_size=9), max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_csv_is_a_signal_or_refused(tmp_path_factory, rows, with_header):
    path = tmp_path_factory.mktemp("x") / "a.csv"
    lines = [",".join(cells) for cells in rows]
    path.write_text("\n".join([",".join(["time", *NAMES]), *lines] if with_header else lines))
    try:
        assert Imu(path, 50).load().samples.shape[1] == 6
    except InputError as error:
        assert error.subject == str(path)


# Rows --------------------------------------------------------------------------------------------


def test_open_row(tmp_path):
    red("RGB").save(tmp_path / "a.png")
    image = Row("i", "train", "image", tmp_path / "a.png", ("red",))
    assert open_row(image).load().getpixel((0, 0)) == RED
    path = write(tmp_path / "a.csv", motion(), rate=25)
    imu = Row("m", "train", "imu", path, ("moves",), start=1.0, end=2.0)
    same(open_row(imu).load(), motion()[25:50], rate=25)
    same(open_row(replace(imu, rate=50.0)).load(), motion()[50:100])
    degrees = open_row(replace(imu, gyro_unit="deg/s")).load().samples
    np.testing.assert_allclose(degrees[:, 3:], np.deg2rad(motion()[25:50, 3:]), rtol=1e-6)
    with pytest.raises(AnyMALError, match=r"row 'i'.*image and imu.*audio"):
        open_row(replace(image, modality="audio"))
