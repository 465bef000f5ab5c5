"""The demo's page: what a person sees, click by click, without a browser."""

import re
from datetime import UTC, datetime

import ipywidgets as widgets
import numpy as np
import PIL.Image
import pytest
from ipywidgets.embed import dependency_state

from anymal_lib.demo import DemoPage

CLASSES = (
    "upload",
    "sample-modality",
    "sample",
    "add",
    "question",
    "ask",
    "answer",
    "meter",
    "error",
    "status",
    "items",
)


@pytest.fixture
def page(session, samples):
    return DemoPage(session, samples)


def upload(page, *paths):
    """Drop files on the page, as a browser does."""
    page.upload.value = [
        {
            "name": path.name,
            "type": "",
            "size": path.stat().st_size,
            "content": memoryview(path.read_bytes()),
            "last_modified": datetime.now(UTC),
        }
        for path in paths
    ]


def media(card, pattern):
    """A file of a small data set."""
    return sorted(card.parent.glob(pattern))[0]


def all_widgets(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from all_widgets(child)


def card_texts(page):
    """The title of each item on the page."""
    return [card.children[0].value for card in page.shown.children]


def test_parts_are_found_by_their_classes_and_are_plain(page, card_of):
    upload(page, media(card_of["audio"], "*.wav"))
    classes = [name for widget in all_widgets(page) for name in widget._dom_classes]
    assert set(classes) >= {"anymal-demo", *(f"anymal-{name}" for name in CLASSES)}
    assert all(classes.count(f"anymal-{name}") == 1 for name in CLASSES)
    modules = {
        state["model_module"] for state in dependency_state(page, drop_defaults=True).values()
    }
    assert modules == {"@jupyter-widgets/base", "@jupyter-widgets/controls"}


def test_a_dropped_picture_is_shown_asked_about_and_weighed(page, card_of):
    upload(page, media(card_of["image"], "*.png"))
    assert page.error.value == "" and page.upload.value == ()
    assert "1 · picture 0.png" in card_texts(page)[0]
    preview = page.shown.children[0].children[1].children[0]
    assert isinstance(preview, widgets.Image) and preview.value.startswith(b"\x89PNG")
    page.question.value = "What is it?"
    seen = []
    page.answer.observe(lambda change: seen.append(change.new), "value")
    page.ask.click()
    streamed = [re.sub("<.*?>", "", text) for text in seen if text]
    assert len(streamed) > 1 and all(b.startswith(a) for a, b in zip(streamed, streamed[1:]))  # noqa: B905, RUF007
    assert page.meter.value.count("1 · picture 0.png") == 1
    assert "First word after" in page.status.value and page.error.value == ""
    assert not page.ask.disabled


def test_every_kind_of_file_finds_its_reader(page, card_of):
    patterns = {"image": "*.png", "imu": "*.csv", "audio": "*.wav", "video": "*.mp4"}
    upload(page, *(media(card_of[name], pattern) for name, pattern in patterns.items()))
    assert page.error.value == ""
    assert [item.modality for item in page.items] == list(patterns)
    kinds = [type(w) for w in all_widgets(page.shown)]
    assert kinds.count(widgets.Audio) == 1 and kinds.count(widgets.Image) == 5
    page.ask.click()
    assert page.meter.value.count("This answer would be") == 4


def test_content_decides_where_the_name_says_nothing(page, card_of, tmp_path):
    moving = [PIL.Image.new("RGB", (40, 40), (80 * k, 0, 0)) for k in range(3)]
    moving[0].save(tmp_path / "moving.gif", save_all=True, append_images=moving[1:])
    (tmp_path / "sound").write_bytes(media(card_of["audio"], "*.wav").read_bytes())
    (tmp_path / "film").write_bytes(media(card_of["video"], "*.mp4").read_bytes())
    (tmp_path / "picture").write_bytes(media(card_of["image"], "*.png").read_bytes())
    upload(page, *(tmp_path / name for name in ("moving.gif", "sound", "film", "picture")))
    assert page.error.value == ""
    assert [item.modality for item in page.items] == ["video", "audio", "video", "image"]


def test_motion_without_time_asks_for_its_rate(page, tmp_path):
    rows = np.random.default_rng(0).normal(0, 1, (200, 6))
    for name in ("motion.csv", "other.csv"):
        np.savetxt(tmp_path / name, rows, delimiter=",", header="ax,ay,az,gx,gy,gz", comments="")
    assert page.rate_row.layout.display == "none"
    upload(page, tmp_path / "motion.csv")
    assert page.rate_row.layout.display == "" and page.items == [] and page.error.value == ""
    assert "motion.csv" in page.rate_row.children[0].value
    page.rate.value = 100
    page.add_rated.click()
    (item,) = page.items
    assert (item.modality, item.raw.rate) == ("imu", 100) and len(item.raw.load().samples) == 200
    assert page.rate_row.layout.display == "none"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.png", "whole image"),
        ("a.wav", "sound file"),
        ("a.mp4", "film"),
        ("a.csv", "a.csv"),
        ("a", "none of their readers"),
    ],
)
def test_a_broken_file_is_told_in_plain_words(page, tmp_path, name, told):
    (tmp_path / name).write_bytes(b"\x00\x01 this is <b>nothing</b>")
    upload(page, tmp_path / name)
    assert page.items == [] and page.status.value == ""
    error = page.error.value
    assert told in error and name in error and "<b>nothing" not in error
    assert all(part in error for part in ("What:", "Expected:", "Came:", "To do:"))
    assert "anymal-demo-" not in error and "Traceback" not in error


