"""Questions and answers out of what a language model writes, whatever form it gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# "Q:", "Question 1:", "Q1.", or "Question 1" alone on its line.
_LABELLED = re.compile(
    r"(?P<label>questions?|answers?|q|a)(?:\s*\d{1,3}\s*(?:[:：.)]|$)|\s*[:：])", re.IGNORECASE
)
# A label in the middle of a line begins a line of its own: "Q: What is it? A: a dog".
_INLINE = re.compile(
    r"[ \t]+(?:[-–—|/] *)?(?=(?:Question|Answer|QUESTION|ANSWER|Q|A)(?: ?\d{1,3})?[:：])"
)
_BULLET = re.compile(r"\s*(?:[-*•>#]\s+)?")
_NUMBER = re.compile(r"\(?\d{1,3}[.)]\s*")
_MARKUP = re.compile(r"\*\*|__|`")
_QUOTES = "\"'“”‘’ \t"


def parse(text: str) -> list[tuple[str, str]]:
    """The (question, answer) pairs of a text, in order; empty where there are none.

    Read are JSON objects with a question and an answer, at any depth and also where the text
    breaks off in the middle of a list of them; else lines labelled "Q:" and "A:" or "Question:"
    and "Answer:", numbered, bold or not; else a line up to its question mark, with the answer
    behind it or on the next line. A question without an answer is left out. Never raises.
    """
    return list(_from_json(text)) or list(_from_lines(text))


def _from_json(text: str) -> Iterator[tuple[str, str]]:
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            yield from _pairs_inside(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def _pairs_inside(value: Any) -> Iterator[tuple[str, str]]:
    todo = [value]  # a stack of our own: models can nest deeper than Python recurses
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo.extend(reversed(value))
        elif isinstance(value, dict):
            fields = {key.strip().lower(): field for key, field in value.items()}
            question = _plain(fields.get("question", fields.get("q")))
            answer = _plain(fields.get("answer", fields.get("a")))
            if question and answer:
                yield question, answer
            else:
                todo.extend(reversed(value.values()))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _bare(str(value)) if isinstance(value, str | int | float) else ""


def _bare(text: str) -> str:
    return " ".join(_MARKUP.sub("", text).split()).strip(_QUOTES)


def _from_lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines in order; `question` is the one that still waits for its answer, or ""."""
    question = ""
    for label, said in _lines(text):
        if label == "q":
            question = ""
        if not said:
            continue
        if label == "a" or (label == "" and question.endswith("?") and "?" not in said):
            if question:
                yield question, said
            question = ""
            continue
        if label == "" and question and not question.endswith("?"):
            said = f"{question} {said}"  # the question goes on over the line's end
        question = said if label == "q" or "?" in said else ""
        asked, mark, answer = said.partition("?")
        answer = _bare(answer).lstrip("-–—:=> ")
        if mark and answer and "?" not in answer:
            yield f"{asked}?", answer
            question = ""


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """("q", "a" or "", what the line says) without bullets, numbers, labels and quotes."""
    for line in _MARKUP.sub("", text).splitlines():
        line = line[_BULLET.match(line).end() :]
        number = _NUMBER.match(line)
        # Without a label or a question, a number may belong to an answer: "3. floor".
        if number and ("?" in line or _LABELLED.match(line, number.end())):
            line = line[number.end() :]
        for piece in _INLINE.split(line):
            yield _read_labels(piece)


def _read_labels(piece: str) -> tuple[str, str]:
    """The first label, and what follows the last: models also write "Q: Question: ..."."""
    label = ""
    while found := _LABELLED.match(piece):
        label = label or found["label"][0].lower()
        piece = piece[found.end() :].lstrip()
        if label == "q" and (number := _NUMBER.match(piece)):
            piece = piece[number.end() :]
    return label, _bare(piece)
