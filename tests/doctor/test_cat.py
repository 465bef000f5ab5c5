"""The CAT filter: the parse, the text in pictures, the verdicts."""

from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.doctor import figures, tables
from anymal_lib.doctor.cat import REASONS, CatOptions, cat_filter, shares_run
from anymal_lib.doctor.examples import PAIRS, example_pairs
from anymal_lib.doctor.parse import parse_captions
from anymal_lib.doctor.spot import spot_text
from anymal_lib.errors import ConfigError, DataError, InputError
from anymal_lib.manifest import load_manifest


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return example_pairs(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def report(examples):
    return cat_filter(examples.rows)


def board(*lines, size=30, width=520, ink="white"):
    picture = PIL.Image.new("RGB", (width, 60 * len(lines) + 40), (60, 90, 120))
    draw = PIL.ImageDraw.Draw(picture)
    for k, line in enumerate(lines):
        draw.text((24, 20 + 60 * k), line, ink, PIL.ImageFont.load_default(size))
    return picture


@pytest.mark.parametrize(
    ("caption", "relations", "actions"),
    [
        ("A black cat is chasing a small brown bird", 3, ("chase",)),  # the paper's own example
        ("a red circle", 1, ()),
        ("a dog", 0, ()),
        ("", 0, ()),
        ("The picture shows a red circle.", 2, ()),  # says what is there, nobody acts
        ("A painted wall", 1, ()),
        ("Cats and dogs are sleeping", 1, ("sleep",)),
        ("TWO CHILDREN ARE PLAYING FOOTBALL", 2, ("play",)),
        ("sunset over the mountains", 1, ()),
    ],
)
def test_relations_and_actions(caption, relations, actions):
    (parse,) = parse_captions([caption])
    assert (parse.relations, parse.actions) == (relations, actions)


def test_parses_do_not_depend_on_their_neighbours():
    captions = ["a man repairs a boat", "a red circle", "a man repairs a boat"]
    assert parse_captions(captions) == [parse_captions([caption])[0] for caption in captions]
    assert parse_captions([]) == []


def test_text_is_read_where_it_stands():
    lines = spot_text(board("Fresh bread daily", "Open from 7 to 18"))
    assert [line.text.replace(" ", "") for line in lines] == ["Freshbreaddaily", "Openfrom7to18"]
    assert all(line.confidence > 0.9 for line in lines)
    for line, top in zip(lines, (20, 80), strict=True):
        ys = [y for _, y in line.corners]
        assert top - 10 < min(ys) < top + 15
        assert max(ys) < top + 55


def test_text_that_is_tilted_small_or_large_is_read():
    sign = board("Harbour closed today")
    tilted = sign.rotate(15, expand=True, fillcolor=(60, 90, 120), resample=PIL.Image.BICUBIC)
    small = sign.resize((sign.width // 2, sign.height // 2), PIL.Image.LANCZOS)
    large = sign.resize((sign.width * 3, sign.height * 3), PIL.Image.LANCZOS)
    for picture in (tilted, small, large):
        found = "".join(line.text for line in spot_text(picture)).replace(" ", "").lower()
        assert "harbourclosedtoday" in found


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (64, 64), (1300, 700)])
def test_a_picture_without_text_has_none(size):
    assert spot_text(PIL.Image.new("RGB", size, (200, 180, 160))) == []


def test_every_reason_occurs_in_the_examples(report):
    by_caption = {verdict.caption: verdict.reason for verdict in report.verdicts}
    assert by_caption["Wallpapers"] == "complexity"
    assert by_caption["Sunset over the mountains"] == "action"
    assert by_caption["Keep calm and carry on baking bread"] == "text"
    # Text that the caption does not repeat, or too short a piece of it, is part of the picture.
    assert by_caption["A woman in a yellow coat crosses the street beside a stop sign"] is None
    assert by_caption["A man with the number 27 is running through the city"] is None
    assert report.counts == {
        "before": len(PAIRS) + 1,
        "complexity": 2,
        "action": 3,
        "text": 2,
        "unreadable": 0,
        "after": len(PAIRS) + 1 - 7,
    }


def test_without_text_in_the_picture_the_same_caption_stays(examples, report):
    dropped = next(v for v in report.verdicts if v.reason == "text")
    elsewhere = replace(dropped.row, path=examples.rows[0].path)
    assert cat_filter([elsewhere]).counts["after"] == 1


def test_thresholds_are_options(examples):
    assert cat_filter(examples.rows, CatOptions(0, 0, 1.0)).counts["after"] == len(examples.rows)
    strict = cat_filter(examples.rows, CatOptions(min_relations=3)).counts
    assert strict["complexity"] > 2
    short = cat_filter(examples.rows, CatOptions(min_characters=4)).counts
    assert short["text"] == 3  # now STOP counts


@pytest.mark.parametrize(
    "values",
    [
        {"min_relations": -1},
        {"min_actions": -2},
        {"min_confidence": 1.5},
        {"min_confidence": float("nan")},
        {"min_characters": 0},
    ],
)
def test_thresholds_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        CatOptions(**values)


def test_kept_rows_keep_only_captions_that_stay(examples):
    row = replace(examples.rows[0], text=("Wallpapers", *examples.rows[0].text))
    (kept,) = cat_filter([row, examples.rows[9]]).kept_rows()
    assert kept == examples.rows[0]


def test_pictures_that_cannot_be_read_are_counted_and_named(examples, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    report = cat_filter([replace(examples.rows[0], path=broken), examples.rows[1]])
    assert report.counts["unreadable"] == 1
    assert report.counts["after"] == 1
    assert "broken.png" in report.verdicts[0].detail


def test_other_inputs_are_refused_by_name(examples, imu_card):
    with pytest.raises(DataError, match="motion-0"):
        cat_filter(load_manifest(imu_card).rows)
    with pytest.raises(InputError):
        spot_text(np.zeros((5, 5, 7)))
    assert cat_filter([]).counts["before"] == 0


@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 8))
def test_a_shared_run_is_the_definition(text, caption, length):
    found = shares_run(text, caption, length)
    assert found == shares_run(text.upper().lower(), caption, length) or not text.isascii()
    if found:
        assert shares_run(text, caption, 1)
        assert shares_run(caption, text, length)


@given(st.text("abcde ", max_size=20), st.text("abcde ", max_size=20))
@settings(max_examples=200)
def test_a_shared_run_in_full(text, caption):
    bare, other = text.replace(" ", ""), caption.replace(" ", "")
    longest = max(
        (
            b - a
            for a in range(len(bare))
            for b in range(a + 1, len(bare) + 1)
            if bare[a:b] in other
        ),
        default=0,
    )
    for length in range(1, 6):
        assert shares_run(text, caption, length) == (longest >= length)


def test_tables_and_pictures_tell_the_counts(report):
    table = tables.cat_counts({"examples": report})
    assert table.loc["examples", "before"] == len(PAIRS) + 1
    assert table.loc["examples", "kept"] == "46%"
    verdicts = tables.cat_verdicts(report, each=1)
    assert list(verdicts["verdict"]) == [
        "kept",
        *(f"dropped: {reason}" for reason in REASONS if report.counts[reason]),
    ]
    titles = [axis.get_title() for axis in figures.cat_pictures(report).axes]
    assert sum("kept" in title for title in titles) == report.counts["after"]
    flow = figures.cat_flow({"examples": report}).axes[0]
    widths = [bar.get_width() for bar in flow.patches]
    assert sum(widths) == pytest.approx(1)
    assert widths[0] == pytest.approx(report.counts["after"] / report.counts["before"])
