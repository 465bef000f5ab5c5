"""The CAT filter of Radenovic et al. (arXiv 2301.02280, section 3.1); AnyMAL cleans LAION with it.

A pair stays when its caption is complex enough (C), contains an action (A), and is not text that
can be read in the picture (T). Tests run from cheap to dear; the first that fails is the reason.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anymal_lib.doctor.parse import Parse, parse_captions
from anymal_lib.doctor.pictures import require_images
from anymal_lib.doctor.spot import SpottedText, spot_text
from anymal_lib.errors import ConfigError, InputError
from anymal_lib.progress import track
from anymal_lib.rows import Row

REASONS = ("complexity", "action", "text", "unreadable")


@dataclass(frozen=True)
class CatOptions:
    """Thresholds. The defaults are the CAT paper's as we know them; its text was not at hand.

    Attributes:
        min_relations: relations that the caption's richest object must have, 0 or more.
        min_actions: actions that the caption must name, 0 or more.
        min_confidence: of a line of text in the picture, 0..1, for it to count.
        min_characters: letters and digits in a row, 1 or more, that such a line and the caption
            share for the caption to count as its transcript.
    """

    min_relations: int = 1
    min_actions: int = 1
    min_confidence: float = 0.8
    min_characters: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("min_relations", 0, float("inf")),
            ("min_actions", 0, float("inf")),
            ("min_confidence", 0, 1),
            ("min_characters", 1, float("inf")),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ConfigError(
                    f"CatOptions.{name}",
                    expected=f"a number from {low} to {high}",
                    got=repr(value),
                    do="Correct it, or leave it out for the default.",
                )


@dataclass(frozen=True)
class Verdict:
    """One pair of a row and one of its captions.

    Attributes:
        reason: one of `REASONS`, or None for a pair that stays.
        detail: what the reason rests on: the text that was read, or the error; else empty.
    """

    row: Row
    caption: str
    parse: Parse
    reason: str | None
    detail: str = ""


@dataclass(frozen=True)
class CatReport:
    """Verdicts in the order of the rows and their captions."""

    verdicts: tuple[Verdict, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Pairs before, pairs after, and pairs dropped for each reason."""
        reasons = Counter(verdict.reason for verdict in self.verdicts)
        return {
            "before": len(self.verdicts),
            **{reason: reasons[reason] for reason in REASONS},
            "after": reasons[None],
        }

    def kept_rows(self) -> list[Row]:
        """The rows with those of their captions that stay; rows without any are left out."""
        captions: dict[str, list[str]] = {}
        rows: dict[str, Row] = {}
        for verdict in self.verdicts:
            if verdict.reason is None:
                rows[verdict.row.id] = verdict.row
                captions.setdefault(verdict.row.id, []).append(verdict.caption)
        return [replace(row, text=tuple(captions[key])) for key, row in rows.items()]


def cat_filter(rows: Sequence[Row], options: CatOptions | None = None) -> CatReport:
    """Judge every caption of every row. English captions of pictures only.

    Pictures are read only where the caption passes the other tests. One that cannot be read
    is dropped as "unreadable", with the error as the detail.

    Raises:
        DataError: a row that has no picture.
        AssetError: the parser or the text networks cannot be fetched.
    """
    options = options or CatOptions()
    require_images(rows)
    pairs = [(row, caption) for row in rows for caption in row.text]
    parses = parse_captions(caption for _, caption in pairs)
    seen: dict[str, list[SpottedText] | InputError] = {}
    verdicts = []
    judged = zip(pairs, parses, strict=True)
    for (row, caption), parse in track(judged, "filter", total=len(pairs), unit="captions"):
        reason, detail = None, ""
        if parse.relations < options.min_relations:
            reason = "complexity"
        elif len(parse.actions) < options.min_actions:
            reason = "action"
        else:
            reason, detail = _by_picture(row, caption, options, seen)
        verdicts.append(Verdict(row, caption, parse, reason, detail))
    return CatReport(tuple(verdicts))


def _by_picture(
    row: Row, caption: str, options: CatOptions, seen: dict[str, list[SpottedText] | InputError]
) -> tuple[str | None, str]:
    """Reason and detail; `seen` keeps what was read, for a picture's other captions."""
    key = str(row.path)
    if key not in seen:
        try:
            seen[key] = spot_text(row.path)
        except InputError as error:
            seen[key] = error
    lines = seen[key]
    if isinstance(lines, InputError):
        return "unreadable", str(lines)
    for line in lines:
        sure = line.confidence >= options.min_confidence
        if sure and shares_run(line.text, caption, options.min_characters):
            return "text", line.text
    return None, ""


def shares_run(text: str, caption: str, length: int) -> bool:
    """Whether `length` letters and digits in a row of `text` also stand in `caption`.

    Case, accents, blanks and punctuation do not count: recognisers lose them.
    """
    text, caption = _bare(text), _bare(caption)
    starts = range(len(text) - length + 1)
    return any(text[start : start + length] in caption for start in starts)


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())
