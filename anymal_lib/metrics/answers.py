"""Scores of answers: VQA accuracy, which option an answer names, and AUC.

No maintained package of a reasonable size has VQA accuracy, so its published rules
(visualqa.org/evaluation, and the script there) are written out here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from anymal_lib.metrics.facts import words

_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
# Apostrophe and colon stay ("girl's", "2:50"); signs that are not in the script's list stay too.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The script's contractions. Those with a capital I are left out: it looks words up in lower case.
_CONTRACTIONS = re.findall(
    r"\S+",
    """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
""",
)


def _without_one_apostrophe(text: str) -> list[str]:
    return [text[:k] + text[k + 1 :] for k, sign in enumerate(text) if sign == "'"]


_RESTORED = {short: full for full in _CONTRACTIONS for short in _without_one_apostrophe(full)}


def vqa_words(answer: str) -> str:
    """An answer as VQA compares it (visualqa.org/evaluation).

    Lower case; punctuation out, as a blank or as nothing; periods out but in decimals; number
    words up to ten as digits and "none" as 0; no articles; apostrophes of contractions put back
    where one is missing.
    """
    found = re.sub(r"\s", " ", answer).strip()
    thousands = _THOUSANDS.search(found) is not None
    text = found
    for sign in _PUNCTUATION:
        # Beside a blank, or in an answer with 1,000, a sign leaves no blank behind.
        joins = thousands or f"{sign} " in found or f" {sign}" in found
        text = text.replace(sign, "" if joins else " ")
    text = _PERIOD.sub("", text).lower()
    kept = [_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(_RESTORED.get(word, word) for word in kept)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """VQA accuracy of one answer, 0-1 (arXiv 1505.00468 and visualqa.org/evaluation).

    Each person in turn is left out; the answer then scores min(matches / 3, 1) against the others,
    and the mean counts. So 1, 2, 3 and 4 of ten people who agree make 0.3, 0.6, 0.9 and 1.
    With fewer than four answers three others do not exist: all others that there are have to
    agree for a 1. With a single answer the score is whether it is that one.

    The published script leaves the people's answers as they are where all ten are equal letter by
    letter; here they are normalised all the same, as its page says.
    """
    said, truth = vqa_words(answer), [vqa_words(person) for person in people]
    if len(truth) == 1:
        return float(said == truth[0])
    needed = min(3, len(truth) - 1)
    matches = sum(said == person for person in truth)
    left = [matches - (said == person) for person in truth]
    return sum(min(1.0, count / needed) for count in left) / len(left)


def choice(answer: str, options: Sequence[str]) -> int | None:
    """Which option an answer names, by position; None when it names none or several.

    An option is named by its letter ("B", "(b)", "B.", "Answer: B", A being the first) or by its
    words, with or without an article, whatever the case and the punctuation. Letter and words may
    stand together where they agree. Words inside those of a longer option do not count.
    """
    named: set[int] = set()
    rest = answer
    for k in sorted(range(len(options)), key=lambda k: len(options[k]), reverse=True):
        rest, count = _phrase(options[k]).subn("|", rest)
        if count:
            named.add(k)
    named |= {ascii_uppercase.index(letter) for letter in _letters(rest)}
    (found,) = named if len(named) == 1 else (None,)
    return found if found is not None and found < len(options) else None


def _phrase(option: str) -> re.Pattern[str]:
    """An option's words, between other words, after an article or not."""
    parts = [re.escape(word) for word in words(option).split()]
    while len(parts) > 1 and parts[0] in _ARTICLES:
        parts.pop(0)
    text = r"[^\w']+".join(parts) or re.escape(option.strip())
    return re.compile(rf"(?<![\w'])(?:(?:a|an|the)\s+)?{text}(?![\w'])", re.IGNORECASE)


# A small letter counts in brackets, before a mark at the beginning, or alone; a large one
# everywhere, but the words A and I before a word.
_SMALL = re.compile(r"\(([a-z])\)|^\W*([a-z])(?=[.):]|\W*$)")
_LARGE = re.compile(r"(?<![\w'])(?![AI]\s+(?!(?:or|and)\b)[a-z])([A-Z])(?![\w'])")


def _letters(text: str) -> set[str]:
    small = {letter.upper() for pair in _SMALL.findall(text) for letter in pair if letter}
    return small | set(_LARGE.findall(text))


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Area under the ROC curve, 0-1: how often a positive item scores above a negative one.

    Ties count half. scikit-learn's. None where all items are of one kind.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if len(set(labels)) == 2 else None
