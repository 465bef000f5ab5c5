"""Answers as they are generated: pieces of text that, joined, are what `generate` returns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anymal_lib.prompt import Prompt, check_length

if TYPE_CHECKING:
    from anymal_lib.llm import FrozenLLM
    from anymal_lib.model import AnyMAL

# What may still change: blanks that the end of the answer would cut off, and halves of characters,
# which a decoder shows as U+FFFD until their other bytes have come.
_UNCERTAIN = re.compile(r"[\s\ufffd]+\Z")


def stream_response(
    model: AnyMAL, prompt: Prompt, spans: Sequence[Tensor], *, max_new_tokens: int
) -> Iterator[str]:
    """The greedy response to a rendered prompt, piece by piece.

    `spans` are the modality tokens of its items, (q, w) each. Raises `InputError` at once where
    `max_new_tokens` is below 1.
    """
    check_length(max_new_tokens)
    return text_pieces(model.llm, _tokens(model, prompt, spans, max_new_tokens))


@torch.inference_mode()
def _tokens(
    model: AnyMAL, prompt: Prompt, spans: Sequence[Tensor], max_new_tokens: int
) -> Iterator[int]:
    for _, best in model.most_likely([prompt], spans, max_new_tokens):
        yield int(best)


def text_pieces(llm: FrozenLLM, ids: Iterable[int]) -> Iterator[str]:
    """Token ids -> text that is certain, as soon as it is; blanks at both ends are left out."""
    said: list[int] = []
    sent = 0  # characters
    for token in ids:
        said.append(token)
        certain = _UNCERTAIN.sub("", llm.text(said).lstrip())
        if len(certain) > sent:
            yield certain[sent:]
            sent = len(certain)
    whole = llm.text(said).strip()
    if len(whole) > sent:
        yield whole[sent:]
