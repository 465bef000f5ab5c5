"""Films: the right frames of any container, not all of it decoded; the rest refused by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from input_checks import refused
from media_files import CORNERS, picture, red_of, shade, sweep, write_film, write_sound

from anymal_lib.errors import InputError
from anymal_lib.inputs import Image, Video, media, video_files
from anymal_lib.inputs import image_files as pictures

CONTAINERS = {
    "a.mp4": {},
    "a.mov": {},
    "a.mkv": {},
    "a.ts": {},
    "a.avi": {"codec": "mpeg4"},
    "a.webm": {"codec": "libvpx-vp9"},
    "a.flv": {"codec": "flv"},
    "no_length.mkv": {"options": {"live": "1"}},
    "pieces.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "bare.h264": {"format": "h264"},  # no timestamps at all
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Function: 60 frames in 6 s, a keyframe a second, in a container; written once."""
    folder = tmp_path_factory.mktemp("films")

    def get(name):
        path = folder / name
        return path if path.exists() else write_film(path, **CONTAINERS[name])

    return get


@pytest.fixture
def decoded(monkeypatch):
    """The frames that were decoded."""
    seen = []
    real = video_files._decoded

    def counting(*args):
        for frame in real(*args):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_files, "_decoded", counting)
    return seen


def shows(images, indices, tolerance=4):
    reds = [red_of(image) for image in images]
    assert np.abs(np.subtract(reds, [shade(index) for index in indices])).max() <= tolerance


# Films: what is converted ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_at_the_centres_of_equal_parts(films, name):
    video = Video(films(name))
    assert video.seconds == pytest.approx(6, abs=0.05)
    images = video.frames(4)
    assert {(image.mode, image.size) for image in images} == {("RGB", (64, 48))}
    shows(images, [7, 22, 37, 52])
    window = Video(str(films(name)), start=4.05, end=4.25)
    assert window.seconds == pytest.approx(0.2)
    shows(window.frames(2), [41, 42])
    shows(Video(films(name), start=5.91).frames(1), [59])


@given(st.sampled_from(["a.mp4", "a.mkv", "a.ts"]), st.floats(0, 5.8), st.floats(0.05, 6),
       st.integers(1, 9))  # fmt: skip
@settings(max_examples=60)
def test_any_window_shows_the_last_frame_that_was_due(films, name, start, length, count):
    end = min(start + length, 6.0)
    times = [start + (k + 0.5) * (end - start) / count for k in range(count)]
    # Within a millisecond of a frame's time, the container's rounding decides.
    due = [{min(int(time * 10 + nudge), 59) for nudge in (-0.01, 0.01)} for time in times]
    for image, near in zip(
        Video(films(name), start=start, end=end).frames(count), due, strict=True
    ):
        assert min(abs(red_of(image) - shade(index)) for index in near) <= 4


def test_colours_and_places_are_kept(films):
    image = Video(films("a.mp4")).frames(1)[0]
    assert np.abs(np.subtract(image.getpixel((3, 3)), CORNERS["lime"])).max() < 12
    assert np.abs(np.subtract(image.getpixel((60, 44)), CORNERS["blue"])).max() < 12


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts"])
def test_only_what_is_needed_is_decoded(tmp_path, decoded, name):
    path = write_film(tmp_path / name, 600, gop=20)
    shows(Video(path).frames(8), [37, 112, 187, 262, 337, 412, 487, 562])
    assert len(decoded) < 200
    decoded.clear()
    shows(Video(path, start=50.0, end=50.1).frames(1), [500])
    assert len(decoded) < 30


@pytest.mark.parametrize("name", ["one_key.mp4", "one_key.mkv"])
def test_a_film_of_one_keyframe_is_not_decoded_over_and_over(tmp_path, decoded, name):
    path = write_film(tmp_path / name, 600, gop=600)
    shows(Video(path).frames(16), [int((k + 0.5) * 600 / 16) for k in range(16)])
    assert len(decoded) < 1000


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_goes_by_time(tmp_path, suffix):
    due = [0.0, 0.1, 0.2, 1.0, 3.0, 3.1, 3.9]
    path = write_film(tmp_path / f"slides.{suffix}", len(due), due=due, gop=2)
    shows(Video(path, start=0, end=4).frames(8), [2, 2, 3, 3, 3, 3, 5, 5])
    shows(Video(path, start=0.1, end=0.2).frames(1), [1])


def test_fewer_frames_than_asked_repeat_the_nearest(tmp_path, films):
    one = write_film(tmp_path / "one.mp4", 1)
    shows(Video(one).frames(5), [0] * 5)
    shows(Video(films("a.mp4"), start=1, end=1.3).frames(6), [10, 10, 11, 11, 12, 12])


