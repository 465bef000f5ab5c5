"""Randomness as a function of (seed, purpose, step): a resumed run draws what it would have drawn.

Nothing here keeps state, so a checkpoint needs no sampler position.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def generator_for(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@lru_cache(maxsize=4)
def _permutation(seed: int, count: int, epoch: int) -> tuple[int, ...]:
    generator = generator_for(seed, f"order of {count}", epoch)
    return tuple(torch.randperm(count, generator=generator).tolist())


def epoch_order(seed: int, count: int, position: int) -> int:
    """Which of `count` items is the `position`-th drawn: every item once an epoch, shuffled."""
    return _permutation(seed, count, position // count)[position % count]
