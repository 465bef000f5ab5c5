"""Scores of captions: against the reference implementation's, by hand, and by definition."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.metrics import captions
from anymal_lib.metrics.captions import (
    bleu,
    cider_d,
    cider_d_each,
    rouge_l,
    spice,
    spice_absence,
    spider,
    tokens,
)

STORED = json.loads(Path(__file__).with_name("captions.json").read_text())
SAID = [item["caption"] for item in STORED["items"]]
PEOPLE = [item["references"] for item in STORED["items"]]
VALUES = STORED["pycocoevalcap"]


def test_the_stored_set_is_varied():
    assert len(SAID) == 40 and {len(texts) for texts in PEOPLE} == {1, 2, 3, 4, 5}
    sizes = [len(tokens(text).split()) for text in SAID]
    assert sizes.count(0) == 2 and sizes.count(1) == 1 and max(sizes) > 15


def test_tokens_are_those_of_cocos_java_tokenizer():
    for item in STORED["items"]:
        texts = [item["caption"], *item["references"]]
        assert [tokens(text) for text in texts] == item["tokens"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sure they've gone, she'll say", "i 'm sure they 've gone she 'll say"),
        ("the dogs' bowls aren’t 'full'", "the dogs bowls are n't full"),
        ("cannot, can't", "can not ca n't"),
        ('a 20th-century "car" - red/green', "a 20th-century car red/green"),
        ("50% off: $5.50 at 10:30 a.m.!", "50 % off $ 5.50 at 10:30 a.m."),
        ("red,blue;\tgreen\n(black)", "red blue green black"),
        ("", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected
    assert tokens(tokens(text)) == expected


def test_values_agree_with_the_reference_implementation_to_four_digits():
    assert cider_d(SAID, PEOPLE) == pytest.approx(VALUES["cider_d"], abs=5e-5)
    assert cider_d_each(SAID, PEOPLE).tolist() == pytest.approx(VALUES["cider_d_each"], abs=5e-5)
    assert rouge_l(SAID, PEOPLE).tolist() == pytest.approx(VALUES["rouge_l_each"], abs=5e-5)
    assert rouge_l(SAID, PEOPLE).mean() == pytest.approx(VALUES["rouge_l"], abs=5e-5)
    assert list(bleu(SAID, PEOPLE)) == pytest.approx(VALUES["bleu"], abs=5e-5)
    assert list(bleu(SAID, PEOPLE)) == pytest.approx(STORED["sacrebleu"], abs=5e-5)


def test_other_captions_have_other_values():
    turned = [*SAID[1:], SAID[0]]
    assert cider_d(turned, PEOPLE) < 0.1 * VALUES["cider_d"]
    assert rouge_l(turned, PEOPLE).mean() < 0.6 * VALUES["rouge_l"]
    assert bleu(turned, PEOPLE)[3] < 0.1 * VALUES["bleu"][3]


def common(first, second):
    """Length of the longest common subsequence of two texts' tokens, by its definition."""
    table = {}
    a, b = first.split(), second.split()
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if 0 in (i, j):
                table[i, j] = 0
            elif a[i - 1] == b[j - 1]:
                table[i, j] = table[i - 1, j - 1] + 1
            else:
                table[i, j] = max(table[i - 1, j], table[i, j - 1])
    return table[len(a), len(b)]


