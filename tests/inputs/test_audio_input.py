"""Sounds: whatever the form, one channel comes of it; what cannot be converted is refused."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from input_checks import refused
from media_files import sweep, write_film, write_sound

from anymal_lib.errors import InputError
from anymal_lib.inputs import Audio, Waveform, audio_files

# What writes it, and how many samples a lossy coder may shift it by (none where it states them).
FILES = {
    "a.wav": {"subtype": "PCM_16"},
    "a.flac": {"subtype": "PCM_24"},
    "a.ogg": {"subtype": "VORBIS"},
    "a.aiff": {"subtype": "PCM_16"},
    "opus.ogg": {"subtype": "OPUS"},
    "variable.mp3": {"subtype": "MPEG_LAYER_III"},
    "a.mp3": {"codec": "libmp3lame"},
    "a.m4a": {"codec": "aac"},
    "film.mp4": {"codec": "aac", "film": True},
    "film.mkv": {"codec": "aac", "film": True},
    "film.ts": {"codec": "aac", "film": True},
    "a.aac": {"codec": "aac", "format": "adts"},
    "no_length.mka": {"codec": "flac", "format": "matroska", "options": {"live": "1"}},
}
DELAYED = {"film.ts": 1024, "a.aac": 1024}  # samples that the coder adds and these cannot state
EXACT = ("a.wav", "a.flac", "a.aiff", "no_length.mka")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Function: `sweep()` in one of `FILES`; written once."""
    folder = tmp_path_factory.mktemp("sounds")

    def get(name):
        path, options = folder / name, FILES[name]
        if path.exists():
            return path
        if "codec" in options:
            return write_sound(path, sweep(), **options)
        soundfile.write(path, sweep(), 16_000, **options)
        return path

    return get


def same(waveform, samples, rate=16_000, tolerance=1e-3):
    assert waveform.rate == rate
    assert waveform.samples.dtype == np.float32
    assert waveform.samples.shape == np.shape(samples)
    np.testing.assert_allclose(waveform.samples, samples, atol=tolerance)


# Sounds: what is converted -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_sound(sounds, name):
    for source in (sounds(name), str(sounds(name))):
        sound = Audio(source).load()
        assert (sound.rate, sound.samples.dtype) == (16_000, np.float32)
        samples = sound.samples[DELAYED.get(name, 0) :]
        assert abs(len(samples) - 48_000) <= 2048, "padded by a block at most"
        inner, wanted = samples[4000:44_000], sweep()[4000:44_000]
        np.testing.assert_allclose(inner, wanted, atol=1e-3 if name in EXACT else 0.1)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.9, 1.4), (1.75, 2.0), (2.5, None)])
def test_a_window_is_that_part_of_the_whole(sounds, name, start, end):
    whole = Audio(sounds(name)).load().samples
    window = Audio(sounds(name), start=start, end=end).load()
    first = round(start * 16_000)
    last = len(whole) if end is None else round(end * 16_000)
    # The end of a stream without a stated length may differ by a block.
    assert abs(len(window.samples) - (last - first)) <= (0 if end else 1024)
    np.testing.assert_allclose(
        window.samples[: last - first], whole[first:last][: len(window.samples)], atol=1e-4
    )


@given(st.sampled_from(["a.wav", "a.m4a", "a.mp3"]), st.floats(0, 2.9), st.floats(0.01, 3))
@example("a.mp3", 1.33203125, 1.0)  # begins half way between two samples
@settings(max_examples=60)
def test_any_window_has_its_length_and_place(sounds, name, start, length):
    end = min(start + length, 3.0)
    whole = Audio(sounds(name)).load().samples
    samples = Audio(sounds(name), start=start, end=end).load().samples
    first, last = round(start * 16_000), min(round(end * 16_000), len(whole))
    assert abs(len(samples) - (last - first)) <= 1
    count = min(len(samples), last - first)
    np.testing.assert_allclose(samples[:count], whole[first : first + count], atol=1e-4)


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]
)
@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000, 192_000])
def test_depths_and_rates(tmp_path, subtype, rate):
    soundfile.write(tmp_path / "a.wav", sweep(0.2, rate), rate, subtype=subtype)
    tolerance = {"PCM_U8": 0.01, "ULAW": 0.03}.get(subtype, 1e-4)
    same(Audio(tmp_path / "a.wav").load(), sweep(0.2, rate), rate, tolerance)


