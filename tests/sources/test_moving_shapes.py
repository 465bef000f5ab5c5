"""Moving shapes: the decoded film shows the figure that the caption names, going where it says."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anymal_lib.inputs import Video
from anymal_lib.sources import moving_shapes
from anymal_lib.sources.easy_vqa import VALUES

FILLED = {"circle": np.pi / 4, "rectangle": 1.0, "triangle": 0.5}  # of the box around it


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One clip of every combination in each split: rows and folder."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving_shapes, "CLIPS", {"train": 96, "test": 96})
        return moving_shapes.build(None, folder, 5), folder


def combination(row):
    return tuple(row["facts"][name] for name in ("colour", "shape", "direction"))


def test_every_combination_is_as_frequent_as_any_other(clips):
    rows, _ = clips
    for split in ("train", "test"):
        counts = Counter(combination(row) for row in rows if row["split"] == split)
        assert len(counts) == 8 * 3 * 4 and set(counts.values()) == {1}
    assert all(count % 96 == 0 for count in moving_shapes.CLIPS.values()), "of the whole set too"
    assert set(moving_shapes.COLOURS) == set(VALUES["colour"])


def test_captions_state_the_facts(clips):
    for row in clips[0]:
        assert len(set(row["text"])) == len(moving_shapes.PHRASES)
        for caption in row["text"]:
            words = caption.lower().replace(".", "").split()
            for name, values in (
                ("colour", moving_shapes.COLOURS),
                ("shape", VALUES["shape"]),
                ("direction", moving_shapes.DIRECTIONS),
            ):
                assert [v for v in values if v in words] == [row["facts"][name]], caption


def masks(path):
    """Where the figure is in each frame, (t, h, w), and the median of its colours."""
    frames = np.stack([np.asarray(frame) for frame in Video(path).frames(16)]).astype(int)
    ground = np.median(frames[:, :, [0, -1]].reshape(-1, 3), axis=0)
    figure = np.abs(frames - ground).max(-1) > 60
    return figure, np.median(frames[figure], axis=0), ground


def centres(figure):
    """(t, 2): x and y of the middle of the box around the figure, in pixels."""
    boxes = []
    for frame in figure:
        y, x = np.nonzero(frame)
        boxes.append(((x.min() + x.max()) / 2, (y.min() + y.max()) / 2))
    return np.array(boxes)


def test_the_film_shows_what_the_caption_says(clips):
    rows, folder = clips
    for row in (row for row in rows if row["split"] == "test"):
        facts = row["facts"]
        figure, colour, ground = masks(folder / row["video"])
        wanted = np.array(moving_shapes.COLOURS[facts["colour"]])
        assert np.abs(colour - wanted).max() < 30, (facts, colour)
        nearest = min(
            moving_shapes.COLOURS,
            key=lambda name: np.abs(colour - moving_shapes.COLOURS[name]).sum(),
        )
        assert nearest == facts["colour"]
        assert ground.min() > 200, "the ground is pale"
        steps = np.diff(centres(figure), axis=0)
        along = steps @ np.array(moving_shapes.DIRECTIONS[facts["direction"]])
        across = steps @ np.array(moving_shapes.DIRECTIONS[facts["direction"]])[::-1]
        assert along.sum() > 0.3 * (96 - 30) and (along > -1).all(), "it goes on and on"
        assert np.abs(across).max() <= 1.5, "and straight"


def test_the_figure_has_its_shape(clips):
    rows, folder = clips
    for row in (row for row in rows if row["split"] == "train" and "blue" in row["text"][0]):
        figure, _, _ = masks(folder / row["video"])
        shares = []
        for frame in figure:
            y, x = np.nonzero(frame)
            shares.append(frame.sum() / ((np.ptp(x) + 1) * (np.ptp(y) + 1)))
        assert np.median(shares) == pytest.approx(FILLED[row["facts"]["shape"]], abs=0.1)


def test_the_figure_stays_in_the_picture():
    facts = {"colour": "black", "shape": "rectangle"}
    for seed in range(40):
        direction = list(moving_shapes.DIRECTIONS)[seed % 4]
        frames = moving_shapes.draw_clip({**facts, "direction": direction}, random.Random(seed))
        areas = [(np.asarray(frame).max(-1) == 0).sum() for frame in frames]
        # At most a row or two of pixels is cut where a tall one moves along an edge.
        assert min(areas) > 0.75 * max(areas)


def test_films_are_h264_in_mp4_of_the_stated_size(clips):
    import av

    rows, folder = clips
    with av.open(str(folder / rows[0]["video"])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and "mp4" in container.format.name
        assert (stream.width, stream.height) == (96, 96)
        assert float(stream.average_rate) == 8
        assert sum(1 for _ in container.decode(stream)) == 16


def test_a_rebuild_gives_the_same_bytes(clips, tmp_path, monkeypatch):
    rows, folder = clips
    monkeypatch.setattr(moving_shapes, "CLIPS", {"train": 12, "test": 4})
    again = moving_shapes.build(None, tmp_path, 5)
    assert len(again) == 16
    known = {row["id"]: row for row in rows}
    for row in again:
        assert row == known[row["id"]]
        assert (tmp_path / row["video"]).read_bytes() == (folder / row["video"]).read_bytes()


def test_encoding_again_and_again_gives_the_same_bytes(tmp_path):
    """x264's assembly fails this about once in a hundred times, side by side or not."""
    drawn = [
        moving_shapes.draw_clip({"colour": "red", "shape": "circle", "direction": d}, draw)
        for d, draw in (("up", random.Random(0)), ("up", random.Random(6)))
    ]

    def encoded(k):
        moving_shapes.write_clip(tmp_path / f"{k}.mp4", drawn[k % 2])
        return (tmp_path / f"{k}.mp4").read_bytes()

    with ThreadPoolExecutor() as pool:
        assert len(set(pool.map(encoded, range(120)))) == 2


def test_no_two_clips_are_alike(clips):
    rows, folder = clips
    assert len({(folder / row["video"]).read_bytes() for row in rows}) == len(rows)
