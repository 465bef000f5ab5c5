"""Every metric by its name, taking answered items and giving a `Score`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anymal_lib.errors import DataError
from anymal_lib.metrics.answers import auc, choice, vqa_accuracy
from anymal_lib.metrics.captions import (
    bleu,
    cider_d_each,
    rouge_l,
    spice,
    spice_absence,
    spider,
)
from anymal_lib.metrics.facts import is_reference
from anymal_lib.metrics.intervals import Interval, bootstrap


@dataclass(frozen=True)
class Answered:
    """An item with what a model said of it.

    Attributes:
        said: the caption or answer.
        truth: the captions or answers of people; with options, the right ones.
        options: what there was to choose from, in order.
        likelihoods: log-likelihood of each option as the answer, in nats; empty where not computed.
    """

    said: str
    truth: tuple[str, ...]
    options: tuple[str, ...] = ()
    likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """A metric's value on a set, in the metric's own scale (see `anymal_lib.metrics`).

    Attributes:
        value: None where the metric cannot be computed.
        absent: why not; None where it can.
        each: the score of each item, for `intervals.paired_bootstrap`; empty for a metric that
            only a whole set has (BLEU, AUC).
        interval: of the mean of `each`; None without them.
    """

    value: float | None
    absent: str | None = None
    each: tuple[float, ...] = ()
    interval: Interval | None = None


def score(metric: str, items: Sequence[Answered], *, seed: int = 0) -> Score:
    """A metric of `METRICS` on answered items, its interval drawn with `seed`."""
    return METRICS[metric](items, seed)


def _mean(each: np.ndarray, seed: int) -> Score:
    return Score(float(each.mean()), None, tuple(each.tolist()), bootstrap(each, seed))


def _of_captions(
    scores: Callable[[list[str], list[tuple[str, ...]]], np.ndarray],
) -> Callable[[Sequence[Answered], int], Score]:
    return lambda items, seed: _mean(
        scores([item.said for item in items], [item.truth for item in items]), seed
    )


def _of_answers(each: Callable[[Answered], float]) -> Callable[[Sequence[Answered], int], Score]:
    return lambda items, seed: _mean(np.array([float(each(item)) for item in items]), seed)


def _cider_d(items: Sequence[Answered], seed: int) -> Score:
    if len(items) < 2:
        return Score(None, "CIDEr-D needs a set of two items or more")
    return _of_captions(cider_d_each)(items, seed)


def _of_spice(
    scores: Callable[..., np.ndarray | None],
) -> Callable[[Sequence[Answered], int], Score]:
    def scored(items: Sequence[Answered], seed: int) -> Score:
        absent = spice_absence()
        return Score(None, absent) if absent else _of_captions(scores)(items, seed)

    return scored


def _bleu_4(items: Sequence[Answered], seed: int) -> Score:
    return Score(bleu([item.said for item in items], [item.truth for item in items])[3])


def _chosen(item: Answered) -> bool:
    found = choice(item.said, item.options)
    return found is not None and item.options[found] in item.truth


def _likeliest(item: Answered) -> bool:
    return item.options[int(np.argmax(item.likelihoods))] in item.truth


def _auc(items: Sequence[Answered], seed: int) -> Score:
    """Of yes against no, as the paper scores Hateful Memes (Table 4)."""
    for item in items:
        if set(item.options) != {"yes", "no"}:
            raise DataError(
                "AUC of yes against no",
                expected='the options "yes" and "no"',
                got=str(item.options)[:80],
                do="Give every row these two options, or score choice_accuracy instead.",
            )
    told = [dict(zip(item.options, item.likelihoods, strict=True)) for item in items]
    value = auc([found["yes"] - found["no"] for found in told], ["yes" in i.truth for i in items])
    return Score(value, None if value is not None else "AUC needs items of both kinds")


METRICS: dict[str, Callable[[Sequence[Answered], int], Score]] = {
    "cider_d": _cider_d,
    "rouge_l": _of_captions(rouge_l),
    "bleu_4": _bleu_4,
    "spice": _of_spice(spice),
    "spider": _of_spice(spider),
    "exact_match": _of_answers(lambda item: is_reference(item.said, item.truth)),
    "vqa_accuracy": _of_answers(lambda item: vqa_accuracy(item.said, item.truth)),
    "choice_accuracy": _of_answers(_chosen),
    "likelihood_accuracy": _of_answers(_likeliest),
    "auc": _auc,
}
NEED_LIKELIHOODS = frozenset({"likelihood_accuracy", "auc"})
