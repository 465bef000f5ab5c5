"""Near-duplicates and leaks, against copies made on purpose and a plain search over all pairs."""

from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.doctor import duplicates, figures, tables
from anymal_lib.doctor.duplicates import (
    near_captions,
    near_pictures,
    near_vectors,
    normalised,
    signal_vectors,
)
from anymal_lib.doctor.examples import COPY_OF, example_pairs, example_portraits
from anymal_lib.errors import DataError
from anymal_lib.manifest import load_manifest
from anymal_lib.rows import Row


def row(name, split="train", text=("words",), path="nowhere"):
    return Row(id=name, split=split, modality="image", path=path, text=tuple(text))


def ids(report, leaks):
    return {(p.first.id, p.second.id) for p in report.pairs if p.leaks == leaks}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three photographs in training, and altered copies of two of them in the test split."""
    folder = tmp_path_factory.mktemp("photographs")
    rows = []
    for name, picture in example_portraits().items():
        picture.save(folder / f"{name}.png")
        rows.append(row(name, path=folder / f"{name}.png"))

    def add(name, picture, suffix=".png", **options):
        picture.save(folder / f"{name}{suffix}", **options)
        rows.append(row(name, "test", path=folder / f"{name}{suffix}"))

    one, none = (PIL.Image.open(rows[k].path) for k in (0, 2))
    add("recompressed", one, ".jpg", quality=40)
    add("smaller", none.resize((none.width // 2, none.height // 2)))
    add("brighter", PIL.ImageEnhance.Brightness(none).enhance(1.1))
    add("darker", PIL.ImageEnhance.Brightness(one).enhance(0.85))
    add("mirrored", one.transpose(PIL.Image.FLIP_LEFT_RIGHT))
    add("recoloured", PIL.Image.fromarray(np.asarray(one)[..., ::-1].copy()))
    return rows


def test_altered_copies_leak_and_other_pictures_do_not(photographs):
    report = near_pictures(photographs)
    leaking = {("one face", "recompressed"), ("no face", "smaller")}
    assert ids(report, True) == leaking | {("no face", "brighter"), ("one face", "darker")}
    assert ids(report, False) == {("smaller", "brighter"), ("recompressed", "darker")}
    assert report.items == 9
    assert report.leaks == 4
    assert report.pairs[0].leaks
    assert not report.pairs[-1].leaks


def test_an_identical_picture_is_at_distance_zero(photographs, tmp_path):
    PIL.Image.open(photographs[0].path).save(tmp_path / "again.bmp")
    report = near_pictures([photographs[0], row("again", path=tmp_path / "again.bmp")])
    assert [pair.distance for pair in report.pairs] == [0]


def test_rows_that_share_a_file_are_one_picture(photographs):
    twice = [photographs[0], replace(photographs[0], id="another caption")]
    report = near_pictures(twice)
    assert (report.items, report.pairs) == (1, ())
    across = near_pictures([photographs[0], replace(photographs[0], id="t", split="test")])
    assert ids(across, True) == {("one face", "t")}


def test_the_planted_copy_of_the_examples_is_the_only_leak(tmp_path):
    manifest = example_pairs(tmp_path)
    assert ids(near_pictures(manifest.rows), True) == {(f"pair-{COPY_OF}", "copy")}


def test_pictures_that_cannot_be_read_are_named(photographs, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    report = near_pictures([*photographs[:2], row("bad", path=tmp_path / "bad.png")])
    assert report.items == 2
    assert "bad.png" in report.bad["bad"]
    assert near_pictures([]).pairs == ()


def test_other_modalities_are_refused_by_name(imu_card):
    with pytest.raises(DataError, match="motion-0"):
        near_pictures(load_manifest(imu_card).rows)


@given(
    seed=st.integers(0, 10_000),
    splits=st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=25),
    cells=st.integers(1, 60),
)
@settings(max_examples=60)
def test_the_search_by_blocks_finds_what_a_plain_loop_finds(seed, splits, cells):
    vectors = np.random.default_rng(seed).normal(size=(len(splits), 3))
    rows = [row(f"r{k}", split) for k, split in enumerate(splits)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK_CELLS", cells)  # blocks of one or a few rows
        report = near_vectors(rows, vectors, max_distance=0.3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = sorted(range(len(rows)), key=lambda k: ["train", "val", "test"].index(splits[k]))
    expected = set()
    for place, k in enumerate(order):
        for same in (True, False):
            near = [
                (1 - unit[j] @ unit[k], j)
                for j in order[:place]
                if (splits[j] == splits[k]) == same and 1 - unit[j] @ unit[k] <= 0.3
            ]
            if near:
                expected.add((f"r{min(near)[1]}", f"r{k}"))
    assert {(p.first.id, p.second.id) for p in report.pairs} == expected
    assert [p.leaks for p in report.pairs] == sorted((p.leaks for p in report.pairs), reverse=True)


@pytest.mark.parametrize(
    "vectors",
    [np.ones((3, 4)), np.ones(2), np.zeros((2, 4)), np.array([[1.0, np.nan], [1, 1]])],
)
def test_vectors_that_do_not_fit_the_rows_are_refused(vectors):
    with pytest.raises(DataError, match="vectors"):
        near_vectors([row("a"), row("b")], vectors)


def test_a_resampled_recording_is_a_leak(imu_card, tmp_path):
    manifest = load_manifest(imu_card)
    copied = manifest.split("train")[0]
    header = copied.path.read_text().splitlines()[0]
    table = np.loadtxt(copied.path, delimiter=",", skiprows=1)
    seconds = np.arange(0, table[-1, 0], 1 / 100)
    faster = np.stack([np.interp(seconds, table[:, 0], channel) for channel in table.T], axis=1)
    path = tmp_path / "copy.csv"
    np.savetxt(path, faster, "%.5f", delimiter=",", header=header, comments="")
    leak = replace(copied, id="copy", split="test", path=path)
    broken = replace(copied, id="broken", path=tmp_path / "none.csv")
    rows, vectors, bad = signal_vectors([*manifest.rows, leak, broken])
    assert vectors.shape == (len(manifest.rows) + 1, 64 * 6)
    assert "none.csv" in bad["broken"]
    report = near_vectors(rows, vectors)
    leaks = [(pair.first.id, pair.second.id) for pair in report.pairs if pair.leaks]
    assert leaks[0] == (copied.id, "copy")  # the nearest of all, in spite of the other rate
    assert report.pairs[0].distance < 0.001
    assert report.items == len(rows)


@given(st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=40)
def test_signal_means_are_means(samples, seed):
    signal = np.random.default_rng(seed).normal(size=(samples, 6))
    means = duplicates._means(signal).reshape(64, 6)
    assert np.allclose(means.mean(axis=0), signal.mean(axis=0), atol=1e-9)
    assert np.allclose(duplicates._means(np.full((samples, 6), 3.0)), 3.0)
    if samples % 64 == 0:
        assert np.allclose(means, signal.reshape(64, -1, 6).mean(axis=1))


def test_captions_that_are_the_same_in_other_dress():
    rows = [
        row("a", text=["A red  circle.", "Another one"]),
        row("b", text=["a RED circle!"]),
        row("c", "val", text=["a red square"]),
        row("d", "test", text=["A réd circle", "a red square"]),
    ]
    report = near_captions(rows)
    assert ids(report, False) == {("a", "b")}
    assert ids(report, True) == {("a", "d"), ("c", "d")}
    assert report.items == 6


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text):
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f"  {text.upper()} !") == normalised(text.upper())


def test_tables_and_pictures_of_pairs(photographs):
    reports = {"pictures": near_pictures(photographs)}
    counts = tables.near_counts(reports).loc["pictures"]
    assert list(counts) == [9, 2, 4, 0]
    pairs = tables.near_pairs(reports, each=2)
    assert list(pairs["leak"]) == ["yes", "yes"]
    assert "(train)" in pairs["row"][0]
    figure = figures.near_pictures(reports["pictures"].pairs, count=3)
    assert len(figure.axes) == 6
    assert all("(test)" in axis.get_title() for axis in figure.axes[3:])
    assert list(tables.near_pairs({}).columns) == list(pairs.columns)
    assert figures.near_pictures([]).axes[0].texts[0].get_text() == "no pair found"