@pytest.mark.parametrize("channels", [1, 2, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_are_averaged(tmp_path, channels, suffix):
    tone = sweep(0.2)
    each = np.stack([tone * (k + 1) / channels for k in range(channels)], axis=1)
    soundfile.write(tmp_path / f"a.{suffix}", each, 16_000)
    mean = tone * (channels + 1) / 2 / channels
    same(Audio(tmp_path / f"a.{suffix}").load(), mean)
    same(Audio(each, 16_000).load(), mean)
    same(Audio(each.T, 16_000).load(), mean)


def test_silence_and_clipping_are_sound(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(1000), 16_000)
    same(Audio(tmp_path / "silence.wav").load(), np.zeros(1000))
    clipped = np.clip(5 * sweep(0.1), -1, 1)
    soundfile.write(tmp_path / "clipped.wav", clipped, 16_000)
    same(Audio(tmp_path / "clipped.wav").load(), clipped)
    loud = 1.5 * sweep(0.1)
    soundfile.write(tmp_path / "loud.wav", 2 * loud, 16_000, subtype="FLOAT")
    same(Audio(tmp_path / "loud.wav").load(), 2 * loud)


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"),
    [
        ("f4", 1, 0),
        ("f8", 1, 0),
        ("f2", 1, 0),
        ("i2", 2**15, 0),
        ("i4", 2**31, 0),
        ("u1", 2**7, 128),
    ],
)
def test_arrays_of_every_type(dtype, scale, middle):
    array = (sweep(0.1).astype(np.float64) * scale + middle).astype(dtype)
    before = array.copy()
    for source in (array, array[:, None], array[None], np.stack([array] * 3)):
        same(Audio(source, 16_000).load(), sweep(0.1), tolerance=0.02 if dtype == "u1" else 1e-3)
    np.testing.assert_array_equal(array, before)
    window = Audio(array, rate=16_000, start=0.05, end=0.075).load()
    same(window, sweep(0.1)[800:1200], tolerance=0.02 if dtype == "u1" else 1e-3)


@given(
    hnp.arrays(
        st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "f2", "f4", "f8", "?", "c8", "O"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=80),
    )
)
@settings(max_examples=150)
def test_any_array_is_a_sound_or_refused(array):
    try:
        sound = Audio(array, 8000).load()
    except InputError as error:
        assert error.subject == "array"
        return
    assert array.ndim in (1, 2)
    assert sound.samples.shape == (max(array.shape),)
    assert np.abs(sound.samples).max() <= audio_files.MAX_PEAK


def test_the_content_decides_not_the_suffix(tmp_path, sounds):
    for name in ("a.flac", "a.m4a", "a.mp3"):
        for suffix in ("wav", "raw", "gsm", "txt"):
            path = tmp_path / f"{name} 100%d: x.{suffix}"
            path.write_bytes(sounds(name).read_bytes())
            same(Audio(path).load(), Audio(sounds(name)).load().samples, tolerance=0)


@pytest.mark.parametrize("name", ["long.flac", "long.ogg", "long.mp3", "long.m4a"])
def test_the_end_of_a_long_sound_is_found_by_seeking(tmp_path, monkeypatch, name):
    samples = np.random.default_rng(0).normal(0, 0.1, 120 * 16_000).astype(np.float32)
    path = tmp_path / name
    if name.endswith("m4a"):
        write_sound(path, samples)
    else:
        with soundfile.SoundFile(path, "w", 16_000, 1) as file:
            for block in samples.reshape(120, -1):
                file.write(block)
    read = []
    real = audio_files._mono
    monkeypatch.setattr(audio_files, "_mono", lambda v, axis: read.append(v.size) or real(v, axis))
    whole = Audio(path).load()
    assert sum(read) >= len(whole.samples)
    seconds = len(whole.samples) / 16_000
    read.clear()
    last = Audio(path, start=seconds - 1).load().samples
    np.testing.assert_allclose(last, whole.samples[-len(last) :], atol=1e-4)
    assert sum(read) <= 2.5 * 16_000


def test_many_threads_decode_at_once(sounds):
    names = ["a.flac", "a.m4a", "a.mp3", "film.mp4"] * 8
    wanted = {name: Audio(sounds(name)).load().samples for name in names}
    with ThreadPoolExecutor(8) as pool:
        for name, sound in zip(
            names, pool.map(lambda name: Audio(sounds(name)).load(), names), strict=True
        ):
            np.testing.assert_array_equal(sound.samples, wanted[name])


