"""Perplexity on plain text equals transformers' own loss."""

import math

import pytest
import torch

from anymal_lib.errors import InputError
from anymal_lib.instruct.perplexity import perplexity

TEXTS = [
    "A tree stood by the river for a hundred years.",
    "Rain fell.",
    "The mill has three wheels; two of them still turn, and the third is kept for show.",
]


def own_loss(llm, text):
    """Transformers' mean loss of a text, and how many tokens it is over."""
    ids = torch.tensor([llm.tokenizer(text, add_special_tokens=False).input_ids])
    with torch.no_grad():
        return llm.model(input_ids=ids, labels=ids).loss.item(), ids.shape[1] - 1


def test_it_is_exp_of_transformers_own_loss(tiny_llm):
    llm = tiny_llm(32)
    for text in TEXTS:
        assert perplexity(llm, [text]) == pytest.approx(math.exp(own_loss(llm, text)[0]), rel=1e-4)
    losses, counts = zip(*(own_loss(llm, text) for text in TEXTS), strict=True)
    mean = sum(map(math.prod, zip(losses, counts, strict=True))) / sum(counts)
    assert perplexity(llm, TEXTS) == pytest.approx(math.exp(mean), rel=1e-4)
    assert perplexity(llm, TEXTS[::-1]) == pytest.approx(perplexity(llm, TEXTS))


def test_texts_of_one_token_or_none_say_nothing(tiny_llm):
    llm = tiny_llm(32)
    assert len(llm.tokenize("the")) == 1
    assert perplexity(llm, ["", *TEXTS, "the"]) == perplexity(llm, TEXTS)


@pytest.mark.parametrize("texts", [[], [""], ["the", ""]])
def test_texts_without_two_tokens_are_refused(tiny_llm, texts):
    with pytest.raises(InputError, match=f"texts for the perplexity.*{len(texts)} shorter"):
        perplexity(tiny_llm(32), texts)
