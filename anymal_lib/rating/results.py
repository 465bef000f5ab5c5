"""What raters have said: rates of wins, points, and how far raters agree.

Intervals are bootstrapped over items; several raters of an item are averaged first, since they
rate the same thing. People and rules are never counted together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.rating.journal import SUFFIX, Rating, is_rule, read
from anymal_lib.rating.questions import PREFERENCE, Question
from anymal_lib.rating.study import Study, load_study


@dataclass(frozen=True)
class Preference:
    """How often a system's answer was preferred to another's (fractions 0-1, sum 1)."""

    system: str
    against: str
    raters: str
    items: int
    win: Interval
    tie: Interval
    lose: Interval


@dataclass(frozen=True)
class Points:
    """A system's mean points for one question, as a fraction of the most there are."""

    system: str
    question: str
    raters: str
    items: int
    share: Interval


@dataclass(frozen=True)
class Agreement:
    """Two raters on what both have rated.

    `same` is the share of equal answers. `kappa` is Cohen's: 0 is what chance gives, 1 perfect;
    points are weighted by their squared distance. None where both said one and the same thing
    throughout, so that there is nothing to agree on.
    """

    question: str
    raters: tuple[str, str]
    shared: int
    same: float
    kappa: float | None

    @property
    def of_people(self) -> bool:
        """Is neither of the two a rule?"""
        return not any(map(is_rule, self.raters))


@dataclass(frozen=True)
class Results:
    """A study and what its raters say in the end; `ratings` hold no answer that was changed."""

    study: Study
    ratings: tuple[Rating, ...]

    @property
    def by_raters(self) -> dict[str, list[Rating]]:
        """Ratings of all people together, and of each rule: who rated, in words -> ratings."""
        people = sorted({r.rater for r in self.ratings if not is_rule(r.rater)})
        crowd = "1 person" if len(people) == 1 else f"{len(people)} people"
        groups: dict[str, list[Rating]] = {crowd: []} if people else {}
        for rating in sorted(self.ratings, key=lambda r: (is_rule(r.rater), r.rater)):
            name = rating.rater if is_rule(rating.rater) else crowd
            groups.setdefault(name, []).append(rating)
        return groups

    def preferences(self, seed: int = 0) -> list[Preference]:
        """Every pairing of the study, by people and by each rule; empty for the rubric."""
        pairs = [systems for systems in self.study.shown if len(systems) == 2]
        found = (
            preference(ratings, system, against, raters, seed)
            for raters, ratings in self.by_raters.items()
            for system, against in pairs
        )
        return [one for one in found if one]

    def points(self, seed: int = 0) -> list[Points]:
        """Every system and question of the rubric; empty for a study of pairs."""
        systems = [shown[0] for shown in self.study.shown if len(shown) == 1]
        found = []
        for raters, ratings in self.by_raters.items():
            for system in systems:
                for question in self.study.questions:
                    scores = _scores(ratings, system, question)
                    if len(scores):
                        share = bootstrap(scores, seed)
                        found.append(Points(system, question.name, raters, len(scores), share))
        return found

    def agreement(self) -> list[Agreement]:
        """Every two raters, rules among them, question by question."""
        raters = sorted({r.rater for r in self.ratings}, key=lambda name: (is_rule(name), name))
        found = []
        for question in self.study.questions:
            said: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
            for rating in self.ratings:
                if rating.question == question.name:
                    said[rating.rater][rating.task.key] = _level(rating)
            for first, second in combinations([name for name in raters if name in said], 2):
                shared = sorted(said[first].keys() & said[second].keys())
                if shared:
                    both = [[said[name][key] for key in shared] for name in (first, second)]
                    found.append(_agreement(question, (first, second), *both))
        return found

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Everything for metrics.json: who rated, rates, points, agreement."""
        return {
            "rated_by": {raters: len(ratings) for raters, ratings in self.by_raters.items()},
            "preferences": self.preferences(seed),
            "points": self.points(seed),
            "agreement": self.agreement(),
        }


def load_results(folder: str | Path) -> Results:
    """Read what all raters of a study's folder have said.

    Raises:
        DataError: the study or a rater's file is damaged; a copy of a rater's file is one, too.
    """
    folder = Path(folder)
    study = load_study(folder)
    final: dict[tuple[Any, ...], Rating] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        rater = unquote(path.name.removesuffix(SUFFIX))
        for rating in read(path, study, rater):
            final[rater, *rating.place] = rating
    return Results(study, tuple(final.values()))


def preference(
    ratings: Sequence[Rating], system: str, against: str, raters: str, seed: int = 0
) -> Preference | None:
    """Wins, ties and losses of one system against another, whichever side each was shown on.

    None where nobody compared the two.
    """
    outcomes: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for rating in ratings:
        if sorted(rating.task.shown) == sorted((system, against)):
            won = rating.winner
            outcomes[rating.task.item].append((won == system, won is None, won == against))
    if not outcomes:
        return None
    means = np.array([np.mean(outcomes[item], axis=0) for item in sorted(outcomes)])  # (items, 3)
    win, tie, lose = (bootstrap(column, seed) for column in means.T)
    return Preference(system, against, raters, len(means), win, tie, lose)


def _scores(ratings: Sequence[Rating], system: str, question: Question) -> np.ndarray:
    """A system's mean points of each item over its raters, of the most there are: (items,)."""
    points: dict[str, list[int]] = defaultdict(list)
    for rating in ratings:
        if rating.task.shown == (system,) and rating.question == question.name:
            points[rating.task.item].append(int(rating.value))
    return np.array([np.mean(points[item]) / question.most for item in sorted(points)])


def _level(rating: Rating) -> int:
    """Points, or which system won: the same number for all raters, whatever side it was on."""
    if rating.question != PREFERENCE.name:
        return int(rating.value)
    if rating.winner is None:
        return 0
    return 1 if rating.winner == min(rating.task.shown) else -1


def _agreement(
    question: Question, raters: tuple[str, str], first: list[int], second: list[int]
) -> Agreement:
    return Agreement(
        question.name,
        raters,
        len(first),
        float(np.mean(np.equal(first, second))),
        kappa(first, second, weighted=question is not PREFERENCE),
    )


def kappa(first: Sequence[int], second: Sequence[int], *, weighted: bool) -> float | None:
    """Cohen's kappa of two raters, with squared distances as weights where asked."""
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) == 1:
        return None
    return float(cohen_kappa_score(first, second, weights="quadratic" if weighted else None))


def mean_kappa(found: Sequence[Agreement], question: str) -> float | None:
    """Light's kappa: the mean of Cohen's over all pairs of people; None without any."""
    kappas = [a.kappa for a in found if a.question == question and a.of_people]
    known = [value for value in kappas if value is not None]
    return float(np.mean(known)) if known else None