def test_the_last_picture_stays_while_the_sound_goes_on(tmp_path):
    path = write_sound(tmp_path / "a.mkv", sweep(4.0), film=True)
    assert Video(path).seconds > 3.9
    shows(Video(path).frames(4), [5, 15, 19, 19])


def test_the_camera_may_have_been_held_upright(tmp_path):
    # As telephones write it: (x, y) is shown at (h - y, x), a quarter turn clockwise.
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    image = Video(write_film(tmp_path / "a.mp4", 5, turn=matrix)).frames(1)[0]
    assert image.size == (48, 64)
    assert image.getpixel((44, 3))[1] > 200, "the green corner comes to the top right"
    assert image.getpixel((3, 60))[2] > 200, "the blue one to the bottom left"


def test_the_content_decides_not_the_suffix(tmp_path, films):
    (tmp_path / "film.jpg").write_bytes(films("a.mkv").read_bytes())
    shows(Video(tmp_path / "film.jpg").frames(2), [15, 45])
    (tmp_path / "50%d:x.mp4").write_bytes(films("a.mp4").read_bytes())
    shows(Video(tmp_path / "50%d:x.mp4").frames(2), [15, 45])


@pytest.mark.parametrize(
    ("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"quality": 95})]
)
def test_animated_pictures_play(tmp_path, suffix, options):
    frames = [PIL.Image.new("RGB", (64, 48), (shade(k), 0, 0)) for k in range(4)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=[100, 300, 100, 500], **options
    )
    assert Video(path).seconds == pytest.approx(1.0)
    shows(Video(path).frames(4), [1, 1, 3, 3], tolerance=8)
    shows(Video(path, end=0.1).frames(1), [0], tolerance=8)
    shows(Video(path, start=0.4, end=0.5).frames(1), [2], tolerance=8)
    shows([Image(path).load()], [0], tolerance=8)


def test_a_still_picture_is_one_frame_and_transparency_white(tmp_path):
    PIL.Image.new("RGBA", (8, 6), (255, 0, 0, 0)).save(tmp_path / "a.png")
    PIL.Image.fromarray(picture(3)).save(tmp_path / "a.jpg", quality=95)
    assert {image.getpixel((4, 3)) for image in Video(tmp_path / "a.png").frames(3)} == {(255,) * 3}
    shows(Video(tmp_path / "a.jpg").frames(3), [3, 3, 3])


def test_lists_and_arrays_are_films():
    frames = np.stack([picture(index) for index in range(10)])
    sources = (
        frames,
        frames / 255,
        frames.transpose(0, 3, 1, 2),
        list(frames),
        tuple(PIL.Image.fromarray(frame) for frame in frames),
    )
    for source in sources:
        assert Video(source).seconds is None
        shows(Video(source).frames(5), [1, 3, 5, 7, 9], tolerance=0)
        shows(Video(source).frames(1), [5], tolerance=0)
        window = Video(source, rate=5, start=1, end=1.6)
        assert window.seconds == pytest.approx(0.6)
        shows(window.frames(3), [5, 6, 7], tolerance=0)


@given(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
       st.sampled_from(["u1", "u2", "f4", "f8", "i8", "?", "O"]), st.integers(1, 20))  # fmt: skip
@settings(max_examples=150)
def test_any_array_is_a_film_or_refused(shape, dtype, count):
    try:
        images = Video(np.zeros(shape, dtype)).frames(count)
    except InputError as error:
        assert "frame" in error.subject
        return
    assert len(images) == count
    assert len(shape) == 4
    assert {image.mode for image in images} == {"RGB"}


def test_many_threads_decode_at_once(films):
    paths = [films(name) for name in ("a.mp4", "a.mkv", "a.ts")] * 8
    with ThreadPoolExecutor(8) as pool:
        for images in pool.map(lambda path: Video(path).frames(4), paths):
            shows(images, [7, 22, 37, 52])


# Films: what is refused --------------------------------------------------------------------------


def frames_of(path, **more):
    return lambda: Video(path, **more).frames(4)


LEADS_AWAY = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{film}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {film}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT6S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{film}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("suffix", ["mp4", "txt", "m3u8", "sdp", "mpd", "ffconcat"])
def test_what_is_no_film_is_named(tmp_path, films, suffix):
    path = tmp_path / f"x.{suffix}"
    contents = [text.format(film=films("a.mp4")).encode() for text in LEADS_AWAY.values()]
    contents += [b"only words, no film\n" * 200, np.random.default_rng(0).bytes(20_000)]
    for content in contents:
        path.write_bytes(content)
        assert refused(frames_of(path), "FFmpeg reads").subject == str(path)
    path.write_bytes(b"")
    refused(frames_of(path), path, "empty file")


def test_sound_alone_is_no_film(tmp_path):
    path = write_sound(tmp_path / "a.m4a", sweep(1.0))
    refused(frames_of(path), path, "moving pictures", "with audio", "Audio()")


def test_an_album_cover_is_no_film(tmp_path):
    path = tmp_path / "a.mp4"
    cover = tmp_path / "cover.png"
    PIL.Image.fromarray(picture(0)).save(cover)
    with av.open(str(path), "w") as out, av.open(str(cover)) as source:
        sound = out.add_stream("aac", rate=16_000, layout="mono")
        track = out.add_stream_from_template(source.streams.video[0])
        track.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(sweep(1.0)[None], "fltp", "mono")
        frame.rate = 16_000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        for packet in source.demux():
            if packet.size:
                packet.stream = track
                out.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video, "the cover is a track of pictures"
    refused(frames_of(path), path, "moving pictures")


def test_a_film_without_its_index_is_refused(tmp_path, films):
    path = tmp_path / "a.mp4"
    path.write_bytes(films("a.mp4").read_bytes()[:-2000])
    assert b"moov" not in path.read_bytes()
    refused(frames_of(path), path, "whole film")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_of_a_film_cut_off_the_whole_part_is_read(tmp_path, name):
    options = {"options": {"movflags": "faststart"}} if name.endswith("mp4") else {}
    path = write_film(tmp_path / name, 120, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(frames_of(path)).subject == str(path)
    shows(Video(path, start=0, end=2).frames(4), [2, 7, 12, 17])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=60)
def test_damaged_films_give_frames_or_input_errors(films, tmp_path_factory, seed, wounds):
    random = np.random.default_rng(seed)
    content = bytearray(films(["a.mp4", "a.mkv", "a.ts", "a.avi"][seed % 4]).read_bytes())
    for place in random.integers(0, len(content), wounds):
        content[place] = random.integers(0, 256)
    path = tmp_path_factory.mktemp("x") / "bad.mp4"
    path.write_bytes(content)
    try:
        assert len(Video(path).frames(3)) == 3
    except InputError as error:
        assert error.subject == str(path)


def test_sizes_are_bounded(monkeypatch, films, tmp_path):
    monkeypatch.setattr(video_files, "MAX_KEPT_PIXELS", 64 * 48 * 3)
    assert len(Video(films("a.mp4")).frames(3)) == 3
    refused(lambda: Video(films("a.mp4")).frames(4), "4 frames of 64 x 48")
    monkeypatch.setattr(video_files, "MAX_DECODED_PIXELS", 64 * 48 * 20)
    assert len(Video(films("a.mp4")).frames(3)) == 3, "a keyframe is never 20 frames away"
    far = write_film(tmp_path / "far.mp4", gop=60)
    refused(lambda: Video(far, start=4).frames(1), far, "keyframe")
    monkeypatch.setattr(media, "MAX_PIXELS", 1000)  # the decoder refuses by itself
    refused(lambda: Video(films("a.mkv")).frames(1), films("a.mkv"), "FFmpeg reads")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 64 * 48 - 1)
    refused(lambda: Video(films("a.mkv")).frames(1), "64 x 48")


