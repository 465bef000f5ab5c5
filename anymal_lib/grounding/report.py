"""Scores and likelihoods of held-out items under every condition, and the verdict on them.

The paper names weak grounding as a limit of AnyMAL: the model may follow its own text rather than
the input. Here every modality is held against what the model says without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anymal_lib.bank import Bank
from anymal_lib.contrastive import meaning
from anymal_lib.controls import CONDITIONS, Probe, senses
from anymal_lib.errors import DataError, GroundingError
from anymal_lib.evaluate import chance, item_scores, score_name
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.modalities import MODALITIES
from anymal_lib.model import AnyMAL
from anymal_lib.runs import plain

LEAST_ITEMS = 6  # fewer that all agree happen by chance more often than 2.5 %: 1 / 2^5
LEAST_GAIN = 0.01  # nats per token; rounding in bf16 is below, and nobody would notice less


@dataclass(frozen=True)
class Measure:
    """One measure of the same items under every condition.

    Attributes:
        name: "exact_match" or "rouge_l" (0-1), or "log_likelihood" (nats per token).
        of: condition -> mean over the items.
        above: control -> how far the items themselves stand above it, item by item.
        least: what counts as above.
    """

    name: str
    of: dict[str, Interval]
    above: dict[str, Interval]
    least: float

    @property
    def title(self) -> str:
        """The measure's name in words."""
        known = {"rouge_l": "ROUGE-L", "log_likelihood": "log-likelihood per token"}
        return known.get(self.name, self.name.replace("_", " "))

    @property
    def nearest(self) -> str:
        """The control that comes closest: the one with the lowest end of the interval."""
        return min(self.above, key=lambda control: self.above[control].low)

    def clears(self, control: str) -> bool:
        """Whether the items stand above a control by more than chance."""
        return self.above[control].low > self.least

    @property
    def reads(self) -> bool:
        """Whether the items stand above every control by more than chance."""
        return all(map(self.clears, self.above))


def measure(
    name: str, found: Mapping[str, Sequence[float] | np.ndarray], seed: int, least: float = 0.0
) -> Measure:
    """Means and paired differences with 95 % bootstrap intervals.

    `found` holds one value for each item, in the same order under each condition; "clean" is one.
    Resampled are the items, so that what makes an item hard cancels out of the differences.
    """
    clean = np.asarray(found["clean"], dtype=float)
    above = {c: bootstrap(clean - np.asarray(v), seed) for c, v in found.items() if c != "clean"}
    return Measure(name, {c: bootstrap(v, seed) for c, v in found.items()}, above, least)


@dataclass(frozen=True)
class Grounding:
    """Whether a model reads one modality, and the numbers that say so.

    `chance` is the score of the best single caption, which needs no item.
    """

    modality: str
    items: int
    score: Measure
    log_likelihood: Measure
    chance: float

    @property
    def grounded(self) -> bool:
        """Whether the model reads the modality.

        It does where the items stand above every control (blank, shuffled, wrong partner, removed)
        in the score and in the log-likelihood: the paired 95 % interval of each difference lies
        above 0, for the log-likelihood above `LEAST_GAIN`. All have to, so no correction for many
        comparisons is needed: a blind model passes all of them no more often than any one of them,
        about one time in forty. Shuffled and wrong partners are what a blind model cannot pass: its
        tokens are as usual there, only not the item's. Blank and removed show that the item does
        more than tokens that say nothing. The score alone may miss an unskilled model, the
        likelihood alone one that senses and does not speak of it. It says that the model reads, not
        how well.
        """
        return self.score.reads and self.log_likelihood.reads

    @property
    def verdict(self) -> str:
        """The answer in one sentence, with the control that comes closest in each measure."""
        verb = "reads" if self.grounded else "ignores"
        noun = MODALITIES[self.modality].noun or self.modality
        told = f"{self._told(self.score)}; {self._told(self.log_likelihood)}"
        return f"This model {verb} the {noun}: {told}."

    def _told(self, found: Measure) -> str:
        control, apart = found.nearest, found.above[found.nearest]
        chance = "" if found.reads else ", no more than chance"
        return (
            f"{found.title} {found.of['clean'].value:.2f} with the item itself and"
            f" {found.of[control].value:.2f} with {senses(control, self.modality)},"
            f" {apart.value:.2f} apart ({apart.low:.2f} to {apart.high:.2f}{chance})"
        )


def ground(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    fact_values: Mapping[str, Sequence[str]],
    *,
    said: Sequence[str] = (),
    seed: int = 0,
) -> Grounding:
    """Caption and score every row of `bank` under `CONDITIONS`.

    `said` are the model's greedy captions of these rows, where they are known. Raises `DataError`
    where the rows cannot show anything: fewer than `LEAST_ITEMS`, all of one meaning, or one
    without a caption.
    """
    bank.require_captions()
    meanings = len({meaning(row) for row in bank.rows})
    if len(bank) < LEAST_ITEMS or meanings < 2:
        raise DataError(
            f"grounding report of {modality}",
            expected=f"at least {LEAST_ITEMS} held-out items that do not all say the same",
            got=f"{len(bank)} with {meanings} different meanings",
            do="Give more held-out items, for example by a larger LIMIT.",
        )
    probe = Probe(model, modality, bank, seed, said=said)
    scores = {c: item_scores(probe.captions(c), bank, fact_values) for c in CONDITIONS}
    likelihoods = {c: probe.log_likelihoods(c) for c in CONDITIONS}
    return Grounding(
        modality,
        len(bank),
        measure(score_name(bank), scores, seed),
        measure("log_likelihood", likelihoods, seed, LEAST_GAIN),
        chance(bank),
    )


def require_grounded(reports: Mapping[str, Grounding]) -> None:
    """Raise `GroundingError` naming every modality that the model ignores, or that there is none.

    `reports` are by modality; notebook 07 ends with this.
    """
    ignored = [report for report in reports.values() if not report.grounded]
    if reports and not ignored:
        return
    names = ", ".join(report.modality for report in ignored) or "the model"
    raise GroundingError(
        f"grounding of {names}",
        expected="captions and likelihoods above every control by more than chance",
        got=" ".join(report.verdict for report in ignored).rstrip(".") or "no modality at all",
        do="Look at the control that comes closest, train the adapter for more steps, and check "
        "the encoder's retrieval in the notebook that aligns it.",
    )


def grounding_metrics(reports: Mapping[str, Grounding]) -> dict[str, Any]:
    """The `grounding_report` of metrics.json, by modality."""
    return plain(
        {
            "grounding_report": {
                modality: {
                    "grounded": report.grounded,
                    "verdict": report.verdict,
                    "items": report.items,
                    "score_name": report.score.name,
                    "score": report.score.of,
                    "log_likelihood": report.log_likelihood.of,
                    "differences": {
                        "score": report.score.above,
                        "log_likelihood": report.log_likelihood.above,
                    },
                    "chance": report.chance,
                }
                for modality, report in reports.items()
            }
        }
    )
