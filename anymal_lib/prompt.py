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

# Characters that no template strips: they keep an item's place, and that of an earlier answer.
_PLACE, _ANSWER = "\x00", "\x01"


@dataclass(frozen=True)
class Prompt:
    """Token ids of a rendered prompt around its items: pieces[0] item pieces[1] item ...

    `earlier` holds the answers of earlier turns as (piece, start, stop); they are learned like the
    response, except where they stand before the first item.
    """

    pieces: tuple[tuple[int, ...], ...]
    response: tuple[int, ...] = ()
    earlier: tuple[tuple[int, int, int], ...] = ()

    @property
    def items(self) -> int:
        """How many modality items the prompt holds."""
        return len(self.pieces) - 1

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        before = sum(stop - start for at, start, stop in self.earlier if at > 0)
        return len(self.response) + before


@dataclass(frozen=True)
class Dialogue:
    """A conversation to go on with: (what the user said, what was answered) turn by turn.

    What the user said is a list of texts and items; the last turn has no answer yet (None), or
    one that is to be learned.
    """

    turns: Sequence[tuple[Sequence[Any], str | None]]

    @property
    def items(self) -> list[Any]:
        """Everything that is no text, in order."""
        return [part for said, _ in self.turns for part in said if not isinstance(part, str)]


@dataclass(frozen=True)
class Spliced:
    """Input embeddings of a batch.

    embeddings (b, t, w); real (b, t), False where a row is filled up; rows and targets (k,): flat
    positions whose next token is a response token, and that token.
    """

    embeddings: Tensor
    real: Tensor
    rows: Tensor
    targets: Tensor

    @property
    def mask(self) -> Tensor | None:
        """`real`, where any position is not."""
        return None if self.real.all() else self.real


def render(
    llm: FrozenLLM,
    parts: Sequence[Any],
    *,
    system: str | Sequence[Any] = "",
    response: str | None = None,
) -> Prompt:
    """Render texts and items through the chat template; items keep their order.

    `system` may be a list of texts and items as well; its items come first. Raises `InputError`
    for an empty prompt or one with a reserved control character.
    """
    return render_dialogue(llm, Dialogue([(parts, response)]), system=system)


def render_dialogue(
    llm: FrozenLLM, dialogue: Dialogue, *, system: str | Sequence[Any] = ""
) -> Prompt:
    """Render a conversation through the chat template; `InputError` as `render`, and where there
    is no turn or an answer before the last is missing.
    """
    if not dialogue.turns:
        raise InputError(
            "dialogue",
            expected="at least one turn",
            got="none",
            do="Put in what the user says and None: Dialogue([(['What is it? ', item], None)]).",
        )
    *before, (last, response) = dialogue.turns
    told = [system] if isinstance(system, str) else system
    messages = [_message("system", told)] if system else []
    answers = []
    for parts, answer in before:
        if answer is None:
            raise InputError(
                "dialogue",
                expected="an answer in every turn but the last",
                got="a turn without one",
                do="Put the answer beside what the user said, or leave the turn out.",
            )
        messages += [_message("user", parts), {"role": "assistant", "content": _ANSWER}]
        answers.append(llm.tokenize(answer))
    rendered = _render_chat(llm, [*messages, _message("user", last)])
    pieces, earlier = _with_answers(llm, rendered, answers)
    target = () if response is None else (*llm.tokenize(response), llm.end_of_turn)
    return Prompt(pieces, target, earlier)


def open_dialogue(prompt: Sequence[Any] | Dialogue) -> Dialogue:
    """A prompt as the conversation whose last turn is to be answered.

    Raises:
        InputError: that turn has an answer.
    """
    dialogue = prompt if isinstance(prompt, Dialogue) else Dialogue([(prompt, None)])
    if dialogue.turns and dialogue.turns[-1][1] is not None:
        raise InputError(
            "dialogue",
            expected="a last turn without an answer (None), which is to be generated",
            got="one with an answer",
            do="Add what the user says next, or put None in the answer's place.",
        )
    return dialogue


def check_length(max_new_tokens: int) -> None:
    """Refuse an answer of no tokens with an InputError."""
    if max_new_tokens < 1:
        raise InputError(
            "max_new_tokens",
            expected="at least 1",
            got=str(max_new_tokens),
            do="Leave it out for the default.",
        )


def _message(role: str, parts: Sequence[Any]) -> dict[str, str]:
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and not "".join(texts).strip():
        raise InputError(
            "prompt",
            expected="some text or at least one modality item",
            got="an empty prompt",
            do="Put a question or an item, for example Image(path), into the list.",
        )
    if any(_PLACE in text or _ANSWER in text for text in texts):
        raise InputError(
            "prompt",
            expected="text without NUL and SOH characters",
            got="one of these control characters",
            do="Remove it from the text.",
        )
    content = "".join(part if isinstance(part, str) else _PLACE for part in parts)
    return {"role": role, "content": content}


