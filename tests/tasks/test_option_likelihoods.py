"""Log-likelihoods of options: transformers' own, whatever stands beside them."""

from dataclasses import replace

import numpy as np
import pytest

from anymal_lib.inputs import Image
from anymal_lib.prompt import render
from anymal_lib.tasks.likelihoods import option_likelihoods

OPTIONS = [("yes", "no"), ("a red square", "blue", "nothing at all"), ("A", "B"), ("left",)]


@pytest.fixture(scope="module")
def model(new_model):
    return new_model(32)


@pytest.fixture(scope="module")
def asked(model):
    """Prompts with an item, with two, with none and with one in the system message; its tokens."""
    random = np.random.default_rng(0)
    pictures = [Image(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(4)]
    item = object()
    prompts = [
        render(model.llm, ["Is it? ", item]),
        render(model.llm, ["What are ", item, " and ", item, "?"]),
        render(model.llm, ["Who are you?"]),
        render(model.llm, ["Where?"], system=["Look at it. ", item]),
    ]
    return prompts, model.encode(pictures)


def test_they_are_transformers_own(model, asked, own_loss):
    prompts, tokens = asked
    found = option_likelihoods(model, prompts, tokens, OPTIONS)
    assert [len(values) for values in found] == [2, 3, 2, 1]
    spans = iter(tokens)
    for prompt, options, values in zip(prompts, OPTIONS, found, strict=True):
        own = [next(spans) for _ in range(prompt.items)]
        for option, value in zip(options, values, strict=True):
            response = (*model.llm.tokenize(option), model.llm.end_of_turn)
            loss = own_loss(model.llm, replace(prompt, response=response), own)
            assert value == pytest.approx(-loss.item() * len(response), rel=1e-4) and value < 0


def test_neighbours_change_nothing(new_model, model, asked):
    prompts, tokens = asked
    found = option_likelihoods(model, prompts, tokens, OPTIONS)
    flat = [value for values in found for value in values]
    small = new_model(32, eval_batch=2)
    again = option_likelihoods(small, prompts, tokens, OPTIONS)
    assert [v for values in again for v in values] == pytest.approx(flat, rel=1e-4)
    alone = option_likelihoods(model, prompts[:1], tokens[:1], [OPTIONS[0][::-1]])
    assert alone[0] == pytest.approx(found[0][::-1], rel=1e-4)
    other = option_likelihoods(model, prompts[:1], tokens[1:2], OPTIONS[:1])
    assert other[0] != pytest.approx(found[0], rel=1e-3), "the item matters"