def test_windows_rates_and_counts_that_make_no_sense(films):
    path, frames = films("a.mp4"), np.zeros((10, 4, 4, 3), np.uint8)
    for window in ((-1, None), (6.2, None), (0, 6.5), (3, 2), (float("nan"), None)):
        start, end = window
        refused(frames_of(path, start=start, end=end), path, "inside its 6.000 s")
        refused(frames_of(frames, rate=10 / 6, start=start, end=end), "inside its 6.000 s")
    refused(frames_of(path, start=2, end=2), path, "a window that lasts")
    refused(frames_of(path, rate=10), path, "no rate")
    refused(frames_of(frames, start=1), "a rate, to find start and end")
    for rate in (0, -1, float("nan"), float("inf")):
        refused(frames_of(frames, rate=rate), "rate above 0")
    for count in (0, -1, 2.0, None):
        refused(lambda count=count: Video(frames).frames(count), "1 frame or more")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([], "no frame"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no frame"),
        (np.zeros((4, 4, 3), np.uint8), "(4, 4, 3)"),
        (np.full((4, 4, 4, 3), np.nan), "nan"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 2), np.uint8)], "frame 1: "),
        (PIL.Image.new("RGB", (4, 4)), "(4, 4, 3)"),
        (None, "object"),
    ],
)
def test_bad_sources_say_what_came(source, says):
    refused(lambda: Video(source).frames(4), says)
