"""The rating page of notebook 07, clicked through in a browser."""

import pytest
from few_steps import write_notebook
from lab_page import errors

from anymal_lib.manifest import load_manifest
from anymal_lib.rating import Session, Study, items_of_rows

pytestmark = pytest.mark.browser
MODALITIES = ("audio", "image", "imu", "video")
OPENS = """
from anymal_lib import rating
from anymal_lib.instruct.examples import Item
from anymal_lib.manifest import load_manifest

rows = [load_manifest(card).split("test")[0] for card in {cards!r}]
by_item = {{Item(row.modality, row.id): row for row in rows}}
rating.RatingPage(rating.Session({folder!r}, "Ana"), by_item)
"""


@pytest.fixture
def rows(card_of):
    """One held-out item of every modality."""
    return [load_manifest(card_of[modality]).split("test")[0] for modality in MODALITIES]


@pytest.fixture
def opened(lab, project, card_of):
    """Function: the page on the study of a folder, in a notebook of one cell."""

    def open_page(folder):
        cards = [str(card_of[modality]) for modality in MODALITIES]
        source = OPENS.format(cards=cards, folder=str(folder))
        write_notebook(project / "rating.ipynb", source.strip())
        lab.open("rating.ipynb")
        assert errors(lab.run_all()) == []

    return open_page


def test_clicks_are_rated_saved_and_taken_back(opened, page, rows, tmp_path, screenshot):
    answers = {"one": [f"first {r.id}" for r in rows], "two": [f"second {r.id}" for r in rows]}
    folder = Study.pairs(items_of_rows(rows, "Describe it.", answers)).save(tmp_path)
    opened(folder)
    seen = page.locator(".jp-OutputArea-output")
    said = []
    for k, choice in enumerate(("Left is better", "Equally good", "Right is better")):
        page.get_by_text(f"{k} of 4 rated; this is number {k + 1}, for Ana").wait_for()
        screenshot(f"item-{k}")
        shown = seen.inner_text()
        said.append((shown.index("first") < shown.index("second"), choice))
        page.get_by_role("button", name=choice).click()
    page.get_by_text("3 of 4 rated; this is number 4").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("2 of 4 rated; this is number 3").wait_for()
    page.get_by_role("button", name="Left is better").click()
    page.get_by_text("3 of 4 rated; this is number 4").wait_for()
    screenshot("item-3")
    page.get_by_role("button", name="Equally good").click()
    page.get_by_text("All are rated and saved. Thank you.").wait_for()
    screenshot("end")
    rated = Session(folder, "Ana")
    assert rated.done == 4
    told = []
    for _ in range(4):
        rated.back()
        told.insert(0, (rated.responses[0].startswith("first"), rated.said["preference"]))
    values = {"Left is better": "left", "Equally good": "tie", "Right is better": "right"}
    said[2] = (said[2][0], "Left is better")  # taken back
    assert told[:3] == [(turned, values[choice]) for turned, choice in said]
    assert told[3][1] == "tie"


def test_the_rubric_asks_three_questions(opened, page, rows, tmp_path, screenshot):
    folder = Study.rubric(items_of_rows(rows, "Describe it.", {"one": ["a red box"] * 4})).save(
        tmp_path
    )
    opened(folder)
    page.get_by_text("0 of 4 rated").wait_for()
    for label in ("2: right", "1: a part of it", "2: whole and inoffensive"):
        assert Session(folder, "Ana").done == 0
        page.get_by_role("button", name=label).click()
    page.get_by_text("1 of 4 rated").wait_for()
    screenshot("second")
    rated = Session(folder, "Ana")
    rated.back()
    points = {"response accuracy": 2, "object recognition": 1, "integrity": 2}
    assert (rated.done, rated.said) == (1, points)


def test_pictures_and_players_are_there(opened, page, rows, tmp_path):
    answers = {"one": ["a"] * 4, "two": ["b"] * 4}
    opened(Study.pairs(items_of_rows(rows, "Describe it.", answers)).save(tmp_path))
    pictures, clips, seconds = [], [], []
    for k in range(4):
        page.get_by_text(f"this is number {k + 1}").wait_for()
        page.wait_for_function(DRAWN)
        widths = page.evaluate(WIDTHS)
        pictures, clips = [*pictures, widths[0]], [*clips, *widths[1:]]
        seconds += page.evaluate(SECONDS)
        page.get_by_role("button", name="Next").click()
    assert len(pictures) == 4 and all(150 < width < 1000 for width in pictures)
    assert clips == [320], "neither its own few pixels nor the page's width"
    assert len(seconds) == 1 and seconds[0] > 0.5


DRAWN = """() => {
    const images = [...document.querySelectorAll('.jp-OutputArea-output img')];
    const sounds = [...document.querySelectorAll('.jp-OutputArea-output audio')];
    return images.length > 0 && images.every(image => image.complete && image.naturalWidth > 0)
        && sounds.every(sound => sound.readyState > 0);
}"""
WIDTHS = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(
    image => Math.round(image.getBoundingClientRect().width))"""
SECONDS = """() => [...document.querySelectorAll('.jp-OutputArea-output audio')].map(
    sound => sound.duration)"""
