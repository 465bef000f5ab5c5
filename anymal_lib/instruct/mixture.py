"""The mixture that fine-tuning draws from: parts with weights, a question shared by several items.

Several items are asked the same thing in a row: the question is then read once for all of them
(see `anymal_lib.packing`), and which answer is right depends on the item alone. Each right answer
comes as often as any other, so that a question does not give its answer away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset

from anymal_lib.errors import ConfigError
from anymal_lib.instruct.answers import without_items
from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.seeds import generator_for
from anymal_lib.specs import FinetuneSpec, TrainSpec


@dataclass(frozen=True)
class Drawn:
    """One example of a batch and the step, from 0, that it is for."""

    example: Example
    step: int


class Mixture(Dataset[Drawn]):
    """All examples of a run in order; position k is a function of (seed, k).

    A part is drawn by its weight, a question as often as the part asks it, and then
    `spec.same_question` examples that ask it, their answers in turn. Parts without a weight are
    left out; those that `spec.joins` names wait until then. Some of a part's examples come without
    their items, where `spec.item_dropout` says so. Raises `ConfigError` where no part is drawn from
    the beginning.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[Example]],
        spec: FinetuneSpec,
        train: TrainSpec,
        seed: int,
    ) -> None:
        self.spec, self.train, self.seed = spec, train, seed
        self.parts = {
            name: list(examples)
            for name, examples in sorted(parts.items())
            if examples and spec.weights.get(name, 0) > 0
        }
        if not any(spec.joins.get(name, 0) == 0 for name in self.parts):
            raise ConfigError(
                "fine-tuning mixture",
                expected=f"examples of one of {sorted(spec.weights)} that is there from the start",
                got=f"examples of {sorted(parts)}" if parts else "none",
                do="Give one of these parts a weight in the profile's finetune.weights.",
            )
        # Part -> question -> answer -> places in the part.
        self._asked: dict[str, dict[str, dict[str, list[int]]]] = {}
        for name, examples in self.parts.items():
            asked = self._asked.setdefault(name, {})
            for k, example in enumerate(examples):
                same = asked.setdefault(_beginning(example), {})
                same.setdefault(example.answer, []).append(k)

    def __len__(self) -> int:
        return self.train.samples

    def __getitem__(self, position: int) -> Drawn:
        group, member = divmod(position, self.spec.same_question)
        draw = generator_for(self.seed, "mixture", group)
        # A group may reach into the next batch, but its time is one: that of its first member.
        began = group * self.spec.same_question // self.train.batch
        examples = self.parts[name := self._part(began / self.train.steps, draw)]
        first = examples[int(torch.randint(len(examples), (), generator=draw))]
        by_answer = list(self._asked[name][_beginning(first)].values())
        order = torch.randperm(len(by_answer), generator=draw)
        same = by_answer[int(order[member % len(by_answer)])]
        own = generator_for(self.seed, "mixture member", position)
        example = examples[same[int(torch.randint(len(same), (), generator=own))]]
        if torch.rand((), generator=own) < self.spec.item_dropout.get(name, 0):
            example = without_items(example)
        return Drawn(example, position // self.train.batch)

    def _part(self, time: float, draw: torch.Generator) -> str:
        """A part by its weight, of those that are there when this share of the run is over."""
        names = list(self.parts)
        there = [time >= self.spec.joins.get(name, 0) for name in names]
        weights = torch.tensor([self.spec.weights[name] for name in names]) * torch.tensor(there)
        return names[int(torch.multinomial(weights, 1, generator=draw))]


def _beginning(example: Example) -> str:
    """What comes before the first item."""
    said: list[str] = []
    for part in example.turns[0].parts:
        if not isinstance(part, str):
            break
        said.append(part)
    return "".join(said)


def dialogues(examples: Sequence[Example], *, turns: int, count: int, seed: int) -> list[Example]:
    """Conversations of several questions about one item each, made of single questions.

    The item comes with the first question, after it and before it in turn; what follows refers to
    it. Items with fewer than `turns` questions are left out.
    """
    of_item: dict[str, list[Example]] = {}
    for example in examples:
        if len(example.items) == len(example.turns) == 1:
            item = example.items[0]
            of_item.setdefault(f"{item.modality} {item.id}", []).append(example)
    asked = [group for group in of_item.values() if len(group) >= turns]
    made = []
    for k in range(count if asked else 0):
        draw = generator_for(seed, "dialogue", k)
        group = asked[int(torch.randint(len(asked), (), generator=draw))]
        order = torch.randperm(len(group), generator=draw)[:turns].tolist()
        first, *rest = (group[j] for j in order)
        first = item_first(first) if k % 2 else first
        later = tuple(Turn((example.question,), example.answer) for example in rest)
        made.append(Example((*first.turns, *later), "dialogue", "dialogues"))
    return made


def item_first(example: Example) -> Example:
    """The same question after its items instead of before them."""
    turn = example.turns[0]
    texts = [part.strip() for part in turn.parts if isinstance(part, str)]
    items = tuple(part for part in turn.parts if isinstance(part, Item))
    first = replace(turn, parts=(*items, f" {' '.join(filter(None, texts))}"))
    return replace(example, turns=(first, *example.turns[1:]))
