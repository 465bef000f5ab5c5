"""Retrieved texts in AnyMAL's prompt: the LLM reads what the item's embedding found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anymal_lib.errors import InputError
from anymal_lib.modalities import modality_of
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render
from anymal_lib.retrieval.corpus import Corpus, Neighbour


@dataclass(frozen=True)
class Answer:
    """What the model said, and the entries whose texts it had before it, nearest first."""

    text: str
    read: tuple[Neighbour, ...]


def generate_with_retrieval(
    model: AnyMAL,
    corpus: Corpus,
    prompts: Sequence[Sequence[Any]],
    k: int = 1,
    *,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Answer prompts greedily, with the k texts nearest to each of their items before the question.

    A prompt is a list of texts and items, for example `[Image(path), " What is it called?"]`.
    Ask after the item: a model that was aligned on captions describes what its prompt ends with
    and leaves the texts unread. Raises `InputError` for a prompt without an item, `ConfigError`
    for an encoder that is not aligned to text, `AssetError` for one aligned to another text tower
    than the corpus's.
    """
    items = [[part for part in parts if not isinstance(part, str)] for parts in prompts]
    if not all(items):
        raise InputError(
            "prompt",
            expected="at least one item, whose embedding finds the texts",
            got="text alone",
            do="Put the item in, for example Image(path), or call model.generate.",
        )
    flat = [item for found in items for item in found]
    sensed = model.sense(flat)
    for modality in sorted({modality_of(item) for item in flat}):
        corpus.require(model.encoders[modality])
    nearest = iter(corpus.nearest(torch.stack([pooled for _, pooled in sensed]), k))
    # Of texts that several items find, the first mention is enough.
    read = [tuple(_distinct(n for _ in found for n in next(nearest))) for found in items]
    rendered = [
        render(
            model.llm, with_texts(parts, [n.entry.text for n in found]), system=model.profile.system
        )
        for parts, found in zip(prompts, read, strict=True)
    ]
    tokens = [span for span, _ in sensed]
    said = model.respond(rendered, tokens, max_new_tokens=max_new_tokens)
    return [Answer(text, found) for text, found in zip(said, read, strict=True)]


def with_texts(parts: Sequence[Any], texts: Sequence[str]) -> list[Any]:
    """A prompt with texts before its question, which is the last of its own texts.

    Without a question they come last.
    """
    places = [k for k, part in enumerate(parts) if isinstance(part, str) and part.strip()]
    last = places[-1] if places else len(parts)
    question = [part.strip() for part in parts[last : last + 1]]
    return [*parts[:last], " " + " ".join([*texts, *question]), *parts[last + 1 :]]


def _distinct(neighbours: Iterable[Neighbour]) -> list[Neighbour]:
    return list({neighbour.entry: neighbour for neighbour in neighbours}.values())
