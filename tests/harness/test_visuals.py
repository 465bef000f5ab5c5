"""What lmms-eval's tasks hand over, as items of prompts."""

import random

import numpy as np
import PIL.Image
import pytest
import soundfile

from anymal_lib import Audio, Image, Imu, Video
from anymal_lib.errors import InputError
from anymal_lib.harness.visuals import item_of, parts_of
from anymal_lib.sources import moving_shapes

RED = PIL.Image.new("RGB", (8, 6), "red")


def test_pictures_and_frames():
    for visual in (RED, np.asarray(RED), {"type": "image", "url": RED}):
        item = item_of(visual)
        assert type(item) is Image and item.load().getpixel((0, 0)) == (255, 0, 0)
    for visual in ([RED, RED], np.stack([np.asarray(RED)] * 3)):
        item = item_of(visual)
        assert type(item) is Video and len(item.frames(2)) == 2


def test_sounds_with_their_rate(tmp_path):
    samples = np.linspace(-0.5, 0.5, 4000)
    item = item_of({"array": samples, "sampling_rate": 8000, "path": None})
    assert type(item) is Audio
    loaded = item.load()
    assert loaded.rate == 8000 and np.allclose(loaded.samples, samples)
    soundfile.write(tmp_path / "a.flac", samples, 8000)
    assert len(item_of({"path": str(tmp_path / "a.flac")}).load().samples) == 4000


def test_torchcodecs_decoder(tmp_path):
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed")
    samples = np.linspace(-0.5, 0.5, 4000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    try:
        decoder = decoders.AudioDecoder(str(tmp_path / "a.wav"))
    except RuntimeError:
        pytest.skip("torchcodec finds no FFmpeg")
    loaded = item_of(decoder).load()
    assert loaded.rate == 8000 and np.allclose(loaded.samples, samples)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.JPG", Image), ("a.wav", Audio), ("a.csv", Imu), ("a.mp4", Video), ("a.ts", Video)],
)
def test_a_path_is_what_its_suffix_says(name, kind, tmp_path):
    for visual in (name, str(tmp_path / name), tmp_path / name, {"path": name}, {"url": name}):
        assert type(item_of(visual)) is kind
    assert type(item_of({"type": "audio", "url": name})) is Audio


def test_a_part_of_a_film(tmp_path):
    facts = {"colour": "red", "shape": "circle", "direction": "left"}
    frames = moving_shapes.draw_clip(facts, random.Random(0))
    moving_shapes.write_clip(tmp_path / "a.mp4", frames)
    visual = {"type": "video", "path": str(tmp_path / "a.mp4"), "video_start": 0.2}
    whole, part = item_of(visual["path"]), item_of({**visual, "video_end": 0.7})
    assert part.seconds == pytest.approx(0.5) and whole.seconds > 0.9


@pytest.mark.parametrize("visual", [None, 3, {}, {"path": None}, [], {"type": "smell", "url": "a"}])
def test_anything_else_is_refused(visual):
    with pytest.raises(InputError, match="doc_to_visual"):
        item_of(visual)


def test_items_follow_the_text_or_take_their_places():
    assert parts_of("What?", []) == ["What?"]
    assert parts_of("What?", [1]) == ["What? ", 1]
    assert parts_of("What?", [1, 2]) == ["What? ", 1, 2]
    assert parts_of("Is <image> like <audio>?", [1, 2]) == ["Is ", 1, " like ", 2, "?"]
    assert parts_of("<image><image>", [1, 2]) == [1, 2]
    assert parts_of("What is <image>?", [1, 2]) == ["What is <image>? ", 1, 2]
    assert parts_of("What is <image>?", []) == ["What is <image>?"]
