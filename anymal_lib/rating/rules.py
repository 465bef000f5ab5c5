"""A declared automatic rater: a program that compares answers with what is known of the items.

It stands in for nobody. Its name begins with "rule: " wherever its ratings are shown, and they are
never counted together with people's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from anymal_lib.instruct.answers import is_right
from anymal_lib.instruct.examples import Example
from anymal_lib.metrics.facts import facts_right
from anymal_lib.rating.journal import RULE
from anymal_lib.rating.questions import LEFT, PREFERENCE, RIGHT, RUBRIC, TIE
from anymal_lib.rating.session import Session
from anymal_lib.rows import Row

KNOWN_FACTS = f"{RULE}known facts"
ACCURACY, RECOGNITION = RUBRIC[0].name, RUBRIC[1].name

Known = Mapping[str, Callable[[str], float]]  # item's id -> the share of the truth in an answer


def known_of_rows(rows: Sequence[Row], fact_values: Mapping[str, Sequence[str]]) -> Known:
    """The facts of rows, for `items_of_rows`: the share of them that a caption names right."""
    return {
        f"{row.modality}/{row.id}": partial(_share, row.facts, fact_values)
        for row in rows
        if row.facts
    }


def known_of_examples(examples: Sequence[Example]) -> Known:
    """The answers of examples, for `items_of_examples`: 1 for the right one, else 0."""
    return {f"question/{k}": partial(is_right, example) for k, example in enumerate(examples)}


def _share(facts: Mapping[str, str], fact_values: Mapping[str, Sequence[str]], text: str) -> float:
    return float(np.mean(list(facts_right(text, facts, fact_values).values())))


def rate_by_facts(folder: str | Path, known: Known) -> Session:
    """Rate a study by the rule; items of which nothing is known stay open.

    Accuracy is 2 where everything is right; recognition 2 for all facts, 1 for some. Of two answers
    the one with more facts wins. Integrity is left to people. What the rule has said before is
    not written again.
    """
    session = Session(folder, KNOWN_FACTS)
    for position, task in enumerate(session.tasks):
        if task.item not in known:
            continue
        session.position = position
        shares = [known[task.item](text) for text in session.responses]
        said = session.said
        for question, value in _judged(shares).items():
            if said.get(question) != value:
                session.position = position
                session.rate(question, value)
    return session


def _judged(shares: Sequence[float]) -> dict[str, int | str]:
    first, last = shares[0], shares[-1]
    if len(shares) == 1:
        recognised = 2 if first == 1 else int(first > 0)
        return {ACCURACY: 2 if first == 1 else 0, RECOGNITION: recognised}
    return {PREFERENCE.name: TIE if first == last else LEFT if first > last else RIGHT}
