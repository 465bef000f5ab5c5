"""Prompts of a batch packed into rows in which equal beginnings are read once.

With LoRA the LLM learns, so the text before the first item is no constant any more. Prompts that
begin with the same text share it nevertheless: a row holds the text and then, as branches, what
follows in each prompt. A branch sees its text and itself, at the positions it would have alone.

Shape letters: r rows, t positions, w width of the LLM, k learned tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anymal_lib.llm import FrozenLLM
from anymal_lib.prompt import Layout, Prompt, embedded, indices, layouts_of, split_prefix

_ROW = 152  # positions of a text and its branches together: attention grows with their square
_STEP = 8  # rows are a multiple of so many positions long, so that tensors come in few sizes
_SAVED = 0.7  # share of the padded positions below which packing pays for reading the text again


@dataclass(frozen=True)
class Packed:
    """Input embeddings of a batch.

    embeddings (r, t, w); mask (r, 1, t, t), 0 where a position may look and the most negative
    number where not; positions (r, t); real (r, t), False where a row is filled up; rows and
    targets (k,), prompt by prompt: flat positions whose next token is learned, and that token.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    real: Tensor
    rows: Tensor
    targets: Tensor


def pack(llm: FrozenLLM, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]) -> Packed:
    """Embed prompts with shared beginnings; modality tokens in the order of all items."""
    texts, rest = zip(*map(split_prefix, prompts), strict=True)
    layouts = layouts_of(rest, modality_tokens)
    rows = _filled(_groups(texts, layouts), layouts)
    length = len(rows[0].ids)
    begins = {k: r * length + at for r, row in enumerate(rows) for k, at in row.begins.items()}
    spans = iter(modality_tokens)
    own = [[next(spans) for _ in range(prompt.items)] for prompt in prompts]
    places = torch.tensor([row.is_item for row in rows]).to(llm.device)
    learned = [(k, at) for k, layout in enumerate(layouts) for at in layout.learned()]
    return Packed(
        embedded(
            llm,
            torch.tensor([row.ids for row in rows]),
            places,
            [span for row in rows for k in row.begins for span in own[k]],
        ),
        _mask(rows, llm),
        torch.tensor([row.positions for row in rows]).to(llm.device),
        torch.tensor([row.group for row in rows]).to(llm.device) >= 0,
        indices([begins[k] + at - 1 for k, at in learned], llm),
        indices([layouts[k].ids[at] for k, at in learned], llm),
    )


def saves(prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]) -> bool:
    """Whether packed rows are much shorter than a batch that is filled up to its longest prompt.

    There the text before the first item is a constant that no backward pass enters; here it is not.
    """
    texts, rest = zip(*map(split_prefix, prompts), strict=True)
    layouts = layouts_of(rest, modality_tokens)
    packed = sum(group.length for group in _groups(texts, layouts))
    return packed < _SAVED * len(layouts) * max(layout.read() for layout in layouts)


@dataclass
class _Group:
    """A text and some of the prompts that begin with it."""

    text: tuple[int, ...]
    branches: list[int]
    length: int  # positions of all


@dataclass
class _Row:
    """What a row holds, position by position; `begins` says where each prompt's branch does."""

    ids: list[int] = field(default_factory=list)
    is_item: list[bool] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)  # 0: the text itself
    begins: dict[int, int] = field(default_factory=dict)

    def add(self, group: _Group, layouts: Sequence[Layout]) -> None:
        """Append a text with its branches."""
        number = self.group[-1] + 1 if self.group else 0
        self._extend(list(group.text), [False] * len(group.text), 0, number, 0)
        for branch, k in enumerate(group.branches, start=1):
            self.begins[k] = len(self.ids)
            layout, length = layouts[k], layouts[k].read()
            ids, is_item = layout.ids[:length], layout.is_item[:length]
            self._extend(ids, is_item, len(group.text), number, branch)

    def fill_up(self, length: int) -> None:
        """Append positions that nothing looks at, up to `length`."""
        more = length - len(self.ids)
        self.ids += [0] * more
        self.is_item += [False] * more
        self.positions += [0] * more
        self.group += [-1] * more
        self.branch += [-1] * more

    def _extend(
        self, ids: list[int], is_item: list[bool], start: int, group: int, branch: int
    ) -> None:
        self.ids += ids
        self.is_item += is_item
        self.positions += range(start, start + len(ids))
        self.group += [group] * len(ids)
        self.branch += [branch] * len(ids)


def _groups(texts: Sequence[tuple[int, ...]], layouts: Sequence[Layout]) -> list[_Group]:
    """Prompts by their text, as many together as `_ROW` positions hold, but at least one."""
    groups: list[_Group] = []
    open_ones: dict[tuple[int, ...], _Group] = {}
    for k, text in enumerate(texts):
        more = layouts[k].read()
        group = open_ones.get(text)
        if group is None or group.length + more > _ROW:
            group = open_ones[text] = _Group(text, [], len(text))
            groups.append(group)
        group.branches.append(k)
        group.length += more
    return groups


def _filled(groups: Sequence[_Group], layouts: Sequence[Layout]) -> list[_Row]:
    """Each group in the first row that it fits into, all rows equally long.

    Of the lengths that rows can have, the one that leaves the least to read, filled up or not. It
    is a multiple of `_STEP`: with tensors of few sizes, memory that one step frees is what the next
    one asks for.
    """
    ordered = sorted(groups, key=lambda group: -group.length)
    shortest = -(-ordered[0].length // _STEP) * _STEP
    tried = {
        length: _first_fit(ordered, length)
        for length in range(shortest, max(_ROW, shortest) + 1, _STEP)
    }
    length = min(tried, key=lambda length: len(tried[length]) * length)  # the shortest of equals
    rows = []
    for held in tried[length]:
        rows.append(row := _Row())
        for group in held:
            row.add(group, layouts)
    for row in rows if len(rows) > 1 else ():
        row.fill_up(length)
    return rows


def _first_fit(groups: Sequence[_Group], length: int) -> list[list[_Group]]:
    """Each group in the first row with so much room left."""
    rows: list[list[_Group]] = []
    room: list[int] = []
    for group in groups:
        fits = (k for k, left in enumerate(room) if group.length <= left)
        if (k := next(fits, None)) is None:
            k = len(rows)
            rows.append([])
            room.append(length)
        rows[k].append(group)
        room[k] -= group.length
    return rows


def _mask(rows: Sequence[_Row], llm: FrozenLLM) -> Tensor:
    group = torch.tensor([row.group for row in rows]).to(llm.device)
    branch = torch.tensor([row.branch for row in rows]).to(llm.device)
    seen = group[:, :, None] == group[:, None]  # (r, t, t), who looks and at what
    seen &= (branch[:, :, None] == branch[:, None]) | (branch[:, None] == 0)
    seen = seen.tril()[:, None]
    nothing = torch.zeros(seen.shape, dtype=llm.dtype, device=llm.device)
    return nothing.masked_fill(~seen, torch.finfo(llm.dtype).min)
