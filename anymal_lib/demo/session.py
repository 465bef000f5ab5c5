"""Ask a model about items, and find out how much its answer rests on each of them; no widgets.

Shape letters: q modality tokens of an item, w width of the LLM.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anymal_lib.controls import blank_tokens
from anymal_lib.errors import InputError
from anymal_lib.modalities import MODALITIES, modality_of
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt, render
from anymal_lib.streaming import stream_response

MAX_NEW_TOKENS = 48
NOISE = 0.05  # nats that a token of an answer may lose by any change of its prompt (ours)


@dataclass(frozen=True, eq=False)
class DemoItem:
    """An input that was handed over, already encoded.

    Attributes:
        name: as the user knows it, for example a file's name.
        raw: what it was made of, to show it.
        tokens: (q, w), what the LLM reads in its place.
        truth: what the data say about it; "" where nobody knows.
    """

    name: str
    modality: str
    raw: Any
    tokens: Tensor
    truth: str = ""

    @property
    def noun(self) -> str:
        """What it is in a sentence."""
        return MODALITIES[self.modality].noun or self.modality

    @property
    def label(self) -> str:
        """What it is and its name."""
        return f"{self.noun} {self.name}"


@dataclass(frozen=True)
class Weight:
    """How likely an answer is with an item, and without.

    Attributes:
        item: which one.
        of: "clean", "blank" (an empty input in its place) and "removed" (nothing there) -> the
            log-likelihood of the whole answer, in nats.
        tokens: of the answer, its end included.
    """

    item: DemoItem
    of: dict[str, float]
    tokens: int

    @property
    def lost(self) -> float:
        """Nats that the answer loses without the item, in the control that comes closest.

        A model that sees tokens but not what is in them loses nothing with blank ones.
        """
        return self.of["clean"] - max(self.of["blank"], self.of["removed"])

    @property
    def rests(self) -> float:
        """The share of its likelihood that the answer loses without the item, 0 to 1.

        Long answers lose some by any change of the prompt; `NOISE` is not counted.
        """
        return 1 - math.exp(-max(0.0, self.lost - NOISE * self.tokens))

    @property
    def reads(self) -> bool:
        """Does the answer rest on the item at all?"""
        return self.rests > 0


@dataclass(frozen=True)
class Answered:
    """A question that was asked, the answer, what it rests on, and how long it took in seconds."""

    question: str
    items: tuple[DemoItem, ...]
    answer: str
    weights: tuple[Weight, ...]
    first_word: float
    seconds: float


class Session:
    """A model that is asked about items. Each item is encoded once, when it is taken."""

    def __init__(self, model: AnyMAL, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self._blank: dict[str, Tensor] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model can sense."""
        return tuple(self.model.adapters)

    def take(self, name: str, raw: Any, truth: str = "") -> DemoItem:
        """Encode an input.

        Raises:
            InputError: it cannot be read, or the model does not have its modality.
        """
        (tokens,) = self.model.encode([raw])
        return DemoItem(name, str(modality_of(raw)), raw, tokens, truth)

    def stream(self, question: str, items: Sequence[DemoItem]) -> Iterator[str]:
        """The answer in pieces of text, as it is generated.

        Raises:
            InputError: no question.
        """
        prompt = self._prompt(question, items)
        spans = [item.tokens for item in items]
        return stream_response(self.model, prompt, spans, max_new_tokens=self.max_new_tokens)

    def weigh(self, question: str, items: Sequence[DemoItem], answer: str) -> list[Weight]:
        """How likely the answer is with all items, and with each of them blank or removed."""
        if not items:
            return []
        variants = [list(items)]
        spans = [[item.tokens for item in items]]
        for k, item in enumerate(items):
            variants += [list(items), [*items[:k], *items[k + 1 :]]]
            spans.append([*spans[0][:k], self._blank_of(item.modality), *spans[0][k + 1 :]])
            spans.append([*spans[0][:k], *spans[0][k + 1 :]])
        prompts = [self._prompt(question, variant, answer) for variant in variants]
        found = self.model.score(prompts, spans)
        clean, *others = (float(tokens.sum()) for tokens in found)
        controls = zip(others[::2], others[1::2], strict=True)
        return [
            Weight(item, {"clean": clean, "blank": blank, "removed": removed}, len(found[0]))
            for item, (blank, removed) in zip(items, controls, strict=True)
        ]

    def ask(self, question: str, items: Sequence[DemoItem]) -> Answered:
        """Answer and weigh, in one call."""
        started = time.perf_counter()
        pieces, first = [], None
        for piece in self.stream(question, items):
            first = first or time.perf_counter() - started
            pieces.append(piece)
        seconds = time.perf_counter() - started
        answer = "".join(pieces)
        weights = tuple(self.weigh(question, items, answer))
        return Answered(question, tuple(items), answer, weights, first or seconds, seconds)

    def _blank_of(self, modality: str) -> Tensor:
        if modality not in self._blank:
            self._blank[modality] = blank_tokens(self.model, modality)
        return self._blank[modality]

    def _prompt(
        self, question: str, items: Sequence[DemoItem], answer: str | None = None
    ) -> Prompt:
        """`[<question> <item> <item>]`, the order of training."""
        if not question.strip():
            raise InputError(
                "question",
                expected="a question or an instruction",
                got="none",
                do="Write what you want to know, for example: Describe the picture.",
            )
        parts: list[Any] = [question.strip()]
        for item in items:
            parts += [" ", item]
        system = self.model.profile.system
        return render(self.model.llm, parts, system=system, response=answer)
