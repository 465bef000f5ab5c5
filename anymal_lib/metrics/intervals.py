"""How sure a mean is: bootstrap intervals (Efron and Tibshirani, 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anymal_lib.errors import DataError

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(scores: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean of per-item scores with a 95 % percentile interval over resampled items."""
    values = np.asarray(scores, dtype=float)
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    low, high = np.quantile(counts @ values / n, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def paired_bootstrap(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, seed: int = 0
) -> Interval:
    """Mean of `first` minus `second` on the same items, with a 95 % interval.

    An item is drawn with both of its scores, so what makes it hard for both does not count as
    doubt. The two differ where the interval leaves out 0.

    Raises:
        DataError: scores of different numbers of items.
    """
    if len(first) != len(second):
        raise DataError(
            "scores to compare",
            expected="one pair of scores for each item",
            got=f"{len(first)} and {len(second)} scores",
            do="Evaluate both on the same items, in the same order.",
        )
    return bootstrap(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), seed)
