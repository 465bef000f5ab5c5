"""Questions about single items: those that a manifest holds, and those that its facts allow."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from anymal_lib.instruct.examples import Example, Item, ask
from anymal_lib.instruct.verdicts import denies
from anymal_lib.manifest import Manifest
from anymal_lib.rows import Row, refusal

# Phrasings that ask for a fact's value, and phrasings that ask whether it is {value}.
Phrasings = tuple[tuple[str, ...], tuple[str, ...]]

# Modality -> fact -> phrasings. None needs an article before the value.
QUESTIONS: dict[str, dict[str, Phrasings]] = {
    "audio": {
        "instrument": (
            ("Which instrument plays these notes?", "What instrument do you hear?"),
            ("Is the {value} playing these notes?", "Do you hear the {value} playing?"),
        ),
        "notes": (
            ("How many notes are played here?", "How many notes do you hear?"),
            ("Are there {value} notes in the sound?", "Do you hear {value} notes played?"),
        ),
        "direction": (
            ("In which direction do the notes go?", "How does the pitch of the notes move?"),
            ("Are the notes {value} in the sound?", "Is the pitch of the notes {value}?"),
        ),
        "tempo": (
            ("What is the tempo of the notes?", "At what tempo are the notes played?"),
            ("Is the tempo of the notes {value}?", "Are the notes at a {value} tempo?"),
        ),
        "register": (
            ("What is the register of the notes?", "In which register are the notes?"),
            ("Is the register of the notes {value}?", "Are the notes in the {value} register?"),
        ),
    },
    "imu": {
        "exercise": (
            ("Which exercise is the person doing?", "What exercise is this motion?"),
            ("Is the person doing the {value} exercise?", "Is this motion the {value} exercise?"),
        ),
        "arm": (
            ("Which arm does the exercise?", "With which arm is the exercise done?"),
            ("Is it the {value} arm that moves?", "Is the exercise done with the {value} arm?"),
        ),
    },
    "video": {
        "colour": (
            ("What colour is the moving shape?", "Which colour does the moving shape have?"),
            ("Is the moving shape {value}?", "Does the video show something {value}?"),
        ),
        "shape": (
            ("Which shape moves in the video?", "What is the shape that moves?"),
            ("Does the video show any {value}?", "Is there any {value} in the video?"),
        ),
        "direction": (
            ("In which direction does the shape move?", "Which way does the shape go?"),
            ("Does the shape move {value} in the video?", "Is the shape going {value} here?"),
        ),
    },
}
_GENERIC: Phrasings = (("What is the {fact}?",), ("Is the {fact} {value}?",))

_NUMBER = re.compile(r"\d+([.,]\d+)*")


def written(manifest: Manifest, split: str) -> tuple[list[Example], list[Row]]:
    """The questions of a manifest's split, and the items that they are about.

    Args:
        manifest: with a question and answers in its rows; a row with captions only is left out.
        split: train, val or test.

    Returns:
        Examples in file order, with source "written", their kinds as `kind_of` tells, and of
        several answers the most frequent; and the first row of every medium, whose id its items
        have, in file order. Rows share a medium when path, start and end are the same.

    Raises:
        ManifestError: no such split, or rows in it of which none has a question.
    """
    rows = manifest.split(split)
    asked = [row for row in rows if row.question is not None and row.answers]
    if rows and not asked:
        do = 'Give its rows a "question" and "answers", or choose another manifest.'
        got = f"{len(rows)} rows without"
        raise refusal(manifest.card.path, f"questions in the {split} split", got, do)
    first: dict[tuple[str, float | None, float | None], Row] = {}
    examples = []
    for row in asked:
        shown = first.setdefault((str(row.path), row.start, row.end), row)
        answer = Counter(row.answers).most_common(1)[0][0]
        kind = kind_of(row.question, answer, row.facts)
        item = Item(row.modality, shown.id)
        examples.append(ask(row.question, item, answer=answer, kind=kind, source="written"))
    return examples, list(first.values())


def kind_of(question: str, answer: str, facts: Mapping[str, str] | None = None) -> str:
    """What is asked: "yes/no", "negated yes/no", a fact's name, "number" or "other".

    Args:
        question: negated where it says not or no.
        answer: names a fact where it equals that fact's value.
        facts: of the item that is asked about, as in its row.
    """
    said = answer.strip().lower()
    if said in ("yes", "no"):
        return "negated yes/no" if denies(question) else "yes/no"
    for fact, value in (facts or {}).items():
        if said == value.lower():
            return fact
    return "number" if _NUMBER.fullmatch(said) else "other"


def from_facts(
    rows: Sequence[Row],
    modality: str,
    templates: Mapping[str, Mapping[str, Phrasings]] = QUESTIONS,
    *,
    seed: int,
    fact_values: Mapping[str, Sequence[str]],
    both: bool = False,
) -> list[Example]:
    """Questions per row and fact: what its value is, and whether it is a value that is named.

    What a row is asked depends on nothing but the seed, its id and its facts. The value that is
    named is right or wrong with the same chance, and a wrong one is any other with the same
    chance, so that the question alone does not give the answer away.

    Args:
        rows: of one modality; a row without facts is asked nothing.
        modality: of the rows.
        templates: modality -> fact -> phrasings; other facts are asked in generic words.
        seed: of phrasings and of values that are named.
        fact_values: fact -> all its values, as `Manifest.fact_values`; a fact with one value has
            no yes/no question.
        both: ask about the right value and about a wrong one, and not about one of them.

    Returns:
        Examples with source "facts" and kind "<fact>" or "<fact> yes/no", rows in their order.
    """
    examples = []
    for row in rows:
        item = Item(modality, row.id)
        for fact, value in row.facts.items():
            draw = random.Random(f"{seed}/{row.id}/{fact}")
            whats, whethers = templates.get(modality, {}).get(fact, _GENERIC)
            question = draw.choice(whats).format(fact=fact)
            examples.append(ask(question, item, answer=value, kind=fact, source="facts"))
            others = [other for other in sorted(fact_values[fact]) if other != value]
            if not others:
                continue
            answered = [("yes", value), ("no", draw.choice(others))]
            for answer, named in answered if both else [draw.choice(answered)]:
                question = draw.choice(whethers).format(fact=fact, value=named)
                kind = f"{fact} yes/no"
                examples.append(ask(question, item, answer=answer, kind=kind, source="facts"))
    return examples
