"""What is rated: items with the answers of several systems, and the order that a rater sees.

A study lies in a folder of its own as `study.json`, beside one file of ratings for each rater.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from anymal_lib.errors import DataError
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.rating.questions import Question, questions_about
from anymal_lib.rows import Row
from anymal_lib.runs import write_text
from anymal_lib.seeds import generator_for

FILE = "study.json"
FORMAT = 1


@dataclass(frozen=True)
class RatedItem:
    """What was asked about which media, and what each system answered: name -> text."""

    id: str
    prompt: str
    media: tuple[Item, ...]
    responses: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """One answer to judge, or two to compare: the systems from left to right."""

    item: str
    shown: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The same for all raters, whichever side they see a system on."""
        return (self.item, *sorted(self.shown))


@dataclass(frozen=True)
class Study:
    """Items, which systems are judged or compared on each of them, and the seed of the order.

    `shown` holds one system each for the rubric, or two each: (a system, the one it is against).
    Use `rubric` or `pairs`. Raises `DataError` where there is nothing to rate, where ids repeat,
    or where an item lacks a system's answer.
    """

    items: tuple[RatedItem, ...]
    shown: tuple[tuple[str, ...], ...]
    seed: int = 0

    @classmethod
    def rubric(cls, items: Sequence[RatedItem], *, seed: int = 0) -> Study:
        """Every answer alone, by the paper's points for accuracy, recognition and integrity."""
        return cls(tuple(items), tuple((system,) for system in _systems(items)), seed)

    @classmethod
    def pairs(
        cls, items: Sequence[RatedItem], *, against: str | None = None, seed: int = 0
    ) -> Study:
        """Win, tie or lose: every system against one of them, or (None) every two."""
        systems = _systems(items)
        if against is None:
            return cls(tuple(items), tuple(combinations(systems, 2)), seed)
        others = [system for system in systems if system != against]
        return cls(tuple(items), tuple((system, against) for system in others), seed)

    def __post_init__(self) -> None:
        if not self.items or not self.shown:
            found = f"{len(self.items)} items, {len(_systems(self.items))} systems"
            raise _refused("at least one item, and two systems to compare", found)
        if len(self.by_id) < len(self.items):
            found = f"{len(self.items)} items, {len(self.by_id)} ids"
            raise _refused("an id of its own for every item", found)
        wanted = {system for systems in self.shown for system in systems}
        for item in self.items:
            if missing := sorted(wanted - item.responses.keys()):
                raise _refused("an answer of every system", f"item {item.id!r} without {missing}")

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is asked in every task."""
        return questions_about(len(self.shown[0]))

    @cached_property
    def by_id(self) -> dict[str, RatedItem]:
        """The items by their ids."""
        return {item.id: item for item in self.items}

    def tasks(self, rater: str) -> tuple[Task, ...]:
        """All tasks as this rater meets them; order and sides depend on (seed, rater) only."""
        tasks = [Task(item.id, systems) for item in self.items for systems in self.shown]
        order = torch.randperm(
            len(tasks), generator=generator_for(self.seed, f"order of {rater}", 0)
        )
        return tuple(self._sided(tasks[k], rater) for k in order.tolist())

    def _sided(self, task: Task, rater: str) -> Task:
        # Each task draws for itself, so that a side says nothing about the others.
        draw = generator_for(self.seed, f"sides of {json.dumps([rater, *task.key])}", 0)
        turned = bool(torch.randint(2, (1,), generator=draw))
        return Task(task.item, task.shown[::-1] if turned else task.shown)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the study: ratings belong to one text of every answer."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def save(self, parent: str | Path) -> Path:
        """Write the study into a folder of its own below `parent` and return that folder.

        Its name comes from the content: the same study finds its ratings again, and another one
        leaves them alone.
        """
        folder = Path(parent) / f"study-{self.fingerprint[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        write_text(folder / FILE, text + "\n")
        return folder


def load_study(folder: str | Path) -> Study:
    """Read the study of a folder.

    Raises:
        DataError: no such file, or a damaged one.
    """
    path = Path(folder) / FILE
    try:
        fields = json.loads(path.read_text())
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}")
        items = tuple(_item(found) for found in fields["items"])
        shown = tuple(tuple(systems) for systems in fields["shown"])
        study = Study(items, shown, int(fields["seed"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DataError) as error:
        raise DataError(
            f"'{path.name}' in '{path.parent.name}'",
            expected="a study written by Study.save",
            got=f"{type(error).__name__}: {error}",
            do="Make the study again; the ratings beside it are not touched.",
        ) from error
    return study


def _item(fields: Mapping[str, Any]) -> RatedItem:
    media = tuple(Item(**item) for item in fields["media"])
    responses = dict(fields["responses"])
    texts = (fields["id"], fields["prompt"], *responses.values())
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("an id, prompt or answer that is no text")
    return RatedItem(fields["id"], fields["prompt"], media, responses)


def items_of_rows(
    rows: Sequence[Row], prompt: str, answers: Mapping[str, Sequence[str]]
) -> list[RatedItem]:
    """Captions of rows: `answers` holds each system's captions, one a row, in the rows' order."""
    _check_lengths(len(rows), answers)
    return [
        RatedItem(
            f"{row.modality}/{row.id}",
            prompt,
            (Item(row.modality, row.id),),
            {system: texts[k] for system, texts in answers.items()},
        )
        for k, row in enumerate(rows)
    ]


def items_of_examples(
    examples: Sequence[Example], answers: Mapping[str, Sequence[str]]
) -> list[RatedItem]:
    """Answers to questions: `answers` holds each system's, one an example, in their order."""
    _check_lengths(len(examples), answers)
    return [
        RatedItem(
            f"question/{k}",
            example.question,
            example.items,
            {system: texts[k] for system, texts in answers.items()},
        )
        for k, example in enumerate(examples)
    ]


def sample(items: Sequence[RatedItem], count: int, seed: int = 0) -> list[RatedItem]:
    """At most `count` of the items, drawn by the seed: people's time is short."""
    order = torch.randperm(len(items), generator=generator_for(seed, "items to rate", 0))
    return [items[k] for k in order[:count].tolist()]


def _systems(items: Sequence[RatedItem]) -> list[str]:
    return list(items[0].responses) if items else []


def _check_lengths(count: int, answers: Mapping[str, Sequence[str]]) -> None:
    for system, texts in answers.items():
        if len(texts) != count:
            raise _refused("one answer an item", f"{len(texts)} of {system!r} for {count} items")


def _refused(expected: str, got: str) -> DataError:
    return DataError(
        "rating study", expected=expected, got=got, do="Correct the items and their answers."
    )
