"""Held-out plain English, on which the language model is compared before and after fine-tuning."""

from __future__ import annotations

from anymal_lib.sources.catalogue import CARDS

TEXT_FILE = CARDS / "plain-text" / "held_out.txt"


def plain_text() -> list[str]:
    """The paragraphs, about 130 words each, in the file's order."""
    return TEXT_FILE.read_text(encoding="utf-8").strip().split("\n\n")
