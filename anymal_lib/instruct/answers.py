"""Answers to questions about held-out items, and whether they rest on the items at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from anymal_lib.controls import CONTROLS, blank_tokens, respond_once, ring
from anymal_lib.errors import DataError
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.metrics.facts import words
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.model import AnyMAL


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
    said = {
        control: answers(model, examples, tokens, control, seed)
        for control in dict.fromkeys(("clean", *controls))
    }
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
    control: str = "clean",
    seed: int = 0,
) -> list[str]:
    """Greedy answers, the items as `control` says (see `controls.CONTROLS`).

    Prompts that are the same in tokens are answered once.
    """
    if control not in CONTROLS:
        raise ValueError(control)
    if control == "removed":
        examples, spans = [without_items(e) for e in examples], [[] for _ in examples]
    elif control == "blank":
        blanks = {m: blank_tokens(model, m) for m in {item.modality for item in tokens}}
        spans = [[blanks[item.modality] for item in e.items] for e in examples]
    else:
        partner = partners(tokens, seed) if control == "shuffled" else {i: i for i in tokens}
        spans = [[tokens[partner[item]] for item in e.items] for e in examples]
    prompts = [prompt_of(model, e, learn=False) for e in examples]
    return respond_once(model, prompts, spans, model.profile.finetuning.max_new_tokens)


def without_items(example: Example) -> Example:
    """The same conversation in which nothing is sensed."""
    turns = tuple(
        replace(turn, parts=tuple(p for p in turn.parts if isinstance(p, str)))
        for turn in example.turns
    )
    return replace(example, turns=turns)


def partners(items: Mapping[Item, Tensor], seed: int) -> dict[Item, Item]:
    """Another item of the same modality for every item; an item alone in its modality: itself."""
    partner: dict[Item, Item] = {}
    for modality in sorted({item.modality for item in items}):
        own = sorted((i for i in items if i.modality == modality), key=lambda item: item.id)
        partner.update((i, own[k]) for i, k in zip(own, ring(len(own), seed), strict=True))
    return partner
