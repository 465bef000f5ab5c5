"""Questions about pictures with ten people's answers: VQAv2, OKVQA, TextVQA and VizWiz.

Schemas, told apart by what the JSON is:

- VQAv2, OKVQA: ``*_questions.json`` with ``{"data_subtype": "val2014", "questions":
  [{"question_id", "image_id", "question"}]}``, and ``*_annotations.json`` with ``{"annotations":
  [{"question_id", "answers": [{"answer"}, ...]}]}``; pictures are COCO's.
- TextVQA: ``TextVQA_*.json`` with ``{"data": [{"question_id", "image_id", "question", "set_name",
  "answers": [text, ...]}]}``; pictures are named by ``image_id``.
- VizWiz: ``train.json``, ``val.json``, ``test.json``, a list of ``{"image", "question", "answers":
  [{"answer"}, ...], "answerable"}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anymal_lib.sources.reading import Item, Lost, SourceFolder, read_json

_PATTERNS = ("*_questions.json", "TextVQA_*.json", "train.json", "val.json", "test.json")


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """One row per question with all its answers; official split.

    Questions without published answers (the test sets, whose answers a server holds) are lost.
    """
    answered = _published(source)
    for file in source.annotations(*_PATTERNS):
        content = read_json(file)
        if isinstance(content, list):
            yield from _vizwiz(source, content, file.stem)
        elif "data" in content:
            yield from _textvqa(source, content["data"])
        else:
            yield from _coco(source, content, answered)


def _row(source: SourceFolder, fields: dict[str, Any], *pictures: str) -> Item:
    """The row of a question, or what it lacks; ``fields`` has id, split, question, answers."""
    if not any(answer.strip() for answer in fields["answers"]):
        return Lost(fields["id"], "no published answer")
    found = source.media(*pictures)
    if isinstance(found, Lost):
        return Lost(fields["id"], found.reason)
    return {**fields, "image": found}


def _published(source: SourceFolder) -> dict[int, list[str]]:
    """Question id -> answers, of every file of annotations in the folder."""
    files = sorted(source.path.rglob("*_annotations.json"))
    return {
        entry["question_id"]: [str(answer["answer"]) for answer in entry["answers"]]
        for file in (source.annotations("*_annotations.json") if files else ())
        for entry in read_json(file)["annotations"]
    }


def _coco(
    source: SourceFolder, content: dict[str, Any], answered: dict[int, list[str]]
) -> Iterator[Item]:
    part = content["data_subtype"]
    split = next((s for s in ("train", "val") if part.startswith(s)), "test")
    year = "test2015" if split == "test" else part
    for asked in content["questions"]:
        fields = {
            "id": str(asked["question_id"]),
            "split": split,
            "question": asked["question"],
            "answers": answered.get(asked["question_id"], []),
        }
        number = f"{asked['image_id']:012d}"
        yield _row(source, fields, f"COCO_{year}_{number}", number)


def _textvqa(source: SourceFolder, entries: list[dict[str, Any]]) -> Iterator[Item]:
    for asked in entries:
        fields = {
            "id": str(asked["question_id"]),
            "split": asked["set_name"],
            "question": asked["question"],
            "answers": asked.get("answers", []),
        }
        yield _row(source, fields, asked["image_id"])


def _vizwiz(source: SourceFolder, entries: list[dict[str, Any]], split: str) -> Iterator[Item]:
    for asked in entries:
        fields = {
            "id": asked["image"],
            "split": split,
            "question": asked["question"],
            "answers": [answer["answer"] for answer in asked.get("answers", [])],
        }
        yield _row(source, fields, Path(asked["image"]).stem)