def test_a_broken_file_does_not_keep_the_others_back(page, card_of, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    upload(page, tmp_path / "broken.png", media(card_of["image"], "*.png"))
    assert "broken.png" in page.error.value and len(page.items) == 1
    page.ask.click()
    assert page.error.value == "", "an error goes when something works"


def test_samples_are_picked_and_removed(page, samples):
    assert [name for name, _ in page.sample_modality.options] == [
        "picture",
        "motion",
        "sound",
        "clip",
    ]
    page.add.click()
    page.sample_modality.value = "imu"
    page.sample.value = samples["imu"][2]
    page.add.click()
    first, second = card_texts(page)
    assert "1 · picture sample 1" in first and samples["image"][0].row.text[0] in first
    assert "2 · motion sample 3" in second
    assert page.question.value == "Describe the picture."
    assert "Describe the motion." in page.question.options
    assert samples["imu"][2].questions[0][0] in page.question.options
    page.shown.children[0].children[-1].click()
    assert card_texts(page) == [second.replace("2 ·", "1 ·")]


def test_start_again_empties_the_page(page):
    page.add.click()
    page.ask.click()
    page.clear.click()
    assert page.items == [] and page.shown.children == ()
    assert page.question.value == page.answer.value == page.meter.value == ""


def test_nothing_asked_is_told(page):
    page.ask.click()
    assert "Write what you want to know" in page.error.value and page.answer.value == ""


def test_an_answer_without_items_says_that_nothing_was_sensed(page):
    page.question.value = "Who are you?"
    page.ask.click()
    assert page.answer.value and "language model" in page.meter.value


def test_what_nobody_foresaw_has_no_traceback(page, monkeypatch, caplog):
    monkeypatch.setattr(page.session.model, "score", lambda *args: 1 / 0)
    page.add.click()
    page.ask.click()
    assert "ZeroDivisionError" in page.error.value and "Traceback" not in page.error.value
    assert "Traceback" not in caplog.text and not page.ask.disabled


def test_a_blind_model_is_shown_to_be_blind(blind, samples):
    page = DemoPage(blind, {"image": samples["image"]})
    page.add.click()
    page.ask.click()
    assert "does not rest on this picture" in page.meter.value


def test_text_of_others_is_escaped(page, card_of, tmp_path):
    evil = tmp_path / "<img src=x>.png"
    evil.write_bytes(media(card_of["image"], "*.png").read_bytes())
    upload(page, evil)
    page.ask.click()
    assert "<img src" not in card_texts(page)[0] + page.meter.value