def test_rouge_l_equals_its_definition_on_the_stored_set():
    for item, value in zip(STORED["items"], rouge_l(SAID, PEOPLE), strict=True):
        said, *people = item["tokens"]
        p = max(common(said, text) for text in people) / max(1, len(said.split()))
        r = max(common(said, text) / len(text.split()) for text in people)
        expected = (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p else 0
        assert value == pytest.approx(expected)


def test_bleu_by_hand():
    # 3 of 4 words and 1 of 3 pairs; the closest reference has 4 words, so no penalty.
    one, two, three, four = bleu(
        ["the red dog runs"], [["a red dog sleeps in runs", "the dog ran on"]]
    )
    assert one == pytest.approx(4 / 4)
    assert two == pytest.approx(math.sqrt(4 / 4 * 1 / 3))
    assert three == pytest.approx(four, abs=1e-3) == pytest.approx(0, abs=1e-3)
    # One word of three: the penalty for length is exp(1 - 3 / 1).
    assert bleu(["red"], [["red dog runs"]])[0] == pytest.approx(math.exp(-2))


def test_without_java_spice_is_absent_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Java" in spice_absence()
    assert spice(SAID, PEOPLE) is None and spider(SAID, PEOPLE) is None


def test_without_its_models_spice_is_absent_and_fetches_nothing(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 0\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(captions, "_spice_folder", lambda: tmp_path)
    assert "stanford-corenlp" in spice_absence()
    assert spice(SAID, PEOPLE) is None and spider(SAID, PEOPLE) is None
    assert [path.name for path in tmp_path.iterdir()] == ["java"]


@pytest.mark.skipif(spice_absence() is not None, reason=str(spice_absence()))
def test_spider_is_the_mean_of_cider_d_and_spice():
    mean = (cider_d_each(SAID, PEOPLE) + spice(SAID, PEOPLE)) / 2
    assert spider(SAID, PEOPLE).tolist() == pytest.approx(mean.tolist())


def test_cider_d_needs_a_set_and_rewards_a_perfect_one_with_ten():
    assert cider_d(["a red circle here"], [["a red circle here"]]) is None
    captions = ["a red circle lies here", "one blue square stands there"]
    assert cider_d(captions, [[c] for c in captions]) == pytest.approx(10)
    assert cider_d(captions, [[c] for c in captions[::-1]]) == pytest.approx(0)
    assert cider_d(["A Red circle, lies here!", captions[1]], [[c] for c in captions]) == (
        pytest.approx(10)
    )


def cider_by_hand(captions, references):
    """CIDEr-D by its definition (arXiv 1411.5726): clipped tf-idf n-grams, length penalty."""

    def grams(text):
        tokens = text.split()
        return Counter(
            tuple(tokens[i : i + n]) for n in range(1, 5) for i in range(len(tokens) - n + 1)
        )

    frequency = Counter(g for refs in references for g in {g for r in refs for g in grams(r)})

    def vector(text, n):
        log = math.log(len(references))
        found = {g: c for g, c in grams(text).items() if len(g) == n}
        return {g: c * (log - math.log(max(1, frequency[g]))) for g, c in found.items()}

    scores = []
    for caption, refs in zip(captions, references, strict=True):
        total = 0.0
        for ref in refs:
            gap = len(caption.split()) - len(ref.split())
            penalty = math.exp(-(gap**2) / (2 * 6.0**2))
            for n in range(1, 5):
                a, b = vector(caption, n), vector(ref, n)
                dot = sum(min(a[g], b.get(g, 0)) * b.get(g, 0) for g in a)
                norm = math.hypot(*a.values(), 0) * math.hypot(*b.values(), 0)
                total += penalty * dot / norm / 4 if norm else 0
        scores.append(10 * total / len(refs))
    return sum(scores) / len(scores)


def test_cider_d_equals_its_definition():
    captions = ["a red circle on grey", "a blue square square", "green thing"]
    references = [
        ["a red circle on a grey field", "red circle"],
        ["a blue square"],
        ["a green thing on white", "the thing is green"],
    ]
    value = cider_d(captions, references)
    assert value == pytest.approx(cider_by_hand(captions, references), abs=1e-9)
    assert value == pytest.approx(3.933095, abs=1e-6)


def test_rouge_l_by_hand():
    # Longest common subsequence "red circle": precision 2/3, recall 2/4, beta 1.2.
    p, r, beta = 2 / 3, 2 / 4, 1.2
    expected = (1 + beta**2) * p * r / (r + beta**2 * p)
    got = rouge_l(["the red circle", "same words", "nothing"], [
        ["a red circle here"], ["Same words!", "other"], ["at all"],
    ])  # fmt: skip
    assert got.tolist() == pytest.approx([expected, 1, 0])
    assert expected == pytest.approx(0.557078, abs=1e-6)


sentences = st.lists(st.sampled_from(["a", "red", "blue", "square"]), min_size=1, max_size=6).map(
    " ".join
)


@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=2, max_size=5))
def test_scores_stay_in_their_range_and_equality_is_the_best(pairs):
    captions, references = [c for c, _ in pairs], [[r] for _, r in pairs]
    value, rouge = cider_d(captions, references), rouge_l(captions, references)
    assert 0 <= value <= 10 + 1e-9
    assert rouge.shape == (len(pairs),) and ((rouge >= 0) & (rouge <= 1 + 1e-9)).all()
    perfect = rouge_l(captions, [[c] for c in captions])
    assert perfect.tolist() == pytest.approx([1] * len(pairs))
