"""Motion: whatever the form, it is converted; what cannot be is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from input_checks import refused

from anymal_lib.errors import InputError
from anymal_lib.inputs import STANDARD_GRAVITY, Imu, ImuSignal, imu_files

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
@settings(max_examples=150)
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
@settings(max_examples=200)
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
@settings(max_examples=200)
def test_any_csv_is_a_signal_or_refused(tmp_path_factory, rows, with_header):
    path = tmp_path_factory.mktemp("x") / "a.csv"
    lines = [",".join(cells) for cells in rows]
    path.write_text("\n".join([",".join(["time", *NAMES]), *lines] if with_header else lines))
    try:
        assert Imu(path, 50).load().samples.shape[1] == 6
    except InputError as error:
        assert error.subject == str(path)
