"""What the captions of a set are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from anymal_lib.doctor.duplicates import normalised
from anymal_lib.doctor.parse import parse_captions
from anymal_lib.rows import Row

# Words that say how others hang together; a list of the most common words without them is telling.
_FUNCTION_WORDS = frozenset({
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "from", "with", "by", "for", "as",
    "is", "are", "was", "were", "be", "it", "its", "this", "that", "there", "into", "over", "under",
    "his", "her", "their",
})  # fmt: skip


@dataclass(frozen=True)
class CaptionStatistics:
    """Facts about the captions of some rows; words are without case and punctuation.

    Attributes:
        rows: how many rows, each with one or several captions.
        lengths: number of words -> captions of that length, ascending.
        distinct_captions, distinct_words: how many different ones.
        words: content word -> occurrences, most frequent first.
        actions: verb that is an action -> occurrences, most frequent first.
        relations: relations of the richest object (see `parse`) -> captions, ascending.
    """

    rows: int
    lengths: dict[int, int]
    distinct_captions: int
    distinct_words: int
    words: dict[str, int]
    actions: dict[str, int]
    relations: dict[int, int]

    @property
    def captions(self) -> int:
        """Captions, repeats included."""
        return sum(self.lengths.values())

    @property
    def repeated_share(self) -> float:
        """Share of the captions that are a repeat of an earlier one, 0..1."""
        return 1 - self.distinct_captions / self.captions if self.captions else 0.0

    @property
    def mean_length(self) -> float:
        """Words a caption; 0 without captions."""
        words = sum(length * captions for length, captions in self.lengths.items())
        return words / self.captions if self.captions else 0.0

    def numbers(self) -> dict[str, float]:
        """The plain numbers, for metrics.json."""
        names = ("rows", "captions", "distinct_captions", "distinct_words")
        names += ("repeated_share", "mean_length")
        return {name: getattr(self, name) for name in names}


def caption_statistics(rows: Sequence[Row]) -> CaptionStatistics:
    """Count what the captions of `rows` are made of, English ones.

    Raises:
        AssetError: the parser cannot be fetched.
    """
    captions = [caption for row in rows for caption in row.text]
    worded = [normalised(caption) for caption in captions]
    parses = parse_captions(captions)
    words = Counter(word for caption in worded for word in caption.split())
    return CaptionStatistics(
        rows=len(rows),
        lengths=_ascending(Counter(len(caption.split()) for caption in worded)),
        distinct_captions=len(set(worded)),
        distinct_words=len(words),
        words={word: n for word, n in words.most_common() if word not in _FUNCTION_WORDS},
        actions=dict(Counter(a for parse in parses for a in parse.actions).most_common()),
        relations=_ascending(Counter(parse.relations for parse in parses)),
    )


def _ascending(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items()))
