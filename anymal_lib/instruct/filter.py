"""The paper's "strictly multimodal" condition as a filter: does the answer need the item at all?

The judge is the model itself. It reads each answer with the item, without any, and with other items
in its place: where the item at hand makes the answer no likelier, text alone answers the question,
or the item does not help. What may be said without any item it has learned (the mixture's "blind"
part), or it would be as sure of that as of what it senses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anymal_lib.instruct.answers import partners, without_items
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.instruct.verdicts import contradicts
from anymal_lib.metrics.facts import words
from anymal_lib.model import AnyMAL
from anymal_lib.rows import Row

# Items that take the place of the one at hand. A rare value is no answer to most: of ten, "no" is
# right for one item in ten alone, and fewer would often all agree.
_OTHERS = 16
_OVER_NONE, _OVER_OTHERS = 0.1, 0.05  # nats by which the item must make the answer likelier
_LIKELY = 0.5  # probability of an answer from which the judge agrees with it

REASONS = (
    "duplicate",
    "contradicts a fact",
    "answered without the item",
    "unlikely with the item",
    "item does not help",
)


@dataclass(frozen=True)
class Judged:
    """An example with what the judge makes of it; likelihoods are probabilities of the answer."""

    example: Example
    sensed: float  # with its item
    blind: float  # without any item
    others: float | None = None  # mean over other items in its place; None: dropped before that
    reason: str | None = None  # why it is dropped; None: kept

    @property
    def gain(self) -> float:
        """Nats by which the item makes the answer likelier than none or, once asked, others do."""
        return _nats(self.sensed, self.blind if self.others is None else self.others)


def _nats(likelihood: float, other: float) -> float:
    return math.log(likelihood + 1e-9) - math.log(other + 1e-9)


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
    its answer may not contradict a fact; the item must make it likelier than it is without any,
    and likely; and likelier than other items do, which is only asked of what is left by then.
    """
    rows = media.rows
    asked = {item.modality for example in examples for item in example.items}
    tokens = media.all_tokens(model, [item for item in rows if item.modality in asked])
    sensed = likelihoods(model, examples, [[tokens[i] for i in e.items] for e in examples])
    bare = [without_items(e) for e in examples]
    blind = likelihoods(model, bare, [[] for _ in bare])
    seen: set[tuple[str, ...]] = set()
    judged = []
    for found in map(Judged, examples, sensed, blind):
        example = found.example
        key = (words(example.question), words(example.answer), *map(str, example.items))
        reason = REASONS[0] if key in seen else _reason(found, rows, fact_values)
        seen.add(key)
        judged.append(replace(found, reason=reason))
    left = [k for k, found in enumerate(judged) if found.reason is None]
    others = _others(model, [examples[k] for k in left], tokens, seed)
    for k, mean in zip(left, others, strict=True):
        found = replace(judged[k], others=mean)
        judged[k] = replace(found, reason=REASONS[4] if found.gain < _OVER_OTHERS else None)
    return judged


def _reason(
    found: Judged,
    rows: Mapping[Item, Row],
    fact_values: Mapping[str, Mapping[str, Sequence[str]]],
) -> str | None:
    """What is to be said against an example before other items are tried."""
    example = found.example
    for item in example.items:
        facts, values = rows[item].facts, fact_values[item.modality]
        if contradicts(example.question, example.answer, facts, values):
            return REASONS[1]
    if found.gain < _OVER_NONE:
        return REASONS[2]
    return REASONS[3] if found.sensed < _LIKELY else None


def _others(
    model: AnyMAL, examples: Sequence[Example], tokens: Mapping[Item, Tensor], seed: int
) -> list[float]:
    """The answers' probabilities with other items, the mean over some of them."""
    mean = torch.zeros(len(examples))
    for k in range(_OTHERS if examples else 0):
        partner = partners(tokens, seed + k)
        spans = [[tokens[partner[i]] for i in e.items] for e in examples]
        mean += torch.tensor(likelihoods(model, examples, spans)) / _OTHERS
    return mean.tolist()


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
