"""The items that examples name: their features, their modality tokens, and prompts about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anymal_lib.bank import Bank, augmented, encode_aligned
from anymal_lib.controls import modality_tokens
from anymal_lib.instruct.examples import TEXT, Example, Item
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Dialogue, Prompt, render_dialogue
from anymal_lib.rows import Row


@dataclass
class Media:
    """The banks of all modalities, and where in them an item is."""

    banks: Mapping[str, Bank]

    def __post_init__(self) -> None:
        self._rows = {
            Item(modality, row.id): k
            for modality, bank in self.banks.items()
            for k, row in enumerate(bank.rows)
        }

    @property
    def rows(self) -> dict[Item, Row]:
        """The row of every item."""
        return {item: self.banks[item.modality].rows[k] for item, k in self._rows.items()}

    def __contains__(self, item: Item) -> bool:
        return item in self._rows

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """The examples whose items could all be read."""
        return [e for e in examples if all(item in self for item in e.items)]

    def inputs(
        self,
        model: AnyMAL,
        items: Sequence[Item],
        generator: Callable[[str], torch.Generator] | None = None,
    ) -> list[Tensor]:
        """Intermediate features (…) of items in order, token ids (t,) of words in an item's place.

        `generator` gives, for a modality, the random numbers of its encoder's augmentation.
        """
        inputs: dict[int, Tensor] = {}
        for modality, places in _places(items).items():
            if modality == TEXT:
                said = [torch.tensor(model.llm.tokenize(items[k].id)) for k in places]
                inputs.update(zip(places, said, strict=True))
                continue
            bank = self.banks[modality].intermediate
            own = [bank[self._rows[items[k]]] for k in places]
            if generator is not None:
                own = augmented(model.encoders[modality], own, generator(modality))
            inputs.update(zip(places, own, strict=True))
        return [inputs[k] for k in range(len(items))]

    def tokens(
        self,
        model: AnyMAL,
        adapters: nn.ModuleDict,
        items: Sequence[Item],
        inputs: Sequence[Tensor],
    ) -> list[Tensor]:
        """Modality tokens (q, w) of items and their `inputs`, with gradients of the adapters."""
        spans: dict[int, Tensor] = {}
        for modality, places in _places(items).items():
            if modality == TEXT:
                spans.update((k, model.llm.embed(inputs[k].to(model.llm.device))) for k in places)
                continue
            with torch.no_grad():
                features = encode_aligned(model.encoders[modality], [inputs[k] for k in places])
            spans.update(zip(places, adapters[modality](features), strict=True))
        return [spans[k] for k in range(len(items))]

    def all_tokens(self, model: AnyMAL, items: Sequence[Item]) -> dict[Item, Tensor]:
        """Modality tokens (q, w) of each of the items, for evaluation."""
        tokens: dict[Item, Tensor] = {}
        for modality, places in _places(items).items():
            own = sorted({items[k] for k in places}, key=self._rows.__getitem__)
            bank = self.banks[modality].some([self._rows[item] for item in own])
            tokens.update(zip(own, modality_tokens(model, modality, bank), strict=True))
        return tokens


def _places(items: Sequence[Item]) -> dict[str, list[int]]:
    """Where in `items` those of each modality are."""
    return {
        modality: [k for k, item in enumerate(items) if item.modality == modality]
        for modality in sorted({item.modality for item in items})
    }


def prompt_of(model: AnyMAL, example: Example, *, learn: bool) -> Prompt:
    """An example as a prompt; with `learn` its last answer is there as well."""
    *before, last = example.turns
    turns = [(turn.parts, turn.answer) for turn in before]
    dialogue = Dialogue([*turns, (last.parts, last.answer if learn else None)])
    return render_dialogue(model.llm, dialogue, system=model.profile.system)