# Sounds: resampling ------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000, 96_000]),
       st.sampled_from([8000, 16_000, 32_000, 44_100, 48_000]))  # fmt: skip
@settings(max_examples=80)
def test_resampling_has_the_promised_length_and_rate(n, old, new):
    sound = Waveform(np.full(n, 0.25, np.float32), old)
    if round(n * new / old) == 0:
        refused(lambda: sound.resampled(new), "1 to")
        return
    out = sound.resampled(new)
    assert out.rate == new
    assert out.samples.shape == (round(n * new / old),)
    assert out.samples.dtype == np.float32


@pytest.mark.parametrize("new", [8000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_sound_in_time_and_does_not_alias(new):
    out = Waveform(sweep(1.0), 16_000).resampled(new).samples
    np.testing.assert_allclose(out[200:-200], sweep(1.0, new)[200:-200], atol=2e-3)
    high = np.sin(2 * np.pi * 6000 * np.arange(16_000) / 16_000).astype(np.float32)
    if new == 8000:
        assert np.abs(Waveform(high, 16_000).resampled(new).samples[200:-200]).max() < 1e-3


def test_the_same_rate_changes_nothing_and_bad_rates_are_refused():
    sound = Waveform(sweep(0.1), 16_000.0)
    assert sound.resampled(16_000) is sound
    for rate in (0, -1, 16, 1e6, float("nan"), float("inf")):
        refused(lambda rate=rate: sound.resampled(rate), "Hz")
        refused(Audio(sweep(0.1), rate), "array", "Hz")


# Sounds: what is refused -------------------------------------------------------------------------


def test_a_rate_that_contradicts_the_file_is_refused(sounds):
    same(Audio(sounds("a.flac"), 16_000).load(), sweep())
    refused(Audio(sounds("a.flac"), 48_000), sounds("a.flac"), "16000 Hz", "rate=48000")
    refused(Audio(sounds("a.m4a"), 48_000), sounds("a.m4a"), "16000 Hz")
    refused(Audio(sounds("a.m4a"), 0), sounds("a.m4a"), "0 Hz")
    refused(Audio(sweep(0.1)), "array", "without one")


def test_what_is_no_sound_is_named(tmp_path):
    junk = np.random.default_rng(0).bytes(20_000)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    for content, says in (
        (b"", "empty file"),
        (junk, "FFmpeg reads"),
        (b"only words, no sound\n" * 200, "FFmpeg reads"),
        (b"#EXTM3U\nhttp://a.invalid/x.mp3\n", "FFmpeg reads"),
        ((tmp_path / "picture.png").read_bytes(), "a sound track"),
    ):
        for name in ("x.wav", "x.mp3", "x.mp4", "x.gsm"):
            (tmp_path / name).write_bytes(content)
            assert refused(Audio(tmp_path / name), says).subject == str(tmp_path / name)


def test_a_silent_film_has_no_sound_track(tmp_path):
    path = write_film(tmp_path / "a.mp4", 5)
    refused(Audio(path), path, "a sound track", "with video")


@pytest.mark.parametrize(
    ("suffix", "says"),
    [("wav", "at least one sample"), ("aiff", "at least one sample"), ("flac", "empty file")],
)
def test_a_file_without_samples_is_refused(tmp_path, suffix, says):
    soundfile.write(tmp_path / f"a.{suffix}", np.zeros(0), 16_000)
    refused(Audio(tmp_path / f"a.{suffix}"), tmp_path / f"a.{suffix}", says)


def test_a_coded_sound_without_its_index_is_refused(tmp_path, sounds):
    content = sounds("a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: content.index(b"moov") - 4])
    refused(Audio(tmp_path / "a.m4a"), tmp_path / "a.m4a", "whole sound file")


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "film.mkv"])
def test_of_a_sound_cut_off_the_whole_part_is_read(tmp_path, sounds, name):
    if name == "a.m4a":
        path = write_sound(tmp_path / name, sweep(), options={"movflags": "faststart"})
        whole = path.read_bytes()
    else:
        path, whole = tmp_path / name, sounds(name).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert refused(Audio(path)).subject == str(path)
    assert refused(Audio(path, start=1.3)).subject == str(path)
    np.testing.assert_allclose(
        Audio(path, end=0.5).load().samples, Audio(sounds(name), end=0.5).load().samples, atol=1e-3
    )


def test_a_wav_that_was_never_closed_is_read_to_its_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(0.5), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)  # as streams write it
    (tmp_path / "a.wav").write_bytes(content)
    same(Audio(tmp_path / "a.wav").load(), sweep(0.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 32_767.0])
