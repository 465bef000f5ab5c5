"""Requests answered in batches. Shape letters: k response tokens of a batch, v vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.harness.settings import Generation
from anymal_lib.harness.visuals import item_of, parts_of
from anymal_lib.model import AnyMAL
from anymal_lib.progress import track
from anymal_lib.prompt import Prompt, render, splice


@dataclass(frozen=True)
class Request:
    """A text and its media.

    Attributes:
        text: what is asked.
        visuals: opens the media when the request's turn comes.
        document: requests about one document share its media, which are encoded once a batch.
    """

    text: str
    visuals: Callable[[], Sequence[Any]]
    document: Hashable


def generate(
    model: AnyMAL,
    requests: Sequence[Request],
    generations: Sequence[Generation],
    *,
    batch: int,
) -> list[str]:
    """Greedy answers, in the order of the requests; an answer does not depend on the batch."""
    answers: dict[int, str] = {}
    turns, total = batches(generations, batch), len(requests)
    for places in track(turns, "answers", total=total, unit="requests", count=len):
        generation = generations[places[0]]
        prompts, tokens = rendered(model, [requests[k] for k in places])
        texts = model.respond(prompts, tokens, max_new_tokens=generation.max_new_tokens)
        answers.update(zip(places, map(generation.cut, texts), strict=True))
    return [answers[k] for k in range(len(requests))]


@torch.inference_mode()
def losses(
    model: AnyMAL, requests: Sequence[Request], continuations: Sequence[str], *, batch: int
) -> list[tuple[float, bool]]:
    """Mean negative log-likelihood of each continuation's tokens (nats), and whether it is greedy.

    A continuation begins the assistant's turn, so blanks before it are left out; one without a
    token has the loss 0.
    """
    found: list[tuple[float, bool]] = []
    everything = [None] * len(requests)
    turns, total = batches(everything, batch), len(requests)
    for places in track(turns, "likelihoods", total=total, unit="requests", count=len):
        prompts, tokens = rendered(model, [requests[k] for k in places])
        said = [model.llm.tokenize(continuations[k].lstrip()) for k in places]
        prompts = [replace(p, response=ids) for p, ids in zip(prompts, said, strict=True)]
        spliced = splice(model.llm, prompts, tokens, pad_left=False)
        states = model.llm.hidden(spliced.embeddings).flatten(0, 1)
        logits = model.llm.logits(states[spliced.rows])  # (k, v)
        loss = F.cross_entropy(logits, spliced.targets, reduction="none")
        best = logits.argmax(-1) == spliced.targets
        counts = list(map(len, said))
        for own, right in zip(loss.split(counts), best.split(counts), strict=True):
            found.append((float(own.sum()) / max(len(own), 1), bool(right.all())))
    return found


def batches(keys: Sequence[Hashable], size: int) -> Iterator[list[int]]:
    """Places of equal keys, at most `size` at a time, in order."""
    places: dict[Hashable, list[int]] = {}
    for k, key in enumerate(keys):
        places.setdefault(key, []).append(k)
    for same in places.values():
        yield from (same[start : start + size] for start in range(0, len(same), size))


def rendered(model: AnyMAL, requests: Sequence[Request]) -> tuple[list[Prompt], list[Tensor]]:
    """The requests' prompts, and the modality tokens (q, w) of all their items in order."""
    items: dict[Hashable, list[Any]] = {}
    for request in requests:
        if request.document not in items:
            items[request.document] = [item_of(visual) for visual in request.visuals()]
    encoded = iter(model.encode(list(chain.from_iterable(items.values()))))
    tokens = {document: [next(encoded) for _ in own] for document, own in items.items()}
    prompts = [
        render(model.llm, parts_of(r.text, items[r.document]), system=model.profile.system)
        for r in requests
    ]
    return prompts, [span for r in requests for span in tokens[r.document]]
