"""Answers to questions about held-out items, and whether they rest on the items at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from anymal_lib.controls import CONTROLS, blank_tokens, respond_once, ring
from anymal_lib.errors import DataError
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.metrics.facts import words
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt


@dataclass(frozen=True)
class AnswerReport:
    """Exact answers to a set of questions (fractions 0-1).

    answers and right belong to the real items; `controls` holds the score under each control, the
    real items ("clean") among them; `blind` is the score of the best answer to each question that
    needs no item: the one that is right most often.
    """

    examples: Sequence[Example]
    answers: list[str]
    right: list[bool]
    controls: dict[str, Interval]
    blind: float

    @property
    def accuracy(self) -> float:
        """Share of the questions that were answered exactly."""
        return self.controls["clean"].value

    @property
    def by_kind(self) -> dict[str, float]:
        """Accuracy of each kind of question."""
        scores: dict[str, list[bool]] = defaultdict(list)
        for example, right in zip(self.examples, self.right, strict=True):
            scores[example.kind].append(right)
        return {kind: sum(found) / len(found) for kind, found in sorted(scores.items())}

    @property
    def kinds(self) -> dict[str, int]:
        """How many questions of each kind there are."""
        return dict(sorted(Counter(example.kind for example in self.examples).items()))


def answer_questions(
    model: AnyMAL,
    media: Media,
    examples: Sequence[Example],
    *,
    controls: Sequence[str] = ("clean",),
    seed: int = 0,
) -> AnswerReport:
    """Answer the last turn of every example greedily, with its items and under each control.

    The real items are always among the controls. Raises `DataError` without any example.
    """
    if not examples:
        raise DataError(
            "questions to answer",
            expected="at least one",
            got="none",
            do="Give more held-out items, for example by a larger LIMIT.",
        )
    tokens = media.all_tokens(model, [item for example in examples for item in example.items])
    said = answers(model, examples, tokens, dict.fromkeys(("clean", *controls)), seed)
    right = {
        control: [is_right(e, text) for e, text in zip(examples, texts, strict=True)]
        for control, texts in said.items()
    }
    return AnswerReport(
        examples,
        said["clean"],
        right["clean"],
        {control: bootstrap(found, seed) for control, found in right.items()},
        best_blind(examples),
    )


def is_right(example: Example, text: str) -> bool:
    """Does the text equal the example's answer, but for case and punctuation?"""
    return words(text) == words(example.answer)


def best_blind(examples: Sequence[Example]) -> float:
    """The best score without any item: for each question the answer that is right most often."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        counts[example.question][words(example.answer)] += 1
    return sum(found.most_common(1)[0][1] for found in counts.values()) / len(examples)


def answers(
    model: AnyMAL,
    examples: Sequence[Example],
    tokens: Mapping[Item, Tensor],
    controls: Iterable[str] = ("clean",),
    seed: int = 0,
) -> dict[str, list[str]]:
    """Greedy answers under each control, the items as it says (see `controls.CONTROLS`).

    Prompts that are the same in tokens are answered once, whatever the control: what the model says
    of another item that is asked the same thing, it has said already.
    """
    controls = list(controls)
    if unknown := set(controls) - set(CONTROLS):
        raise ValueError(unknown)
    prompts: list[Prompt] = []
    spans: list[list[Tensor]] = []
    for control in controls:
        asked = [without_items(e) for e in examples] if control == "removed" else examples
        prompts += [prompt_of(model, e, learn=False) for e in asked]
        spans += _sensed(model, asked, tokens, control, seed)
    said = respond_once(model, prompts, spans, model.profile.finetuning.max_new_tokens)
    return {
        control: said[k * len(examples) : (k + 1) * len(examples)]
        for k, control in enumerate(controls)
    }


def _sensed(
    model: AnyMAL,
    examples: Sequence[Example],
    tokens: Mapping[Item, Tensor],
    control: str,
    seed: int,
) -> list[list[Tensor]]:
    """The modality tokens of each example's items under a control."""
    if control == "blank":
        blanks = {m: blank_tokens(model, m) for m in {item.modality for item in tokens}}
        return [[blanks[item.modality] for item in e.items] for e in examples]
    items = swapped(examples, seed) if control == "shuffled" else [e.items for e in examples]
    return [[tokens[item] for item in own] for own in items]


def swapped(examples: Sequence[Example], seed: int) -> list[tuple[Item, ...]]:
    """Other items for each example: those of another one that asks the same thing.

    Where none does, others of the same modality among all examples' items.
    """
    groups: dict[Hashable, set[tuple[Item, ...]]] = defaultdict(set)
    for example in examples:
        groups[_asked(example)].add(example.items)
    anyone = partners({item for e in examples for item in e.items}, seed)
    partner = {}
    for asked, group in groups.items():
        own = sorted(group, key=str)
        for items, k in zip(own, ring(len(own), seed), strict=True):
            others = own[k] if len(own) > 1 else tuple(anyone[item] for item in items)
            partner[asked, items] = others
    return [partner[_asked(example), example.items] for example in examples]


def _asked(example: Example) -> Hashable:
    """All that a prompt says, with the modality in place of each item."""
    said = (
        tuple(part.modality if isinstance(part, Item) else (part,) for part in turn.parts)
        for turn in example.turns
    )
    return (*said, *(turn.answer for turn in example.turns[:-1]))


def without_items(example: Example) -> Example:
    """The same conversation in which nothing is sensed."""
    turns = tuple(
        replace(turn, parts=tuple(p for p in turn.parts if isinstance(p, str)))
        for turn in example.turns
    )
    return replace(example, turns=turns)


def partners(items: Collection[Item], seed: int) -> dict[Item, Item]:
    """Another item of the same modality for every item; an item alone in its modality: itself."""
    partner: dict[Item, Item] = {}
    for modality in sorted({item.modality for item in items}):
        own = sorted((i for i in items if i.modality == modality), key=lambda item: item.id)
        partner.update((i, own[k]) for i, k in zip(own, ring(len(own), seed), strict=True))
    return partner
