"""Synthetic questions and answers: a language model writes them from what is known of an item.

As in the paper's MM-IT: the writer reads captions, objects and boxes, never the item itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymal_lib.errors import ConfigError, DataError, InputError
from anymal_lib.instruct.examples import Example, Item, ask
from anymal_lib.instruct.parse import parse
from anymal_lib.instruct.verdicts import DUPLICATE, fact_asked, read_words, reason_against
from anymal_lib.instruct.writers import Writer
from anymal_lib.rows import Row
from anymal_lib.seeds import generator_for

PROMPT_VERSION = 1  # raise it with every change of PROMPT or of `describe`
# No example pair: small models copy it instead of writing their own.
PROMPT = """\
{description}

Write {count} different questions about {thing}, each with a short answer of one to four words. \
Only somebody who is {sensing} can answer them. Do not tell the answer in its question. \
Write "Q:" before each question and "A:" before each answer."""

_THINGS = {
    "image": ("the picture", "looking at the picture"),
    "imu": ("the motion", "wearing the motion sensor"),
    "audio": ("the sound", "listening to the sound"),
    "video": ("the video clip", "watching the video clip"),
}
_MOST_LINES, _MOST_CHARACTERS = 20, 600  # of captions, objects and boxes each; of one of them
_SETTINGS = ("prompt_version", "seed", "writer", "settings")  # the same in all lines of a file
_HEAD = b'{"prompt_version": '  # how every line of a file of texts begins


@dataclass(frozen=True)
class Pair:
    """A pair that a writer wrote; `reason` is why it was dropped, None where it was kept."""

    item: Item
    question: str
    answer: str
    kind: str
    reason: str | None


@dataclass(frozen=True)
class Yield:
    """What came of asking a writer.

    Attributes:
        writer: the model's name.
        asked: how many items it was asked about.
        without_pair: items and the texts in which no pair was found.
        pairs: all pairs that were found, kept or not, in the order of the items.
    """

    writer: str
    asked: int
    without_pair: tuple[tuple[Item, str], ...]
    pairs: tuple[Pair, ...]

    @property
    def kept(self) -> int:
        """How many pairs are fit to train on."""
        return sum(pair.reason is None for pair in self.pairs)

    @property
    def dropped(self) -> Counter[str]:
        """How many pairs were dropped, by reason."""
        return Counter(pair.reason for pair in self.pairs if pair.reason is not None)

    @property
    def examples(self) -> list[Example]:
        """The kept pairs as examples of source "synthetic"."""
        return [
            ask(pair.question, pair.item, answer=pair.answer, kind=pair.kind, source="synthetic")
            for pair in self.pairs
            if pair.reason is None
        ]


def describe(row: Row) -> str:
    """What a writer is told of an item: captions, objects and boxes, a line each.

    Of each at most 20, cut to 600 characters, so that a prompt fits the writer. Empty where the
    row has none of them.
    """
    parts = {"Captions": row.text, "Objects": row.objects, "Boxes": row.boxes}
    return "\n".join(
        f"{title}:\n" + "\n".join(f"- {_told(value)}" for value in values[:_MOST_LINES])
        for title, values in parts.items()
        if values
    )


def _told(value: Any) -> str:
    text = _plain(value).encode("utf-8", "replace").decode().replace("\0", " ")
    return " ".join(text.split())[:_MOST_CHARACTERS]


def _plain(value: Any) -> str:
    """A value of JSON as words: `cat, x 3, y 4` for a mapping, `(1, 2)` for a list."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(field)}" for key, field in value.items())
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plain, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def prompt_for(row: Row, per_item: int) -> str:
    """`PROMPT` filled for one item.

    Raises:
        InputError: the row has nothing to tell.
    """
    description = describe(row)
    if not description:
        raise InputError(
            f"row '{row.id}'",
            expected="captions, objects or boxes to write questions from",
            got="none of them",
            do="Leave rows without them out.",
        )
    thing, sensing = _THINGS.get(
        row.modality, (f"the {row.modality}", f"sensing the {row.modality}")
    )
    return PROMPT.format(thing=thing, sensing=sensing, description=description, count=per_item)


