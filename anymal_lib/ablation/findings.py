"""What each change does to the loss, over seeds, and whether it is what the paper found.

A change is the difference of two settings' runs with the same seed: they start alike and see the
same items in the same order, so what one seed makes easy cancels out. Its interval is Student's,
90 % over the seeds: that one end of it lies on one side of a bound is shown at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from anymal_lib.ablation.grid import FACTORS, SAME, Same
from anymal_lib.ablation.results import Results
from anymal_lib.metrics.intervals import Interval

# What cannot be seen by eye in a figure of the loss, as the paper's "little changed" was: a
# twentieth of its height, the loss that training takes off (ours).
_UNSEEN = 0.05
NOT_CLEAR = "not clear from these seeds"


@dataclass(frozen=True)
class Change:
    """What more of one factor does: the larger value's runs minus the smaller value's.

    `same` is what the two have in common, steps or samples. Losses in nats per token: on held-out
    captions after training, and in training over the last tenth of the steps.
    """

    factor: str
    smaller: int
    larger: int
    same: Same
    held_out_loss: Interval
    training_loss: Interval
    exact_match: Interval

    def is_little(self, margin: float) -> bool:
        """Whether the held-out loss is shown to change by less than `margin` either way."""
        return -margin < self.held_out_loss.low and self.held_out_loss.high < margin

    def verdict(self, margin: float) -> str:
        """What the held-out loss does, in words."""
        direction = "lower" if self.held_out_loss.high < 0 else ""
        direction = "higher" if self.held_out_loss.low > 0 else direction
        if self.is_little(margin):
            return f"little changed, {direction}" if direction else "little changed"
        return direction or NOT_CLEAR


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean with Student's 90 % interval; of one value it is without bounds."""
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(t.ppf(0.95, n - 1) * np.std(values, ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half)


def change(results: Results, factor: str, smaller: int, larger: int, same: Same) -> Change:
    """The change from a smaller to a larger value of a factor, paired by seed."""
    pairs = list(
        zip(
            results.runs[results.grid.at(factor, smaller, same)],
            results.runs[results.grid.at(factor, larger, same)],
            strict=True,
        )
    )

    def over(name: str) -> Interval:
        return over_seeds([getattr(b, name) - getattr(a, name) for a, b in pairs])

    return Change(
        factor, smaller, larger, same, over("held_out_loss"), over("final_loss"),
        over("exact_match"),
    )  # fmt: skip


def changes(results: Results) -> list[Change]:
    """The base against every other value of each factor; of the batch, both ways to compare."""
    grid = results.grid
    return [
        change(results, factor, *sorted((getattr(grid.base, factor), value)), same)
        for factor in FACTORS
        for same in SAME[: 2 if factor == "batch" else 1]
        for value in grid.values[factor]
        if value != getattr(grid.base, factor)
    ]


def margin(results: Results) -> float:
    """The largest change of the loss that counts as little, in nats.

    A twentieth of what training takes off the base's loss, from its first step to its last tenth.
    """
    return _UNSEEN * float(np.mean([run.losses[0] - run.final_loss for run in results.base]))


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings of Figure 4, and whether these runs show it.

    `holds` is None where nothing can be said: one seed, or one value of the factor. `rests_on` are
    the changes that decide.
    """

    name: str
    factor: str
    holds: bool | None
    rests_on: tuple[Change, ...]


def findings(results: Results) -> list[Finding]:
    """The paper's four findings, each decided by the held-out loss.

    More layers, and a larger LLM, lower the loss: the interval of the change to the largest value
    lies below 0. It is from the base (2 layers, as in the paper), or from the smallest value where
    the base is the largest (the LLM).

    Tokens, and the batch, are minor: the interval of every change between the base and another
    value lies within `margin` of 0. Batches are compared at equal samples, which is equal work: the
    paper's axis is time.

    "Does not hold" means that these seeds do not show it. It may be refuted or merely unclear;
    `Change.verdict` says which.
    """
    return [
        _lowers(results, "more_layers_lower_loss", "layers"),
        _is_minor(results, "tokens_minor", "tokens"),
        _is_minor(results, "batch_minor", "batch"),
        _lowers(results, "larger_llm_lower_loss", "llm_layers"),
    ]


def _lowers(results: Results, name: str, factor: str) -> Finding:
    largest = max(results.grid.values[factor])
    own = [c for c in changes(results) if c.factor == factor and c.larger == largest][:1]
    return _decided(results, name, factor, own, all(c.held_out_loss.high < 0 for c in own))


def _is_minor(results: Results, name: str, factor: str) -> Finding:
    own = [c for c in changes(results) if c.factor == factor and c.same == "samples"]
    little = margin(results)
    return _decided(results, name, factor, own, all(c.is_little(little) for c in own))


def _decided(
    results: Results, name: str, factor: str, rests_on: Sequence[Change], holds: bool
) -> Finding:
    known = len(results.base) > 1 and bool(rests_on)
    return Finding(name, factor, holds if known else None, tuple(rests_on))
