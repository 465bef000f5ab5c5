"""The LLM's own words: the real small LLM thinks of requests and replies to them."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.config import MINI
from anymal_lib.instruct import rehearsal
from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.instruct.finetune import finetune
from anymal_lib.instruct.media import prompt_of
from anymal_lib.llm import load_llm
from anymal_lib.lora import add_lora
from anymal_lib.model import AnyMAL

ITEMS = [Item("image", "a"), Item("imu", "b")]


@pytest.fixture(scope="module")
def model():
    """The mini profile's LLM alone: it writes, nothing is sensed."""
    return AnyMAL(load_llm(MINI.llm), MINI)


@pytest.fixture(scope="module")
def said(model):
    return rehearsal.own_words(model, ITEMS, requests=12, replies=3, seed=0)


def test_requests_have_several_replies_of_whole_sentences(said):
    replies = defaultdict(list)
    for example in said:
        replies[example.question].append(example.answer)
        assert example.answer[-1] in ".!?" and example.question[-1] in ".!?"
    assert len(replies) > 3 and max(map(len, replies.values())) == 3
    assert all(len(set(found)) == len(found) for found in replies.values())


def test_some_requests_come_with_an_item_after_them_and_some_without(said):
    kinds = defaultdict(set)
    for example in said:
        kinds[example.question].add(example.items)
    assert all(len(found) == 1 for found in kinds.values())  # always the same one
    found = {items for (items,) in kinds.values()}
    assert () in found and found <= {(), *((item,) for item in ITEMS)} and len(found) > 1


def test_the_seed_decides_the_words(model, said):
    assert rehearsal.own_words(model, ITEMS, requests=12, replies=3, seed=0) == said
    other = rehearsal.own_words(model, ITEMS, requests=4, replies=1, seed=1)
    assert not {e.question for e in other} & {e.question for e in said}


def test_what_the_llm_says_itself_is_likely_to_it(model, said):
    """Its replies are likelier than those to another of its requests."""
    bare = [example for example in said if not example.items]
    prompts = [prompt_of(model, example, learn=True) for example in bare]
    own = [scores.sum().item() for scores in model.score(prompts, [[]] * len(bare))]
    turned = prompts[-3:] + prompts[:-3]
    mixed = [type(p)(other.pieces, p.response) for p, other in zip(prompts, turned, strict=True)]
    strange = [scores.sum().item() for scores in model.score(mixed, [[]] * len(bare))]
    assert sum(own) > sum(strange)


def test_rehearsed_words_become_no_less_likely(own_model, media_of, asked, recipe, tmp_path):
    """A tiny model learns a question beside a text alone, and the text with it."""
    model = own_model(finetune=replace(recipe, weights={"imu": 1.0, "text": 1.0}))
    text = [Example((Turn(("Say it.",), "It is said."),), "own words", "text")]
    prompts = [prompt_of(model, text[0], learn=True)]
    add_lora(model.llm, recipe.lora, seed=0)
    before = model.score(prompts, [[]])[0].sum()
    parts = {"imu": asked()["imu"], "text": text}
    finetune(model, media_of(), parts, recipe.lora_train, lora=True, seed=0, folder=tmp_path)
    assert model.score(prompts, [[]])[0].sum() > before


@given(st.text())
def test_what_is_kept_is_whole(text):
    line, sentences = rehearsal._request(text), rehearsal._sentences(text)
    assert line is None or (line in text and "\n" not in line and line[-1] in ".!?")
    assert sentences == "" or (sentences in text and sentences[-1] in ".!?")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Yes. No", "Yes."),
        ("It costs 3.5 euros", ""),
        ("One.\nTwo!\nThree", "One.\nTwo!"),
        ("nothing at all", ""),
    ],
)
def test_a_reply_ends_with_its_last_whole_sentence(text, whole):
    assert rehearsal._sentences(text) == whole
