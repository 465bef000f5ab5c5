"""Times that can be compared: steps alternate in one run, and ratios are taken pair by pair.

A machine's speed drifts by tens of percent while other programs come and go; two steps of one round
see the same machine. A step also pays for what the one before it left in caches and allocator: in
training that is a step like itself, so each is run untimed before it is timed, and the order within
a round is drawn anew.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


@dataclass(frozen=True)
class Times:
    """Seconds of every step, round by round."""

    seconds: Mapping[str, Sequence[float]]

    @property
    def first(self) -> str:
        """The step that was named first: what the others are compared with."""
        return next(iter(self.seconds))

    def of(self, name: str) -> Spread:
        """Seconds of one step."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Time of one step over another's, pair by pair."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return Spread.of([a / b for a, b in pairs])


def alternate(steps: Mapping[str, Step], rounds: int, before: Step | None = None) -> Times:
    """Time every step once a round, right after an untimed one of its own, or after `before`."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(steps), len(steps)):
            timed(before or steps[name])  # to its end: on a GPU it goes on after the call
            seconds[name].append(timed(steps[name]))
    return Times(seconds)


def timed(step: Step) -> float:
    """Seconds of one call, the GPU's work included."""
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
