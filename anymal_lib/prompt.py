"""From a prompt of text and items to the LLM's input embeddings.

A prompt is a list of texts and modality items in any order. It goes through the LLM's own chat
template, `[<instruction> <modality_tokens>]` as in the paper (section 3.2); the items' places are
then filled with modality tokens.

Shape letters: b batch, t positions, q modality tokens of an item, w width of the LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anymal_lib.errors import InputError
from anymal_lib.llm import FrozenLLM

# A character that no template strips and no text may contain: it keeps an item's place.
_PLACE = "\x00"


@dataclass(frozen=True)
class Prompt:
    """Token ids of a rendered prompt around its items: pieces[0] item pieces[1] item ..."""

    pieces: tuple[tuple[int, ...], ...]
    response: tuple[int, ...] = ()

    @property
    def items(self) -> int:
        """How many modality items the prompt holds."""
        return len(self.pieces) - 1


@dataclass(frozen=True)
class Spliced:
    """Input embeddings of a batch.

    embeddings (b, t, w); mask (b, t) True where a position is real, None without padding;
    rows and targets (k,): flat positions whose next token is a response token, and that token.
    """

    embeddings: Tensor
    mask: Tensor | None
    rows: Tensor
    targets: Tensor


def render(
    llm: FrozenLLM, parts: Sequence[Any], *, system: str = "", response: str | None = None
) -> Prompt:
    """Render texts and items through the chat template; items keep their order.

    Raises `InputError` for an empty prompt or one with a NUL character.
    """
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and not "".join(texts).strip():
        raise InputError(
            "prompt",
            expected="some text or at least one modality item",
            got="an empty prompt",
            do="Put a question or an item, for example Image(path), into the list.",
        )
    if any(_PLACE in text for text in texts):
        raise InputError(
            "prompt",
            expected="text without NUL characters",
            got="a NUL character",
            do="Remove the control character from the text.",
        )
    content = "".join(part if isinstance(part, str) else _PLACE for part in parts)
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    rendered = _render_chat(llm, messages)
    pieces = tuple(llm.tokenize(piece) if piece else () for piece in rendered.split(_PLACE))
    target = () if response is None else (*llm.tokenize(response), llm.end_of_turn)
    return Prompt(pieces, target)


def _render_chat(llm: FrozenLLM, messages: list[dict[str, str]]) -> str:
    if llm.tokenizer.chat_template is None:  # a base model: plain text
        return "\n".join(message["content"] for message in messages) + "\n"
    return llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def split_prefix(prompt: Prompt) -> tuple[tuple[int, ...], Prompt]:
    """The text before the first item, and the prompt without it.

    A prompt of text alone keeps its last token: the state there predicts the answer.
    """
    first = prompt.pieces[0]
    cut = len(first) if prompt.items else len(first) - 1
    return first[:cut], replace(prompt, pieces=(first[cut:], *prompt.pieces[1:]))


def splice(
    llm: FrozenLLM, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor], *, pad_left: bool
) -> Spliced:
    """Embed prompts and put the modality tokens into their places.

    `modality_tokens` holds one (q, w) tensor per item, in the order of the batch's items; the
    gradient flows through it. Responses, where given, follow their prompts; their last token is
    predicted and never read.
    """
    spans = iter(modality_tokens)
    ids, is_item, starts = [], [], []
    for prompt in prompts:
        row_ids, row_item = list(prompt.pieces[0]), [False] * len(prompt.pieces[0])
        for piece in prompt.pieces[1:]:
            count = len(next(spans))
            row_ids += [0] * count + list(piece)
            row_item += [True] * count + [False] * len(piece)
        read = prompt.response[:-1]
        starts.append(len(row_ids))
        ids.append(row_ids + list(read))
        is_item.append(row_item + [False] * len(read))
    lengths = [len(row) for row in ids]
    longest = max(lengths)
    embeddings = llm.embed(_pad(ids, 0, pad_left).to(llm.device))  # (b, t, w)
    if modality_tokens:
        flat = torch.cat([tokens.to(embeddings.dtype) for tokens in modality_tokens])
        places = _pad(is_item, False, pad_left).to(llm.device)
        embeddings = embeddings.masked_scatter(places[..., None], flat)
    mask = None
    if min(lengths) != longest:
        real = [[True] * length for length in lengths]
        mask = _pad(real, False, pad_left).to(llm.device)
    first = [
        k * longest + start - 1 + (longest - lengths[k] if pad_left else 0)
        for k, start in enumerate(starts)
    ]
    # The state one position before a token predicts it.
    rows = [
        at + j
        for at, prompt in zip(first, prompts, strict=True)
        for j in range(len(prompt.response))
    ]
    targets = [token for prompt in prompts for token in prompt.response]
    return Spliced(embeddings, mask, _indices(rows, llm), _indices(targets, llm))


def _indices(values: list[int], llm: FrozenLLM) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=llm.device)


def _pad(rows: Sequence[Sequence[Any]], value: Any, left: bool) -> Tensor:
    longest = max(map(len, rows))
    if left:
        return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])
