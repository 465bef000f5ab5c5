"""Does retrieval let a model say what alignment never taught it? Names that nobody has heard.

Everything that a data set shows (each coloured shape, exercise, instrument) gets an invented name,
which stands in a user's corpus and nowhere else. The model is asked what held-out items are called:
without the corpus, with what it retrieves of it, and with a text about something else as a control.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from string import Formatter

import numpy as np
from torch import Tensor

from anymal_lib.bank import Bank
from anymal_lib.contrastive import meaning
from anymal_lib.controls import modality_tokens
from anymal_lib.errors import DataError
from anymal_lib.llm import FrozenLLM
from anymal_lib.manifest import Manifest
from anymal_lib.metrics.facts import words
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render
from anymal_lib.retrieval.corpus import Corpus, Entry
from anymal_lib.retrieval.prompts import with_texts
from anymal_lib.rows import Row

QUESTION = " What is it called?"
CONDITIONS = ("off", "on", "wrong")
# What has a name in the profile's data, told by its facts.
THINGS = {
    "image": "a {colour} {shape}",
    "imu": "the {exercise} exercise",
    "audio": "a {instrument}",
    "video": "a {colour} {shape}",
}
_SOUNDS = (  # of a name, in order
    ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "tr"),
    "aeiou",
    "bdklmnrtv",
    "aeiou",
    "bdklmnprtx",
)
_TOKENS = (2, 3)  # of a name: words that the LLM knows have one, and a small LLM copies few
ANSWER_TOKENS = 20  # at most: a name comes early or not at all


def invented_names(llm: FrozenLLM, count: int, known: str, *, seed: int) -> list[str]:
    """Pronounceable names of two syllables and few tokens; none is a part of the text `known`.

    Raises `DataError` where there are not so many.
    """
    possible = ["".join(parts) for parts in product(*_SOUNDS)]
    random.Random(f"names {seed}").shuffle(possible)
    known = known.lower()
    short = (n for n in possible if len(llm.tokenize(f" {n.capitalize()}")) in _TOKENS)
    names = [n.capitalize() for n in islice((n for n in short if n not in known), count)]
    if len(names) < count:
        raise DataError(
            "invented names",
            expected=f"{count}, one for each thing that the captions tell apart",
            got=f"{len(names)}: there are no more that are short and new",
            do="Name fewer things, for example by a smaller LIMIT.",
        )
    return names


def named_things(
    llm: FrozenLLM, manifest: Manifest, *, seed: int
) -> tuple[list[Entry], dict[str, str]]:
    """An entry for everything that a manifest shows: an invented name, and a text that tells it.

    Returns the entries, and row id -> the name of what the row shows. The names are in none of the
    manifest's captions, questions and answers.
    """
    shown = descriptions(manifest)
    things = sorted(set(shown.values()))
    said = [t for row in manifest.rows for t in (*row.text, row.question or "", *row.answers)]
    found = invented_names(llm, len(things), "\n".join(dict.fromkeys(said)), seed=seed)
    names = dict(zip(things, found, strict=True))
    entries = [Entry(n, f"{t[0].upper()}{t[1:]} is called a {n}.") for t, n in names.items()]
    return entries, {row: names[thing] for row, thing in shown.items()}


def descriptions(manifest: Manifest) -> dict[str, str]:
    """Captioned row's id -> what it shows: by `THINGS` where rows state these facts, else its
    meaning.
    """
    pattern = THINGS.get(manifest.modality, "")
    wanted = {name for _, name, _, _ in Formatter().parse(pattern) if name}
    captioned = [row for row in manifest.rows if row.text]
    if wanted and all(wanted <= row.facts.keys() for row in captioned):
        return {row.id: pattern.format(**row.facts) for row in captioned}
    first = {meaning(row): row.text[0].rstrip(".") for row in reversed(captioned)}
    return {row.id: first[meaning(row)] for row in captioned}


@dataclass(frozen=True)
class Asked:
    """Held-out items that were asked about in one way: what was read, what was answered."""

    read: list[list[Entry]]
    answers: list[str]
    right: list[bool]
    score: Interval


@dataclass(frozen=True)
class NamingReport:
    """Names that a model gave to held-out items (scores are fractions 0-1).

    An answer is right where the first name of the corpus in it is the item's. `asked` has an entry
    for each of `CONDITIONS`. recall_at_1 and recall_at_k: is the item's text the nearest, or among
    those that were read? misled: answers to a wrong text that give its name.
    """

    rows: Sequence[Row]
    titles: list[str]  # the items' true names
    asked: dict[str, Asked]
    recall_at_1: float
    recall_at_k: float
    misled: float
    corpus: int  # how many texts it has
    k: int


def ask_names(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    corpus: Corpus,
    titles: Mapping[str, str],
    *,
    k: int = 1,
    seed: int = 0,
) -> NamingReport:
    """Ask what every item of a bank is called; `titles` (row id -> name) serves the scores alone.

    Raises `DataError` for a corpus of one text, which has no wrong one, and what `Corpus.require`
    and `Corpus.nearest` raise.
    """
    if len(corpus) < 2:
        raise DataError("corpus", expected="two texts at least", got="one", do="Add another text.")
    corpus.require(model.encoders[modality])
    truth = [titles[row.id] for row in bank.rows]
    nearest = corpus.nearest(bank.embeddings(model.encoders[modality]), k)
    found = [[neighbour.entry for neighbour in near] for near in nearest]
    draw = random.Random(f"wrong texts {seed}")
    wrong = [[draw.choice([e for e in corpus.entries if e.title != title])] for title in truth]
    tokens = list(modality_tokens(model, modality, bank))
    read = {"off": [[] for _ in truth], "on": found, "wrong": wrong}
    asked = {
        condition: _asked(model, tokens, read[condition], truth, corpus, seed)
        for condition in CONDITIONS
    }
    repeated = [
        first_title(text, corpus) == entries[0].title
        for text, entries in zip(asked["wrong"].answers, wrong, strict=True)
    ]
    return NamingReport(
        bank.rows,
        truth,
        asked,
        _share(t == near[0].title for t, near in zip(truth, found, strict=True)),
        _share(t in {e.title for e in near} for t, near in zip(truth, found, strict=True)),
        _share(repeated),
        len(corpus),
        k,
    )


def _asked(
    model: AnyMAL,
    tokens: Sequence[Tensor],
    read: list[list[Entry]],
    truth: Sequence[str],
    corpus: Corpus,
    seed: int,
) -> Asked:
    """Ask about items by their tokens (q, w), with what is to be read of each."""
    item = object()  # the item's place; its tokens are there already
    parts = [with_texts([item, QUESTION], [e.text for e in entries]) for entries in read]
    prompts = [render(model.llm, p, system=model.profile.system) for p in parts]
    answers = model.respond(prompts, tokens, max_new_tokens=ANSWER_TOKENS)
    right = [first_title(text, corpus) == t for text, t in zip(answers, truth, strict=True)]
    return Asked(read, answers, right, bootstrap(right, seed))


def first_title(answer: str, corpus: Corpus) -> str | None:
    """The title of the corpus that an answer names first; None without any."""
    said = f" {words(answer)} "
    places = {said.find(f" {words(e.title)} "): e.title for e in corpus.entries}
    places.pop(-1, None)
    return places[min(places)] if places else None


def _share(found: Iterable[bool]) -> float:
    return float(np.mean(list(found)))
