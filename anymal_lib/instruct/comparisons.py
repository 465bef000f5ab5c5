"""Is a word among others? A skill of yes/no questions that is learned from text alone (ours).

A small LLM cannot tell. What it learns here, with words in the place of modality tokens, holds for
modality tokens that are words (`anymal_lib.instruct.words`): no item is needed for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container

from anymal_lib.instruct.examples import Example, ask, text_item
from anymal_lib.instruct.questions import QUESTIONS
from anymal_lib.llm import FrozenLLM

SOURCE, NEGATED = "comparisons", "negated comparisons"
_FORMS = (  # beside the kit's own questions
    "Is it {value}?",
    "Is there {value} here?",
    "Does it show {value}?",
    "Is the {value} there?",
    "Can one find {value} in it?",
)
_NEGATED_FORMS = (
    "Is there no {value} here?",
    "Is there not {value}?",
    "Does it not show {value}?",
    "Is no {value} there?",
    "Is it not {value}?",
    "Is there not any {value} in it?",
    "Does it not contain {value}?",
    "Is no {value} to be found in it?",
)
_COMMON = 12_000  # tokens of a vocabulary that is in the order of frequency
_WORD = re.compile(r"[Ġ▁][a-z]{4,}")  # a word of one token: BPE, SentencePiece
_LENGTH = 8  # words of a list, as an item has tokens
_OTHERS = (2, 6)  # different words in it
_TOGETHER = 8  # lists under one question, half of them with its word


def comparisons(
    llm: FrozenLLM,
    *,
    count: int,
    seed: int,
    without: Container[str] = (),
    negated: bool = False,
) -> list[Example]:
    """Questions whether a word is in a list of words, answers balanced under each question.

    Args:
        llm: whose vocabulary the words are from.
        count: examples, rounded down to whole questions.
        seed: of words and questions; question k depends on nothing but the seed, k and the words.
        without: words that are left out, for example those of the facts that are asked later.
        negated: ask whether it is not in the list.

    Returns:
        Examples with source `SOURCE` and kind "comparison", or `NEGATED` and "negated comparison",
        the list in an item's place. None where the vocabulary has no words of one token.
    """
    vocabulary = llm.tokenizer.convert_ids_to_tokens(range(min(_COMMON, len(llm.tokenizer))))
    words = [t[1:] for t in vocabulary if _WORD.fullmatch(t or "") and t[1:] not in without]
    forms = [form for facts in QUESTIONS.values() for _, asked in facts.values() for form in asked]
    forms = _NEGATED_FORMS if negated else (*forms, *_FORMS)
    kind = "negated comparison" if negated else "comparison"
    examples = []
    for k in range(count // _TOGETHER if len(words) > _OTHERS[1] else 0):
        draw = random.Random(f"{seed}/{kind}/{k}")
        word, form = draw.choice(words), draw.choice(forms)
        for member in range(_TOGETHER):
            said = draw.sample(words, draw.randint(*_OTHERS))
            said = [other for other in said if other != word]
            if there := member % 2 == 1:
                said[draw.randrange(len(said))] = word
            listed = " ".join(said[j % len(said)] for j in range(_LENGTH))
            examples.append(
                ask(
                    form.format(value=word),
                    text_item(f" {listed}"),
                    answer="yes" if there != negated else "no",
                    kind=kind,
                    source=NEGATED if negated else SOURCE,
                )
            )
    return examples
