"""Questions about squares, as a data set of lmms-eval."""

import json

import pytest

from anymal_lib.harness import easy_vqa
from anymal_lib.manifest import load_manifest, write_manifest


@pytest.fixture(scope="session")
def questions(image_card, tmp_path_factory):
    """The manifest of squares with two questions about each."""
    folder, rows = image_card.parent, []
    for line in (folder / "train.jsonl").read_text().splitlines() + (
        folder / "test.jsonl"
    ).read_text().splitlines():
        row = json.loads(line)
        asked = {"What colour is the square?": row["facts"]["colour"], "Is it red?": "no"}
        for k, (question, answer) in enumerate(asked.items()):
            own = {"id": f"{row['id']}-{k}", "question": question, "answers": [answer]}
            rows.append(row | own | {"image": str((folder / row["image"]).name)})
    own = tmp_path_factory.mktemp("questions")
    card = {"name": "asked-squares", "modality": "image", "media_folder": str(folder)}
    return load_manifest(write_manifest(own, card, rows))


@pytest.fixture(scope="session")
def asked_squares(questions, tmp_path_factory):
    """The file that easy_vqa.write makes of the test questions."""
    file = tmp_path_factory.mktemp("parquet") / "test.parquet"
    assert easy_vqa.write(questions, file) == 16
    return file
