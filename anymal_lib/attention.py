"""An attention function of ours around the model's own: texts as constants, padding taken out.

Rows of a batch differ in length. Every layer but attention looks at one position at a time, so it
can read the real ones alone, one after another as a single long row; attention sees them in rows
again, filled up to the longest.

Shape letters: r rows, l positions of a row, t real positions of all rows, h heads, d their width,
p positions of a text before the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAME = "anymal"


@dataclass(frozen=True)
class Rows:
    """Where real positions are in rows that are filled up to equal length.

    real (r, l): False for padding. places (t,): of the real positions, in order, where all rows are
    one. source (r, l): its inverse; padding has some real position's.
    """

    real: Tensor
    places: Tensor
    source: Tensor

    @classmethod
    def of(cls, real: Tensor) -> Rows:
        """Rows from (r, l), True where a position is real."""
        flat = real.flatten()
        source = (flat.long().cumsum(0) - 1).clamp_min(0)
        return cls(real, flat.nonzero()[:, 0], source.view_as(real))

    def take(self, rows: Tensor) -> Tensor:
        """The real positions: (r, l, n) -> (t, n). What padding holds gets no gradient."""
        return _Taken.apply(rows.flatten(0, 1), self.places, self.source, self.real)

    def fill(self, positions: Tensor) -> Tensor:
        """Rows of them: (t, n) -> (r, l, n). Padding repeats a position that gets no gradient."""
        filled = _Filled.apply(positions, self.places, self.source)
        return filled.unflatten(0, self.source.shape)


class _Taken(torch.autograd.Function):
    """Taking by an index whose inverse is known: its gradient is taken as well, not added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, source: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(source, real)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        source, real = ctx.saved_tensors
        taken = gradient.index_select(0, source.flatten())
        return taken * real.flatten()[:, None], None, None, None


class _Filled(torch.autograd.Function):
    """The inverse. Attention looks at no padding, so that only real positions have a gradient."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, places: Tensor, source: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return positions.index_select(0, source.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


@contextmanager
def own_attention(model: nn.Module) -> Iterator[None]:
    """Within, the model's attention understands two things more, and is else as it was.

    `rows` (`Rows`): queries, keys and values are one row of real positions; the mask is that of
    the filled rows, (1 or r, 1, l, p + l). `prefix`: keys and values (1 or r, h, p, d) of a text
    that every row begins with, or those of all layers in order.
    """
    own = model.config._attn_implementation
    if own == NAME:
        yield
        return
    _register(own, model.base_model.layers[0])
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def takes_own_attention(model: nn.Module) -> bool:
    """Whether the model asks transformers' table of attention functions, as most do."""
    return model._can_set_attn_implementation()


def _register(own: str, layer: nn.Module) -> None:
    """Make an attention of the model's own kind that reads rows and prefixes known by `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager = sys.modules[type(layer.self_attn).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        rows: Rows | None = None,
        prefix: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if rows is not None:
            query, key, value = (_in_rows(part, rows) for part in (query, key, value))
        if prefix is not None:
            before = prefix if isinstance(prefix[0], Tensor) else prefix[module.layer_idx]
            key, value = (
                torch.cat([said.expand(len(part), -1, -1, -1), part], 2)
                for said, part in zip(before, (key, value), strict=True)
            )
        output, weights = attend(module, query, key, value, attention_mask, **kwargs)
        if rows is not None:  # (r, l, h, d) -> (1, t, h * d)
            output = rows.take(output.flatten(2))[None]
        return output, weights

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[own])


def _in_rows(flat: Tensor, rows: Rows) -> Tensor:
    """(1, h, t, d) -> (r, h, l, d)."""
    heads, width = flat.shape[1], flat.shape[3]
    filled = rows.fill(flat[0].transpose(0, 1).flatten(1))  # (r, l, h * d)
    return filled.unflatten(2, (heads, width)).transpose(1, 2)
