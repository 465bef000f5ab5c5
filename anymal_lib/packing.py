"""Prompts of a batch packed into rows: equal beginnings are read once, and little is padded.

With LoRA the LLM learns, so the text before the first item is no constant any more. Prompts that
begin with the same text share it nevertheless: a row holds the text and then, as branches, what
follows in each prompt. A branch sees its text and itself, at the positions it would have alone.
While the LLM is frozen the text is a constant before all rows, and a row holds several branches so
that none is filled up to the longest.

Shape letters: r rows, t positions, w width of the LLM, k learned tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.llm import FrozenLLM, Prefix
from anymal_lib.prompt import Layout, Prompt, embedded, indices, layouts_of, split_prefix

_ROW = 152  # positions of a row: attention grows with their square
_ROW_ALONE = 72  # ... in which no text is read again, so that shorter ones cost nothing else
_GROUPS = range(64, _ROW + 1, 8)  # positions that a text and its branches may take together
_STEP = 8  # rows with texts are multiples of it, so that a step's tensors come in few sizes
_SAVED = 0.7  # share of the padded positions below which packing pays for reading the text again


@dataclass(frozen=True)
class Packed:
    """Input embeddings of a batch.

    embeddings (r, t, w); mask (r, 1, t, t), 0 where a position may look and the most negative
    number where not; positions (r, t); rows and targets (k,), prompt by prompt: flat positions
    whose next token is learned, and that token.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    rows: Tensor
    targets: Tensor


def pack(
    llm: FrozenLLM,
    prompts: Sequence[Prompt],
    modality_tokens: Sequence[Tensor],
    prefix: Prefix | None = None,
) -> Packed:
    """Embed prompts with shared beginnings; modality tokens in the order of all items.

    `prefix` was read before all of them; the mask is then (r, 1, t, p + t).
    """
    texts, rest = zip(*map(split_prefix, prompts), strict=True)
    layouts, before = layouts_of(rest, modality_tokens), 0 if prefix is None else len(prefix)
    rows = _filled(texts, layouts)
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
        _mask(rows, before, llm),
        torch.tensor([row.positions for row in rows]).to(llm.device) + before,
        indices([begins[k] + at - 1 for k, at in learned], llm),
        indices([layouts[k].ids[at] for k, at in learned], llm),
    )


def saves(prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]) -> bool:
    """Whether packed rows are much shorter than a batch that is filled up to its longest prompt.

    There the text before the first item is a constant that no backward pass enters; here it is not.
    """
    texts, rest = zip(*map(split_prefix, prompts), strict=True)
    layouts = layouts_of(rest, modality_tokens)
    packed = sum(group.length for group in _groups(texts, layouts, _ROW))
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


def _groups(
    texts: Sequence[tuple[int, ...]], layouts: Sequence[Layout], limit: int
) -> list[_Group]:
    """Prompts by their text, as many together as `limit` positions hold, but at least one.

    Without a text there is nothing to share: one by one.
    """
    groups: list[_Group] = []
    open_ones: dict[tuple[int, ...], _Group] = {}
    for k, text in enumerate(texts):
        more = layouts[k].read()
        group = open_ones.get(text)
        if group is None or not text or group.length + more > limit:
            group = open_ones[text] = _Group(text, [], len(text))
            groups.append(group)
        group.branches.append(k)
        group.length += more
    return groups


def _filled(texts: Sequence[tuple[int, ...]], layouts: Sequence[Layout]) -> list[_Row]:
    """Prompts in rows of equal length."""
    length, groups_of_rows = _best_fit(texts, layouts)
    rows = []
    for groups in groups_of_rows:
        rows.append(row := _Row())
        for group in groups:
            row.add(group, layouts)
    for row in rows if len(rows) > 1 else ():
        row.fill_up(length)
    return rows


def _best_fit(
    texts: Sequence[tuple[int, ...]], layouts: Sequence[Layout]
) -> tuple[int, list[list[_Group]]]:
    """Of all lengths that rows and groups may have, those that leave the least to read.

    Small groups fill rows better, large ones read fewer texts again. Returns the length of all
    rows, and the groups of each.
    """
    if any(texts):
        tried = (_fits(_groups(texts, layouts, limit), _ROW, _STEP) for limit in _GROUPS)
    else:  # a batch without texts is small, and its filling a larger share of it
        tried = iter([_fits(_groups(texts, layouts, _ROW_ALONE), _ROW_ALONE, 1)])
    return min((fit for fits in tried for fit in fits), key=lambda fit: fit[0] * len(fit[1]))


def _fits(
    groups: Sequence[_Group], longest: int, step: int
) -> Iterator[tuple[int, list[list[_Group]]]]:
    """Groups in rows of each possible length, the shortest first."""
    ordered = sorted(groups, key=lambda group: -group.length)
    shortest = -(-ordered[0].length // step) * step
    for length in range(shortest, max(longest, shortest) + 1, step):
        yield length, _first_fit(ordered, length)


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


def _mask(rows: Sequence[_Row], before: int, llm: FrozenLLM) -> Tensor:
    group = torch.tensor([row.group for row in rows]).to(llm.device)
    branch = torch.tensor([row.branch for row in rows]).to(llm.device)
    seen = group[:, :, None] == group[:, None]  # (r, t, t), who looks and at what
    seen &= (branch[:, :, None] == branch[:, None]) | (branch[:, None] == 0)
    seen = seen.tril()[:, None]
    nothing = torch.zeros(seen.shape, dtype=llm.dtype, device=llm.device)
    least = torch.finfo(llm.dtype).min
    return F.pad(nothing.masked_fill(~seen, least), (before, 0))  # all see what comes before
