"""Requests in batches, on a tiny model: the same answers as one by one, and true likelihoods."""

import numpy as np
import PIL.Image
import pytest
import torch

from anymal_lib import Image
from anymal_lib.harness.answering import Request, batches, generate, losses, rendered
from anymal_lib.harness.settings import Generation
from anymal_lib.prompt import render

COLOURS = ("red", "lime", "blue", "white", "black")
PICTURES = [PIL.Image.new("RGB", (32, 32), colour) for colour in COLOURS]
SOUND = {"array": np.sin(np.arange(16_000) / 9), "sampling_rate": 16_000}
FILM = [PICTURES[0], PICTURES[2]]


@pytest.fixture(scope="module")
def model(new_model):
    return new_model()


@pytest.fixture
def requests():
    """One picture each, several items of several kinds, text alone."""
    asked = [Request("What is it?", lambda k=k: [PICTURES[k]], k) for k in range(len(PICTURES))]
    asked.append(Request("Is <image> as loud as <audio>?", lambda: [PICTURES[1], SOUND], "two"))
    asked.append(Request("What happens here?", lambda: [FILM, PICTURES[3], SOUND], "three"))
    return [*asked, Request("Say something.", list, "none")]


def test_places_are_batched_by_key_and_in_order():
    assert list(batches("abaab", 2)) == [[0, 2], [3], [1, 4]]
    assert list(batches([], 2)) == []


def test_answers_are_the_models_own_whatever_the_batch(model, requests):
    settings = [Generation(5), Generation(3)] * 4
    together = generate(model, requests, settings, batch=8)
    assert together == generate(model, requests, settings, batch=1)
    assert together[0] == model.generate(["What is it? ", Image(PICTURES[0])], max_new_tokens=5)
    assert together[-1] == model.generate("Say something.", max_new_tokens=3)
    assert len(set(together)) > 3


def test_answers_end_before_a_stop(model, requests):
    (whole,) = generate(model, requests[:1], [Generation(5)], batch=1)
    stop = whole[2:4]
    (cut,) = generate(model, requests[:1], [Generation(5, (stop,))], batch=1)
    assert cut == whole[: whole.find(stop)] != whole


def test_media_are_opened_and_encoded_once_a_document(model):
    opened = []

    def visuals():
        opened.append(1)
        return [PICTURES[0]]

    prompts, tokens = rendered(model, [Request(text, visuals, 0) for text in ("a", "b", "c")])
    assert len(opened) == 1 and len(prompts) == len(tokens) == 3
    assert torch.equal(tokens[0], tokens[2])


def test_losses_are_those_of_training(model, requests, own_loss):
    said = ["red", " a blue circle", "no", "yes", "x", "one two three", "left", "hello"]
    found = losses(model, requests, said, batch=8)
    for (loss, greedy), (own, same) in zip(
        found, losses(model, requests, said, batch=1), strict=True
    ):
        assert loss == pytest.approx(own, abs=1e-4) and greedy == same
    picture = Image(PICTURES[1])
    parts = ["What is it? ", picture]
    end = render(model.llm, parts, system=model.profile.system, response="a blue circle")
    prompt = type(end)(end.pieces, end.response[:-1])  # the end of the turn is not asked for
    expected = float(own_loss(model.llm, prompt, model.encode([picture])))
    assert found[1][0] == pytest.approx(expected, abs=1e-4)


def test_the_greedy_answer_is_known_for_greedy(model):
    asked = [Request(f"Tell me of {k}.", list, k) for k in range(40)]
    prompts, tokens = rendered(model, asked)
    best = model._greedy(prompts, tokens, 1)[:, 0].tolist()
    said = [model.llm.tokenizer.decode([token]) for token in best]
    # A token that begins with a blank, or is part of a letter, is another one as a text.
    same = [k for k in range(40) if model.llm.tokenize(said[k].lstrip()) == (best[k],)]
    assert same
    found = losses(model, [asked[k] for k in same], [said[k] for k in same], batch=8)
    other = losses(model, [asked[k] for k in same], ["xylophone"] * len(same), batch=8)
    assert all(greedy for _, greedy in found) and not any(greedy for _, greedy in other)
    assert all(a < b for (a, _), (b, _) in zip(found, other, strict=True))


def test_nothing_said_loses_nothing(model, requests):
    assert losses(model, requests[:1], [" "], batch=1) == [(0.0, True)]
