"""The page: what a person sees, button by button, without a browser."""

import io
import shutil
from dataclasses import replace

import ipywidgets as widgets
import PIL.Image
import pytest
import soundfile
from ipywidgets.embed import dependency_state
from rated import items

from anymal_lib.errors import ConfigError, InputError
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.instruct.examples import Item
from anymal_lib.manifest import load_manifest
from anymal_lib.modalities import open_row
from anymal_lib.rating import (
    KNOWN_FACTS,
    RatingPage,
    Session,
    Study,
    items_of_rows,
    load_results,
)
from anymal_lib.rating.views import view


def texts(box):
    """All text on a part of the page."""
    if isinstance(box, widgets.Box):
        return " | ".join(texts(child) for child in box.children)
    return str(box.value) if isinstance(box, widgets.HTML | widgets.Label) else ""


@pytest.fixture
def rows(card_of):
    """The held-out rows of all four modalities, by item."""
    tests = [row for card in card_of.values() for row in load_manifest(card).split("test")]
    return {Item(row.modality, row.id): row for row in tests}


@pytest.fixture
def page(rows, tmp_path):
    """Captions of three squares by two systems."""
    chosen = [row for row in rows.values() if row.modality == "image"][:3]
    answers = {
        "secret one": [f"first <b>text</b> {k}" for k in range(3)],
        "secret two": [f"second text {k}" for k in range(3)],
    }
    folder = Study.pairs(items_of_rows(chosen, "Say <what>.", answers)).save(tmp_path)
    return RatingPage(Session(folder, "Ana"), rows)


def test_shows_prompt_answers_and_progress_but_no_system(page):
    shown = texts(page)
    assert "Say &lt;what&gt;." in shown and "0 of 3 rated" in shown and "Ana" in shown
    assert "first &lt;b&gt;text" in shown and "second text" in shown
    assert "secret" not in shown
    turned = page.session.current.shown[0] == "secret two"
    assert (shown.index("first") > shown.index("second")) == turned


def test_clicks_are_saved_and_lead_on(page, tmp_path):
    page.answers["preference", "left"].click()
    page.answers["preference", "tie"].click()
    assert "2 of 3 rated" in texts(page) and page.session.position == 2
    (folder,) = tmp_path.iterdir()
    assert Session(folder, "Ana").done == 2


def test_the_preferred_side_is_credited_to_the_system_that_stood_there(page, rows, tmp_path):
    (folder,) = tmp_path.iterdir()
    clicked = set()
    for rater in ("Ana", "Ben", "Cem"):
        page = RatingPage(Session(folder, rater), rows)
        while page.session.current:
            side = "left" if page.session.responses[0].startswith("first") else "right"
            page.answers["preference", side].click()
            clicked.add(side)
    (found,) = load_results(folder).preferences()
    assert (found.system, found.win.value) == ("secret one", 1)
    assert clicked == {"left", "right"}


def test_back_next_and_undo(page):
    assert (page.back.disabled, page.undo.disabled, page.forward.disabled) == (True, True, False)
    page.answers["preference", "right"].click()
    page.back.click()
    styles = {value: b.button_style for (_, value), b in page.answers.items()}
    assert styles == {"left": "", "tie": "", "right": "info"}
    page.undo.click()
    assert page.session.done == 0 and page.answers["preference", "right"].button_style == ""
    for _ in range(3):
        page.forward.click()
    assert "3 are not rated yet" in texts(page)
    assert page.forward.disabled and all(button.disabled for button in page.answers.values())
    page.back.click()
    assert page.session.position == 2 and not page.forward.disabled


def test_nothing_can_be_clicked_before_the_next_item_is_in_view(page):
    buttons = [*page.answers.values(), page.back, page.undo, page.forward]
    media = page.children[1]
    seen = []
    media.observe(
        lambda _: seen.append((texts(page), [button.disabled for button in buttons])), "children"
    )
    page.answers["preference", "left"].click()
    ((shown, disabled),) = seen
    assert all(disabled) and "0 of 3 rated" in shown
    assert not page.undo.disabled and "1 of 3 rated" in texts(page)


def test_the_end_says_so(page):
    for _ in range(3):
        page.answers["preference", "tie"].click()
    assert "All are rated and saved" in texts(page) and "3 of 3 rated" in texts(page)


def test_the_rubric_asks_three_questions(rows, tmp_path):
    row = next(iter(rows.values()))
    folder = Study.rubric(items_of_rows([row], "What?", {"one": [""]})).save(tmp_path)
    page = RatingPage(Session(folder, "Ana"), rows)
    assert "(no answer)" in texts(page) and "object recognition" in texts(page)
    page.answers["object recognition", 1].click()
    page.answers["response accuracy", 0].click()
    assert page.session.done == 0
    page.answers["integrity", 2].click()
    assert page.session.done == 1


def test_a_click_that_cannot_be_saved_is_told(page, tmp_path):
    shutil.rmtree(next(tmp_path.iterdir()))
    page.answers["preference", "tie"].click()
    assert "not saved" in texts(page) and "0 of 3 rated" in texts(page)


def test_an_item_that_cannot_be_opened_is_told_and_the_rest_goes_on(tmp_path, rows):
    folder = Study.pairs(items(2)).save(tmp_path)
    known = Item("image", Session(folder, "Ana").item.media[0].id)
    broken = replace(next(iter(rows.values())), path=tmp_path / "gone.png")
    page = RatingPage(Session(folder, "Ana"), {known: broken})
    assert "gone.png" in texts(page)
    page.forward.click()
    assert "none of that id" in texts(page)
    page.answers["preference", "tie"].click()
    assert page.session.done == 1


def test_a_rule_has_no_page(tmp_path, rows):
    folder = Study.pairs(items(2)).save(tmp_path)
    with pytest.raises(ConfigError, match="person"):
        RatingPage(Session(folder, KNOWN_FACTS), rows)


def test_is_made_of_plain_widgets_only(page):
    modules = {
        state["model_module"] for state in dependency_state(page, drop_defaults=True).values()
    }
    assert modules == {"@jupyter-widgets/base", "@jupyter-widgets/controls"}


@pytest.mark.parametrize("modality", ["image", "imu", "audio", "video"])
def test_every_modality_is_shown(rows, modality):
    row = next(row for row in rows.values() if row.modality == modality)
    item = open_row(row)
    drawing, *player = view(item).children
    with PIL.Image.open(io.BytesIO(drawing.value)) as picture:
        assert picture.format == "PNG" and min(picture.size) > 150
        assert len(set(picture.convert("RGB").getdata())) > 10
    if isinstance(item, Image | Imu):
        assert player == []
    if isinstance(item, Audio):
        samples, rate = soundfile.read(io.BytesIO(player[0].value))
        sound = item.load()
        assert rate == sound.rate and len(samples) == len(sound.samples)
        assert abs(samples - sound.samples).max() < 1e-3
    if isinstance(item, Video):
        with PIL.Image.open(io.BytesIO(player[0].value)) as clip:
            assert clip.format == "WEBP" and clip.n_frames > 3


def test_a_clip_takes_as_long_as_the_film(rows):
    row = next(row for row in rows.values() if row.modality == "video")
    _, player = view(open_row(row)).children
    with PIL.Image.open(io.BytesIO(player.value)) as clip:
        milliseconds = 0
        for k in range(clip.n_frames):
            clip.seek(k)
            clip.load()
            milliseconds += clip.info["duration"]
    assert milliseconds == pytest.approx(1000 * Video(row.path).seconds, rel=0.05)


def test_a_damaged_picture_is_an_error_of_the_kit(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError):
        view(Image(tmp_path / "a.png"))
