"""Sounds and films of every kind in one bank: what can be used is, the rest is skipped by name."""

import threading

import av
import numpy as np
import PIL.Image
import pytest
import soundfile

from anymal_lib.bank import build_bank
from anymal_lib.errors import DataError
from anymal_lib.manifest import load_manifest, write_manifest
from anymal_lib.sources import moving_shapes

RATE = 16_000
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def coded(path, codec="aac", film=False, **more):
    """The tone in a container, with moving pictures beside it if asked for."""
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        pictures = container.add_stream("libx264", rate=8) if film else None
        if pictures:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        frame = av.AudioFrame.from_ndarray(TONE[None], "fltp", "mono")
        frame.rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
        for k in range(8 if film else 0):
            pixels = np.full((48, 64, 3), 30 * k, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        if pictures:
            container.mux(pictures.encode(None))


def film(path, count=16):
    colours = [(15 * k, 255 - 15 * k, 90) for k in range(count)]
    moving_shapes.write_clip(path, [PIL.Image.new("RGB", (96, 96), c) for c in colours])


def gif(path):
    frames = [PIL.Image.new("RGB", (40, 30), (20 * k, 0, 0)) for k in range(5)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=100)


def cut(write):
    """Half of what a function writes."""

    def halved(path):
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return halved


def wave(samples, subtype, rate=RATE):
    return lambda path: soundfile.write(path, samples, rate, subtype, format="WAV")


def bytes_of(data):
    return lambda path: path.write_bytes(data)


NOISE = np.random.default_rng(0).bytes(5000)
NAN = np.where(np.arange(RATE) == 77, np.nan, TONE)
GOOD = {
    "audio": {
        "silence.wav": wave(np.zeros(RATE), "PCM_16"),
        "clipped.wav": wave(np.clip(20 * TONE, -1, 1), "PCM_16"),
        "8-bit.wav": wave(TONE, "PCM_U8"),
        "96-kHz.wav": wave(np.repeat(TONE, 6), "PCM_24", 96_000),
        "seven-channels.wav": wave(np.stack([TONE] * 7, 1), "FLOAT"),
        "an-mp3-called.wav": lambda path: coded(path, "mp3", format="mp3"),
        "sound-track.mp4": lambda path: coded(path, film=True),
    },
    "video": {
        "film.mp4": film,
        "one-frame.mp4": lambda path: film(path, 1),
        "animated.gif": gif,
        "a-gif-called.mp4": gif,
        "a-film-called.txt": lambda path: coded(path, film=True, format="mp4"),
    },
}
BAD = {
    "audio": {
        "empty.wav": bytes_of(b""),
        "no-sample.wav": wave(np.zeros(0), "PCM_16"),
        "too-short.wav": wave(TONE[:800], "PCM_16"),
        "nan.wav": wave(NAN, "FLOAT"),
        "words.wav": bytes_of(b"This is a text, and no sound. " * 20),
        "noise.mp3": bytes_of(NOISE),
        "cut.m4a": cut(lambda path: coded(path, format="mp4")),
        "silent-film.mp4": film,
        "folder.wav": lambda path: path.mkdir(),
        "gone.wav": lambda path: None,
    },
    "video": {
        "empty.mp4": bytes_of(b""),
        "only-sound.mp4": lambda path: coded(path),
        "no-frames.mp4": bytes_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08free"),
        "cut.mp4": cut(film),
        "cut.gif": bytes_of(b"GIF89a\x28\0\x1e\0"),
        "noise.mp4": bytes_of(NOISE),
        "sound.mp4": wave(TONE, "PCM_16"),
        "folder.mp4": lambda path: path.mkdir(),
        "gone.mp4": lambda path: None,
    },
}


def rows_of(folder, modality):
    """Good and bad files in turn, as a manifest's rows."""
    good, bad = list(GOOD[modality].items()), list(BAD[modality].items())
    mixed = [
        entry
        for k in range(max(len(good), len(bad)))
        for entry in (*bad[k : k + 1], *good[k : k + 1])
    ]
    rows = []
    for name, write in mixed:
        write(folder / name)
        rows.append({"id": name, "split": "train", modality: name, "text": ["something"]})
    return load_manifest(write_manifest(folder, {"name": "mixed", "modality": modality}, rows)).rows


def within(seconds, run):
    """What `run` gives or raises; a failure where it takes longer."""
    found = []

    def caught():
        try:
            found.append(run())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=caught, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return found[0]


@pytest.fixture(params=["audio", "video"])
def case(request, tmp_path):
    return request.param, rows_of(tmp_path, request.param)


@pytest.mark.parametrize(("batch", "cache"), [(1, None), (3, True), (64, False)])
def test_bad_media_are_skipped_counted_and_named(case, tiny_encoders, batch, cache):
    modality, rows = case
    encoder, title = tiny_encoders[modality], "mixed"
    bank = within(
        60,
        lambda: build_bank(encoder, rows, batch=batch, max_bad_share=0.9, title=title, cache=cache),
    )
    assert [row.id for row in bank.rows] == [row.id for row in rows if row.id in GOOD[modality]]
    report = bank.report()
    assert report["used"] == len(GOOD[modality])
    assert {bad["id"] for bad in report["skipped"]} == set(BAD[modality])
    for bad in report["skipped"]:
        assert bad["id"] in bad["reason"] and "expected" in bad["reason"]
    features = bank.features(encoder, range(len(bank)))
    assert features.sequence.isfinite().all() and features.pooled.isfinite().all()


def test_too_many_bad_media_stop_the_run_naming_the_first(case, tiny_encoders):
    modality, rows = case
    encoder = tiny_encoders[modality]
    error = within(60, lambda: build_bank(encoder, rows, batch=3, max_bad_share=0.2, title="mixed"))
    assert isinstance(error, DataError)
    first = next(iter(BAD[modality]))
    assert f"{len(BAD[modality])} of {len(rows)}" in str(error) and first in str(error)
