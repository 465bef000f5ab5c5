"""Captions of held-out items, and whether they rest on the input at all (see `controls`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anymal_lib.bank import Bank
from anymal_lib.contrastive import meaning
from anymal_lib.controls import CONTROLS, Probe
from anymal_lib.metrics.captions import cider_d, rouge_l
from anymal_lib.metrics.facts import facts_right, is_reference
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.model import AnyMAL


@dataclass(frozen=True)
class CaptionReport:
    """Scores of one modality on held-out items (fractions 0-1; CIDEr-D up to 10).

    `grounding_score` names what `grounding` counts: exact match where rows state facts, else
    ROUGE-L, because free captions hardly ever match word for word.
    """

    captions: list[str]
    right: list[bool]  # which captions state every fact (or, without facts, equal a reference)
    exact_match: Interval
    attributes: dict[str, float]
    cider_d: float | None
    rouge_l: float
    grounding: dict[str, Interval]
    grounding_score: str

    @property
    def attribute_accuracy(self) -> float | None:
        """Mean accuracy over the facts; None without facts."""
        if not self.attributes:
            return None
        return sum(self.attributes.values()) / len(self.attributes)


def evaluate_captions(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    fact_values: dict[str, list[str]],
    *,
    seed: int = 0,
    controls: tuple[str, ...] = CONTROLS,
) -> CaptionReport:
    """Caption every row of `bank` greedily, with its input and under each control."""
    bank.require_captions()
    probe = Probe(model, modality, bank, seed)
    said = {control: probe.captions(control) for control in dict.fromkeys(("clean", *controls))}
    clean = said["clean"]
    has_facts = _has_facts(bank)
    truth = [row.text for row in bank.rows]
    per_fact = [
        facts_right(caption, row.facts, fact_values)
        for caption, row in zip(clean, bank.rows, strict=True)
    ]
    exact = _exact(clean, bank, fact_values)
    return CaptionReport(
        captions=clean,
        right=[score == 1 for score in exact],
        exact_match=bootstrap(exact, seed),
        attributes={
            name: float(np.mean([facts[name] for facts in per_fact if name in facts]))
            for name in (sorted(fact_values) if has_facts else ())
        },
        cider_d=cider_d(clean, truth),
        rouge_l=float(rouge_l(clean, truth).mean()),
        grounding={
            control: bootstrap(item_scores(texts, bank, fact_values), seed)
            for control, texts in said.items()
        },
        grounding_score=score_name(bank),
    )


def score_name(bank: Bank) -> str:
    """What `item_scores` counts: exact match where rows state facts, else ROUGE-L."""
    return "exact_match" if _has_facts(bank) else "rouge_l"


def item_scores(
    texts: Sequence[str], bank: Bank, fact_values: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """The score of each row's caption (0-1): (rows,)."""
    if _has_facts(bank):
        return np.array(_exact(texts, bank, fact_values))
    return rouge_l(texts, [row.text for row in bank.rows])


def _has_facts(bank: Bank) -> bool:
    return all(row.facts for row in bank.rows)


def _exact(
    texts: Sequence[str], bank: Bank, fact_values: Mapping[str, Sequence[str]]
) -> list[float]:
    """1 where a caption has every fact right (or, without facts, equals a reference)."""
    return [
        float(
            all(facts_right(text, row.facts, fact_values).values())
            if row.facts
            else is_reference(text, row.text)
        )
        for text, row in zip(texts, bank.rows, strict=True)
    ]


def exact_captions(
    model: AnyMAL, modality: str, bank: Bank, fact_values: dict[str, list[str]]
) -> float:
    """The share of rows whose greedy caption has every fact right."""
    return float(np.mean(_exact(captions(model, modality, bank), bank, fact_values)))


def captions(
    model: AnyMAL, modality: str, bank: Bank, control: str = "clean", seed: int = 0
) -> list[str]:
    """Greedy captions of all rows under the first instruction, the input as `control` says."""
    return Probe(model, modality, bank, seed).captions(control)


def chance(bank: Bank) -> float:
    """The best score of one caption for all items, which needs no input.

    Counted like `CaptionReport.grounding`: the share of the most common meaning where rows state
    facts, else the best mean ROUGE-L among the five most common captions.
    """
    meanings = Counter(meaning(row) for row in bank.rows)
    if _has_facts(bank):
        return meanings.most_common(1)[0][1] / len(bank)
    truth = [row.text for row in bank.rows]
    common = [words[0] for words, _ in meanings.most_common(5)]
    return max(float(rouge_l([caption] * len(bank), truth).mean()) for caption in common)
