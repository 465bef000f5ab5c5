"""The paper's "strictly multimodal" condition as a filter: does the answer need the item at all?

The judge is the model itself. It reads each answer with the item, without any, and with other items
in its place: where the item at hand makes the answer no likelier, text alone answers the question,
or the item does not help.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anymal_lib.instruct.answers import answers, is_right, partners, without_items
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.instruct.verdicts import contradicts
from anymal_lib.metrics.facts import words
from anymal_lib.model import AnyMAL
from anymal_lib.rows import Row

_OTHERS = 4  # items that take the place of the one at hand
_LEAST_GAIN = 0.1  # nats by which the item must make the answer likelier
_SURE = 0.95  # probability of an answer from which the judge knows it without the item

REASONS = ("duplicate", "contradicts a fact", "answered without the item", "item does not help")


@dataclass(frozen=True)
class Judged:
    """An example with what the judge makes of it; likelihoods are probabilities of the answer."""

    example: Example
    sensed: float  # with its item
    others: float  # mean over other items in its place
    blind: float  # without any item
    blind_right: bool  # is the judge's own answer without any item the right one?
    reason: str | None = None  # why it is dropped; None: kept

    @property
    def gain(self) -> float:
        """Nats by which the item makes the answer likelier than other items and none do."""
        return math.log(self.sensed + 1e-9) - math.log(max(self.others, self.blind) + 1e-9)


def judge(
    model: AnyMAL,
    media: Media,
    examples: Sequence[Example],
    fact_values: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    seed: int,
) -> list[Judged]:
    """Every example with its likelihoods and, where it is to be dropped, the first reason for it.

    `fact_values` (by modality) are the values of the facts of items. An example is kept once;
    its answer may not contradict a fact; the judge must not know it without the item (its own
    answer is right, and it is sure); and the item must make it likelier than other items do.
    """
    rows = media.rows
    asked = {item.modality for example in examples for item in example.items}
    tokens = media.all_tokens(model, [item for item in rows if item.modality in asked])
    sensed = likelihoods(model, examples, [[tokens[i] for i in e.items] for e in examples])
    bare = [without_items(e) for e in examples]
    blind = likelihoods(model, bare, [[] for _ in bare])
    said = answers(model, examples, tokens, "removed")
    others = torch.zeros(len(examples))
    for k in range(_OTHERS):
        partner = partners(tokens, seed + k)
        spans = [[tokens[partner[i]] for i in e.items] for e in examples]
        others += torch.tensor(likelihoods(model, examples, spans)) / _OTHERS
    seen: set[tuple[str, ...]] = set()
    judged = []
    for k, example in enumerate(examples):
        found = Judged(example, sensed[k], others[k].item(), blind[k], is_right(example, said[k]))
        key = (words(example.question), words(example.answer), *map(str, example.items))
        reason = REASONS[0] if key in seen else _reason(found, rows, fact_values)
        seen.add(key)
        judged.append(replace(found, reason=reason))
    return judged


def _reason(
    found: Judged,
    rows: Mapping[Item, Row],
    fact_values: Mapping[str, Mapping[str, Sequence[str]]],
) -> str | None:
    example = found.example
    for item in example.items:
        facts, values = rows[item].facts, fact_values[item.modality]
        if contradicts(example.question, example.answer, facts, values):
            return REASONS[1]
    if found.blind_right and found.blind >= _SURE:
        return REASONS[2]
    return REASONS[3] if found.gain < _LEAST_GAIN else None


def likelihoods(
    model: AnyMAL, examples: Sequence[Example], spans: Sequence[Sequence[Tensor]]
) -> list[float]:
    """Probability of each example's last answer, end of turn included, given modality tokens."""
    prompts = [prompt_of(model, example, learn=True) for example in examples]
    prompts = [replace(prompt, earlier=()) for prompt in prompts]  # only the last answer counts
    return [math.exp(answer.sum().item()) for answer in model.score(prompts, spans)]


def counts(judged: Sequence[Judged]) -> dict[str, int]:
    """How many examples there were, were dropped for each reason, and are left."""
    reasons = Counter(found.reason for found in judged)
    dropped = {f"dropped: {reason}": reasons[reason] for reason in REASONS}
    return {"before": len(judged), **dropped, "after": reasons[None]}