def test_values_that_are_no_sound_are_named(tmp_path, bad):
    samples = sweep(0.1)
    samples[700] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    refused(Audio(tmp_path / "a.wav"), tmp_path / "a.wav", "sample 700", f"{bad:g} at")
    refused(Audio(samples, 16_000), "array", "sample 700")
    same(Audio(samples, 16_000, end=0.04).load(), samples[:640])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(0), "(0,)"),
        (np.zeros((0, 2)), "(0, 2)"),
        (np.zeros((2, 3, 4)), "(2, 3, 4)"),
        (np.zeros((100, 100)), "(100, 100)"),
        (np.zeros(8, np.int64), "int64"),
        (np.zeros(8, np.uint16), "uint16"),
        (np.zeros(8, bool), "bool"),
        (np.zeros(8, complex), "complex"),
        ([[1.0, 2.0], [3.0]], "list"),
        (None, "object"),
    ],
)
def test_bad_arrays_say_what_came(array, says):
    refused(Audio(array, 16_000), "array", says)


def test_windows_that_make_no_sense(sounds):
    for source in (sweep(), sounds("a.wav"), sounds("a.m4a")):
        for start, end in ((-1, None), (3, None), (9, 10), (0, 3.6), (2, 1), (float("nan"), None)):
            rate = 16_000 if isinstance(source, np.ndarray) else None
            refused(Audio(source, rate, start=start, end=end), "inside its 3.000 s")
        refused(Audio(source, rate, start=1, end=1), "at least one sample")
    for start, end in ((-1, None), (2, 1), (float("nan"), None)):
        refused(Audio(sounds("no_length.mka"), start=start, end=end), "inside its")
    refused(Audio(sounds("no_length.mka"), start=9), "at least one sample")


def test_a_guessed_length_is_not_believed(tmp_path):
    # Silence first: by its first packets FFmpeg takes this for a sound of minutes.
    noise = np.random.default_rng(0).normal(0, 0.3, 80_000)
    samples = np.concatenate([np.zeros(80_000), noise]).astype(np.float32)
    path = write_sound(tmp_path / "a.aac", samples, format="adts")
    with av.open(str(path)) as container:
        assert container.duration > 60e6
    assert len(Audio(path).load().samples) == pytest.approx(160_000, abs=2048)
    assert len(Audio(path, start=8).load().samples) == pytest.approx(32_000, abs=2048)
    refused(Audio(path, end=20), path, "ends at 10.")


def test_a_rate_beyond_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(0.1), 10)
    refused(Audio(tmp_path / "a.wav"), tmp_path / "a.wav", "10 Hz")


def test_length_is_bounded(monkeypatch, sounds):
    monkeypatch.setattr(audio_files, "MAX_SAMPLES", 32_000)
    for name in ("a.flac", "a.m4a", "no_length.mka"):
        refused(Audio(sounds(name)), sounds(name), "minutes of sound at 16000 Hz")
        assert len(Audio(sounds(name), end=1.5).load().samples) == 24_000
    refused(Audio(sweep(), 16_000), "array", "(48000,)")
    hour = Waveform(np.broadcast_to(np.float32(0), 2**28), 8000)
    refused(lambda: hour.resampled(48_000), "1 to 268435456")


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=80)
def test_damaged_sounds_give_samples_or_input_errors(sounds, tmp_path_factory, seed, wounds):
    random = np.random.default_rng(seed)
    names = ["a.wav", "a.flac", "a.ogg", "a.m4a", "a.mp3", "film.mkv"]
    content = bytearray(sounds(names[seed % len(names)]).read_bytes())
    for place in random.integers(0, len(content), wounds):
        content[place] = random.integers(0, 256)
    path = tmp_path_factory.mktemp("x") / "bad.wav"
    path.write_bytes(content)
    try:
        assert np.isfinite(Audio(path).load().samples).all()
    except InputError as error:
        assert error.subject == str(path)
