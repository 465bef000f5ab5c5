"""The mixture that fine-tuning draws from: parts with weights, a question shared by several items.

Several items are asked the same thing in a row: the question is then read once for all of them
(see `anymal_lib.packing`), and which answer is right depends on the item alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from anymal_lib.errors import ConfigError
from anymal_lib.instruct.examples import Example, Turn
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
    `spec.same_question` of the examples that ask it. Parts without a weight are left out. Raises
    `ConfigError` where no part has one.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[Example]],
        spec: FinetuneSpec,
        train: TrainSpec,
        seed: int,
    ) -> None:
        self.train, self.seed = train, seed
        self.together = spec.same_question
        self.parts = {
            name: list(examples)
            for name, examples in sorted(parts.items())
            if examples and spec.weights.get(name, 0) > 0
        }
        if not self.parts:
            raise ConfigError(
                "fine-tuning mixture",
                expected=f"examples of one of {sorted(spec.weights)}",
                got=f"examples of {sorted(parts)}" if parts else "none",
                do="Give these parts a weight in the profile's finetune.weights.",
            )
        self.weights = torch.tensor([float(spec.weights[name]) for name in self.parts])
        self._asked: dict[str, dict[str, list[int]]] = {}
        for name, examples in self.parts.items():
            asked = self._asked.setdefault(name, {})
            for k, example in enumerate(examples):
                asked.setdefault(_beginning(example), []).append(k)

    def __len__(self) -> int:
        return self.train.steps * self.train.batch

    def __getitem__(self, position: int) -> Drawn:
        group, member = divmod(position, self.together)
        draw = generator_for(self.seed, "mixture", group)
        name = list(self.parts)[int(torch.multinomial(self.weights, 1, generator=draw))]
        examples = self.parts[name]
        first = examples[int(torch.randint(len(examples), (), generator=draw))]
        same = self._asked[name][_beginning(first)]
        order = torch.randperm(len(same), generator=draw)
        example = examples[same[int(order[member % len(same)])]]
        return Drawn(example, position // self.train.batch)


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

    The item comes with the first question; what follows refers to it. Items with fewer than
    `turns` questions are left out.
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
        later = tuple(Turn((example.question,), example.answer) for example in rest)
        made.append(Example((*first.turns, *later), "dialogue", "dialogues"))
    return made
