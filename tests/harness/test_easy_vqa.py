"""The local data set and its tasks, without lmms-eval."""

import hashlib
import io
import json

import PIL.Image
import pyarrow.parquet as pq
import pytest
import yaml

from anymal_lib.errors import ManifestError
from anymal_lib.harness import easy_vqa
from anymal_lib.manifest import load_manifest
from anymal_lib.runs import ROOT
from anymal_lib.sources import profile_manifest
from anymal_lib.sources.easy_vqa import VALUES

TASKS = ROOT / "anymal_lib" / "harness" / "tasks" / "easy_vqa"
PAGE = (ROOT / "docs" / "harness.md").read_text()


def test_the_file_holds_the_test_questions_with_their_pictures(asked_squares, questions):
    rows = pq.read_table(asked_squares).to_pylist()
    expected = questions.split("test")
    assert [(r["question"], r["answer"]) for r in rows] == [
        (row.question, row.answers[0]) for row in expected
    ]
    assert {row["kind"] for row in rows} == {"colour", "yes/no"}
    assert len({row["id"] for row in rows}) == 16
    for row, own in zip(rows, expected, strict=True):
        assert PIL.Image.open(io.BytesIO(row["image"]["bytes"])).size == (48, 48)
        assert row["image"]["bytes"] == own.path.read_bytes()


def test_the_same_questions_give_the_same_bytes(asked_squares, questions, tmp_path):
    easy_vqa.write(questions, tmp_path / "new" / "a.parquet")
    digest = [hashlib.sha256(f.read_bytes()) for f in (asked_squares, tmp_path / "new/a.parquet")]
    assert digest[0].digest() == digest[1].digest()
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.parquet"]


def test_its_schema_tells_datasets_that_there_are_pictures(asked_squares):
    metadata = pq.read_schema(asked_squares).metadata[b"huggingface"]
    features = json.loads(metadata)["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(pq.read_schema(asked_squares).names)


def test_captions_are_no_questions(image_card, tmp_path):
    with pytest.raises(ManifestError, match="questions in the test split"):
        easy_vqa.write(load_manifest(image_card), tmp_path / "a.parquet")


def test_the_tasks_read_what_is_written():
    task = yaml.safe_load((TASKS / "easy_vqa.yaml").read_text())
    assert ROOT / task["dataset_kwargs"]["data_files"]["test"] == easy_vqa.FILE
    columns = {task["doc_to_visual"], task["doc_to_text"], task["doc_to_target"]}
    assert columns <= set(easy_vqa._SCHEMA.names)


def test_the_choices_are_all_answers():
    choices = yaml.safe_load((TASKS / "easy_vqa_choices.yaml").read_text())["doc_to_choice"]
    asked = profile_manifest(easy_vqa.SOURCE).split("test")
    assert set(choices) == {row.answers[0] for row in asked} == {
        "yes", "no", *VALUES["colour"], *VALUES["shape"]
    }  # fmt: skip
    assert len(choices) == len(set(choices))


def test_the_page_names_what_there_is():
    assert "python -m anymal_lib.harness.easy_vqa" in PAGE
    assert f"--include_path {TASKS.parent.relative_to(ROOT)}" in PAGE
    for file in TASKS.glob("*.yaml"):
        assert f"`{file.stem}`" in PAGE
