"""The paper's "strictly multimodal" condition as a filter: does the answer need the item at all?

The judge is the model itself. It reads each answer with the item, without any, and with other items
in its place: where the item at hand makes the answer no likelier than none, text alone answers the
question; where no other item makes it much less likely, the item does not help. What may be said
without any item it has learned (the mixture's item dropout), or it would be as sure of that as of
what it senses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from anymal_lib.instruct.answers import partners, without_items
from anymal_lib.instruct.examples import Example, Item
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.instruct.verdicts import contradicts
from anymal_lib.metrics.facts import words
from anymal_lib.model import AnyMAL
from anymal_lib.rows import Row

# Nats by which the item must make the answer likelier than none does, so that a question whose
# answer is right five times in six anyway is kept where the item makes it sure.
_OVER_NONE = math.log(1.15)
# And by which likelier than one at least of so many others, which take its place one after another.
# Of ten values, "no" is wrong for one item in ten. Where it is, it is far from likely: a few odd
# items make an answer some five times less likely that has nothing to do with them.
_OVER_OTHER, _OTHERS = math.log(10), 32
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
    others: float | None = None  # the least with another in its place; None: dropped before that
    reason: str | None = None  # why it is dropped; None: kept

    @property
    def gain(self) -> float:
        """Nats by which the item makes the answer likelier than none or, once asked, another."""
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
    and likely; and much likelier than some other item does, which is only asked of what is left by
    then.
    """
    rows = media.rows
    tokens = media.all_tokens(model, [item for example in examples for item in example.items])
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
    others = _others(model, media, [judged[k] for k in left], tokens, seed)
    for k, least in zip(left, others, strict=True):
        found = replace(judged[k], others=least)
        judged[k] = replace(found, reason=REASONS[4] if found.gain < _OVER_OTHER else None)
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
    model: AnyMAL,
    media: Media,
    judged: Sequence[Judged],
    tokens: Mapping[Item, Tensor],
    seed: int,
) -> list[float]:
    """The least likelihood of each answer with other items, as far as they had to be tried.

    These are drawn from all that there are; modality tokens are computed of the drawn ones only.
    """
    asked = {item.modality for item in tokens}
    everyone = [item for item in media.rows if item.modality in asked]
    known = dict(tokens)
    least = [math.inf] * len(judged)
    left = list(range(len(judged)))
    seen = 0
    while left and seen < _OTHERS:
        # As many again as before: most are done after the first, and few are read one by one.
        partner = [partners(everyone, seed + k) for k in range(seen, max(1, 2 * seen))]
        seen += len(partner)
        tried = [(j, other) for j in left for other in partner]
        examples = [judged[j].example for j, _ in tried]
        drawn = [[other[i] for i in e.items] for e, (_, other) in zip(examples, tried, strict=True)]
        new = {item for items in drawn for item in items} - known.keys()
        known |= media.all_tokens(model, sorted(new, key=str))
        spans = [[known[item] for item in items] for items in drawn]
        for (j, _), found in zip(tried, likelihoods(model, examples, spans), strict=True):
            least[j] = min(least[j], found)
        left = [j for j in left if _nats(judged[j].sensed, least[j]) < _OVER_OTHER]
    return least


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