def synthesize(
    rows: Iterable[Row],
    writer: Writer,
    *,
    seed: int,
    file: Path,
    per_item: int = 3,
    fact_values: Mapping[str, Sequence[str]] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Yield:
    """Have questions and answers written about items, and keep the ones fit to train on.

    Every text is appended to `file` as one JSON line; a run that was killed goes on there. Items
    are asked in fixed batches, and the seed of a batch depends on `seed` and its first item, so a
    resumed run ends with the bytes of a whole one; where a kill cut a batch, it is asked again and
    only what is missing is added. Items in `file` that are not in `rows` stay there unused.

    Args:
        rows: items with captions, objects or boxes, of any modalities.
        per_item: pairs asked for an item; the writer may write fewer or more.
        fact_values: all values of each fact, as `Manifest.fact_values` has them; those of `rows`
            where it is None.
        on_progress: called with items done and items in all.

    Raises:
        ConfigError: `per_item` below 1.
        InputError: a row without anything to tell, before any is asked.
        DataError: `file` holds something else, or texts of another prompt, seed, writer or
            settings. It is never overwritten: texts can be dear.
    """
    if per_item < 1:
        do = "Leave it out for the default."
        raise ConfigError("per_item", expected="at least 1", got=str(per_item), do=do)
    rows = list({(row.modality, row.id): row for row in rows}.values())
    heads = {Item(row.modality, row.id): _head(row, writer, seed, per_item) for row in rows}
    records = _resume(file, heads)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as lines:
        on_progress(len(records), len(heads))
        for batch in _batches(list(heads), writer.batch):
            missing = [item for item in batch if item not in records]
            if not missing:
                continue
            purpose = f"write {batch[0].modality} {batch[0].id}"
            batch_seed = generator_for(seed, purpose, 0).initial_seed() % 2**31
            texts = writer.write([heads[item]["prompt"] for item in batch], batch_seed)
            for item, text in zip(batch, texts, strict=True):
                if item in missing:
                    records[item] = heads[item] | {"text": text, "pairs": parse(text)}
                    lines.write(json.dumps(records[item]).encode() + b"\n")
            lines.flush()
            on_progress(len(records), len(heads))
    return _judge(rows, records, writer.name, fact_values or _values(rows))


def _batches(items: list[Item], size: int) -> list[list[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _head(row: Row, writer: Writer, seed: int, per_item: int) -> dict[str, Any]:
    """What a line of the file says before its text."""
    return {
        "prompt_version": PROMPT_VERSION,
        "seed": seed,
        "writer": writer.name,
        "settings": dict(writer.settings),
        "modality": row.modality,
        "id": row.id,
        "prompt": prompt_for(row, per_item),
    }


def _resume(file: Path, heads: Mapping[Item, dict[str, Any]]) -> dict[Item, dict[str, Any]]:
    """The records of an earlier run; a line that it left half written is cut off the file."""
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise _refusal(file, str(error)) from error
    whole, half = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    head: dict[str, Any] = next(iter(heads.values()), {})
    shared = {name: head[name] for name in _SETTINGS if name in head}
    records = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        record = _record(line, f"{file}, line {number}")
        item = Item(record["modality"], record["id"])
        _check_same(record, heads.get(item, shared), f"{file}, line {number}")
        if item in heads:
            records[item] = record
    if half:
        if half[: len(_HEAD)] != _HEAD[: len(half)]:
            raise _refusal(file, repr(half[:60]))
        with file.open("rb+") as lines:
            lines.truncate(len(whole))
    return records


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        texts = [record[name] for name in ("modality", "id", "prompt", "text")]
        texts += [part for question, answer in record["pairs"] for part in (question, answer)]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _refusal(where, repr(line[:60])) from error
    if not all(isinstance(text, str) for text in texts):
        raise _refusal(where, repr(line[:60]))
    return record


def _check_same(record: Mapping[str, Any], head: Mapping[str, Any], where: str) -> None:
    for name, wanted in head.items():
        if record.get(name) != wanted:
            got = f"{name} {str(record.get(name))[:200]!r} where this run has {str(wanted)[:200]!r}"
            do = "Give this run another file, or delete that one."
            raise DataError(where, expected="a text that this run could write", got=got, do=do)


def _refusal(where: Path | str, got: str) -> DataError:
    do = "Give a file of its own, or delete that one."
    return DataError(str(where), expected="JSON lines of texts that were written", got=got, do=do)


def _values(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Fact -> its sorted distinct values over the rows."""
    names = {name for row in rows for name in row.facts}
    return {name: sorted({row.facts[name] for row in rows if name in row.facts}) for name in names}


def _judge(
    rows: Sequence[Row],
    records: Mapping[Item, Mapping[str, Any]],
    writer: str,
    fact_values: Mapping[str, Sequence[str]],
) -> Yield:
    pairs, without = [], []
    for row in rows:
        item = Item(row.modality, row.id)
        if not records[item]["pairs"]:
            without.append((item, records[item]["text"]))
        seen: set[str] = set()
        for question, answer in records[item]["pairs"]:
            reason = reason_against(question, answer, row.facts, fact_values)
            if reason is None and read_words(question) in seen:
                reason = DUPLICATE
            seen.add(read_words(question))
            pairs.append(Pair(item, question, answer, fact_asked(question, row.facts), reason))
    return Yield(writer, len(rows), tuple(without), tuple(pairs))
