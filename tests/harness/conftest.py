"""Questions about squares, as a data set of lmms-eval."""

import json

import pytest

from anymal_lib.harness import easy_vqa
from anymal_lib.manifest import load_manifest, write_manifest


@pytest.fixture(scope="session")
def questions(image_card, tmp_path_factory):
    """The manifest of squares with two questions about each."""
    folder, rows = image_card.parent, []
    lines = [line for name in ("train", "test") for line in (folder / f"{name}.jsonl").open()]
    for row in map(json.loads, lines):
        colour = row["facts"]["colour"]
        red = "yes" if colour == "red" else "no"
        for k, (question, answer) in enumerate(
            {"What colour is the square?": colour, "Is it red?": red}.items()
        ):
            own = {"id": f"{row['id']}-{k}", "question": question, "answers": [answer]}
            rows.append(row | own)
    own = tmp_path_factory.mktemp("questions")
    card = {"name": "asked-squares", "modality": "image", "media_folder": str(folder)}
    return load_manifest(write_manifest(own, card, rows))


@pytest.fixture(scope="session")
def asked_squares(questions, tmp_path_factory):
    """The file that easy_vqa.write makes of the test questions."""
    file = tmp_path_factory.mktemp("parquet") / "test.parquet"
    assert easy_vqa.write(questions, file) == 16
    return file