def _with_answers(
    llm: FrozenLLM, rendered: str, answers: Sequence[tuple[int, ...]]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int, int], ...]]:
    """Token ids around the items with the answers in their places, and where these are.

    An answer ends with the end of the turn, which the template may write or not. Where it puts
    a space before, that is left out: an answer has none when it is learned and generated.
    """
    end = llm.tokenizer.decode([llm.end_of_turn])
    first, *following = rendered.split(_ANSWER)
    pieces = [_tokens(llm, text) for text in first.split(_PLACE)]
    earlier = []
    for answer, text in zip(answers, following, strict=True):
        if text.lstrip().startswith(end):
            text = text.lstrip()
        after, *others = [_tokens(llm, part) for part in text.split(_PLACE)]
        start = len(pieces[-1])
        closed = (*answer, *(() if after[:1] == (llm.end_of_turn,) else (llm.end_of_turn,)))
        pieces[-1] += (*closed, *after)
        earlier.append((len(pieces) - 1, start, start + len(answer) + 1))
        pieces += others
    return tuple(pieces), tuple(earlier)


def _tokens(llm: FrozenLLM, text: str) -> tuple[int, ...]:
    return llm.tokenize(text) if text else ()


def _render_chat(llm: FrozenLLM, messages: list[dict[str, str]]) -> str:
    if llm.tokenizer.chat_template is None:  # a base model: plain text
        return "\n".join(message["content"] for message in messages) + "\n"
    return llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@dataclass(frozen=True)
class Layout:
    """A prompt position by position: token ids (0 where an item is), and what each one is."""

    ids: list[int]
    is_item: list[bool]
    is_answer: list[bool]  # learned from the state before

    @classmethod
    def of(cls, prompt: Prompt, counts: Sequence[int]) -> Layout:
        """The layout of a prompt whose items have so many modality tokens each."""
        ids, is_item, is_answer = [], [], []
        for k, piece in enumerate(prompt.pieces):
            if k:
                ids += [0] * counts[k - 1]
                is_item += [True] * counts[k - 1]
                is_answer += [False] * counts[k - 1]
            learned = [False] * len(piece)
            for at, start, stop in prompt.earlier:
                if at == k > 0:  # before the first item an answer is context
                    learned[start:stop] = [True] * (stop - start)
            ids += piece
            is_item += [False] * len(piece)
            is_answer += learned
        more = len(prompt.response)
        return cls(ids + list(prompt.response), is_item + [False] * more, is_answer + [True] * more)

    def read(self) -> int:
        """How many positions are read: all but a response's last token, which is predicted."""
        return len(self.ids) - (self.is_answer[-1:] == [True])

    def learned(self) -> list[int]:
        """Positions of the tokens that are learned."""
        return [k for k, learned in enumerate(self.is_answer) if learned]


def split_prefix(prompt: Prompt) -> tuple[tuple[int, ...], Prompt]:
    """The text before the first item, and the prompt without it.

    A prompt of text alone keeps its last token: the state there predicts the answer.
    """
    first = prompt.pieces[0]
    cut = len(first) if prompt.items else len(first) - 1
    earlier = tuple(span for span in prompt.earlier if span[0] > 0)
    return first[:cut], replace(prompt, pieces=(first[cut:], *prompt.pieces[1:]), earlier=earlier)


def splice(
    llm: FrozenLLM, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor], *, pad_left: bool
) -> Spliced:
    """Embed prompts and put the modality tokens into their places.

    `modality_tokens` holds one (q, w) tensor per item, in the order of the batch's items; the
    gradient flows through it. Responses, where given, follow their prompts; their last token is
    predicted and never read.
    """
    layouts = layouts_of(prompts, modality_tokens)
    lengths = [layout.read() for layout in layouts]
    longest = max(lengths)
    ids = [layout.ids[:n] for layout, n in zip(layouts, lengths, strict=True)]
    is_item = [layout.is_item[:n] for layout, n in zip(layouts, lengths, strict=True)]
    places = pad_rows(is_item, False, left=pad_left).to(llm.device)
    embeddings = embedded(llm, pad_rows(ids, 0, left=pad_left), places, modality_tokens)
    real = pad_rows([[True] * length for length in lengths], False, left=pad_left).to(llm.device)
    rows, targets = [], []
    for k, (layout, length) in enumerate(zip(layouts, lengths, strict=True)):
        begin = k * longest + (longest - length if pad_left else 0)
        # The state one position before a token predicts it.
        rows += [begin + at - 1 for at in layout.learned()]
        targets += [layout.ids[at] for at in layout.learned()]
    return Spliced(embeddings, real, indices(rows, llm), indices(targets, llm))


def layouts_of(prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]) -> list[Layout]:
    """The layouts of a batch's prompts; modality tokens in the order of the batch's items."""
    counts = iter(map(len, modality_tokens))
    return [Layout.of(prompt, [next(counts) for _ in range(prompt.items)]) for prompt in prompts]


def embedded(
    llm: FrozenLLM, ids: Tensor, places: Tensor, modality_tokens: Sequence[Tensor]
) -> Tensor:
    """Token ids (b, t) as (b, t, w), with modality tokens where `places` (b, t) is True."""
    embeddings = llm.embed(ids.to(llm.device))
    if not modality_tokens:
        return embeddings
    flat = torch.cat([tokens.to(embeddings.dtype) for tokens in modality_tokens])
    return embeddings.masked_scatter(places[..., None], flat)


def indices(values: Sequence[int], llm: FrozenLLM) -> Tensor:
    """Whole numbers as a tensor where the LLM is."""
    return torch.tensor(values, dtype=torch.long, device=llm.device)


def pad_rows(rows: Sequence[Sequence[Any]], value: Any, *, left: bool = False) -> Tensor:
    """Rows of several lengths as one tensor, filled up with `value` on one side."""
    longest = max(map(len, rows))
    if left:
        return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])
