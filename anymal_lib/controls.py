"""Held-out items under controls: what a model says when it is given something else, or nothing.

A captioner can look fine and be blind. Every score stands beside controls: a blank input, the
features of another item, of one that differs in every fact, and a prompt without modality tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymal_lib.bank import Bank, encode_aligned, encode_frozen
from anymal_lib.encoders import Features
from anymal_lib.metrics.facts import words
from anymal_lib.modalities import MODALITIES
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt, render
from anymal_lib.rows import Row
from anymal_lib.seeds import generator_for

CONTROLS = ("clean", "blank", "shuffled", "removed")  # of every evaluation
CONDITIONS = ("clean", "blank", "shuffled", "wrong_partner", "removed")  # of a grounding report

_REMOVED = -1  # the place of what is not there at all


def senses(control: str, modality: str) -> str:
    """What the model senses under a control, in words."""
    return {
        "clean": "the item itself",
        "blank": MODALITIES[modality].blank_means,
        "shuffled": "another held-out item",
        "wrong_partner": "an item as unlike it as there is",
        "removed": "no modality tokens at all",
    }[control]


class Probe:
    """The held-out rows of one modality, and what the model makes of them under each control.

    Greedy captions and likelihoods are functions of the tokens, so nothing is computed twice:
    with another row's features the model says exactly what it said of that row. `said` are captions
    of all rows, in order, where it has said them before.
    """

    def __init__(
        self,
        model: AnyMAL,
        modality: str,
        bank: Bank,
        seed: int = 0,
        *,
        said: Sequence[str] = (),
    ) -> None:
        self.model, self.modality, self.bank, self.seed = model, modality, bank, seed
        self._said: dict[int, str] = dict(enumerate(said))
        self._likelihoods: dict[tuple[int, str], float] = {}

    def captions(self, control: str = "clean") -> list[str]:
        """Greedy captions of all rows under the first instruction, the input as `control` says."""
        places = self._places(control)
        new = sorted(set(places) - self._said.keys())
        texts = self.model.respond(
            [self._prompt(place) for place in new],
            [span for place in new for span in self._spans(place)],
            max_new_tokens=self.model.spec(self.modality).max_new_tokens,
        )
        self._said.update(zip(new, texts, strict=True))
        return [self._said[place] for place in places]

    def log_likelihoods(self, control: str = "clean") -> np.ndarray:
        """Mean log-likelihood of the tokens of each row's first caption, its end included.

        (rows,), in nats, teacher forced under the first instruction.
        """
        texts = [row.text[0] for row in self.bank.rows]
        asked = list(zip(self._places(control), texts, strict=True))
        new = sorted(set(asked) - self._likelihoods.keys())
        found = self.model.score(
            [self._prompt(place, text) for place, text in new],
            [self._spans(place) for place, _ in new],
        )
        self._likelihoods.update(zip(new, (x.mean().item() for x in found), strict=True))
        return np.array([self._likelihoods[key] for key in asked])

    def _places(self, control: str) -> list[int]:
        """Whose tokens each row gets: a row's, behind them the blank input's, or nobody's."""
        rows = self.bank.rows
        if control == "clean":
            return list(range(len(rows)))
        if control == "shuffled":
            return ring(len(rows), self.seed)
        if control == "wrong_partner":
            return least_alike(rows, self.seed)
        return [{"blank": len(rows), "removed": _REMOVED}[control]] * len(rows)

    def _prompt(self, place: int, response: str | None = None) -> Prompt:
        parts: list[Any] = [self.model.spec(self.modality).instructions[0] + " "]
        if place != _REMOVED:
            parts.append(object())  # the item's place; its tokens are computed
        system = self.model.profile.system
        return render(self.model.llm, parts, system=system, response=response)

    def _spans(self, place: int) -> list[Tensor]:
        if place == _REMOVED:
            return []
        return [self._blank if place == len(self.bank) else self._tokens[place]]

    @cached_property
    def _tokens(self) -> Tensor:
        return modality_tokens(self.model, self.modality, self.bank)

    @cached_property
    def _blank(self) -> Tensor:
        return blank_tokens(self.model, self.modality)


def respond_once(
    model: AnyMAL,
    prompts: Sequence[Prompt],
    spans: Sequence[Sequence[Tensor]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy responses to prompts with the modality tokens of each, (q, w) an item.

    Prompts that are the same, with the same tensors, are answered once.
    """
    keys = [(prompt, *map(id, own)) for prompt, own in zip(prompts, spans, strict=True)]
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first.values())
    tokens = [span for k in chosen for span in spans[k]]
    texts = model.respond([prompts[k] for k in chosen], tokens, max_new_tokens=max_new_tokens)
    found = dict(zip(chosen, texts, strict=True))
    return [found[first[key]] for key in keys]


@torch.inference_mode()
def modality_tokens(model: AnyMAL, modality: str, bank: Bank) -> Tensor:
    """The adapter's tokens of every row: (rows, q, w)."""
    encoder, adapter = model.encoders[modality], model.adapters[modality]
    size = model.profile.encode_batch
    starts = range(0, len(bank), size)
    return torch.cat(
        [
            adapter(bank.features(encoder, range(start, min(start + size, len(bank)))))
            for start in starts
        ]
    )


@torch.inference_mode()
def blank_tokens(model: AnyMAL, modality: str) -> Tensor:
    """The adapter's tokens of an input in which there is nothing to sense: (q, w)."""
    encoder = model.encoders[modality]
    prepared = encoder.prepare(MODALITIES[modality].blank())
    features: Features = encode_aligned(encoder, encode_frozen(encoder, [prepared], 1))
    return model.adapters[modality](features)[0]


def ring(count: int, seed: int) -> list[int]:
    """Another of `count` places for each: shuffled, then shifted within the shuffle so none stays.

    Only a single place is its own partner.
    """
    order = torch.randperm(count, generator=generator_for(seed, "shuffled control", 0)).tolist()
    partner = dict(zip(order, order[1:] + order[:1], strict=True))
    return [partner[k] for k in range(count)]


def least_alike(rows: Sequence[Row], seed: int) -> list[int]:
    """For each row, which other one differs most: in every fact, where there is such a row.

    Without facts it is a row whose captions share the fewest words. Equally good ones are drawn.
    """
    distance = _different_facts(rows) if all(r.facts for r in rows) else _different_words(rows)
    draws = torch.rand(distance.shape, generator=generator_for(seed, "wrong partner", 0)).numpy()
    draws[distance < distance.max(1, keepdims=True)] = -1
    return draws.argmax(1).tolist()


def _different_facts(rows: Sequence[Row]) -> np.ndarray:
    """In how many facts two rows differ: (rows, rows)."""
    distance = np.zeros((len(rows), len(rows)), dtype=int)
    for name in {name for row in rows for name in row.facts}:
        values = np.array([row.facts.get(name, "") for row in rows])
        distance += values[:, None] != values
    return distance


def _different_words(rows: Sequence[Row]) -> np.ndarray:
    """1 minus the Dice coefficient of the words of two rows' captions: (rows, rows)."""
    vocabularies = [set(words(" ".join(row.text)).split()) for row in rows]
    places = {word: k for k, word in enumerate(sorted(set().union(*vocabularies)))}
    holds = np.zeros((len(rows), len(places)), dtype=np.float32)
    for row, vocabulary in zip(holds, vocabularies, strict=True):
        row[[places[word] for word in vocabulary]] = 1
    sizes = holds.sum(1)
    return 1 - 2 * (holds @ holds.T) / np.maximum(1, sizes[:, None] + sizes)
