"""Adapters fitted to the embeddings of words: what is known of items, and that tokens become it."""

from dataclasses import replace

import pytest
import torch

from anymal_lib.adapters import LinearProjection, PerceiverResampler, scale_tokens
from anymal_lib.bank import Bank
from anymal_lib.instruct.examples import Item, ask
from anymal_lib.instruct.words import Embedding, fit_to_words, nearest_words, phrases_of
from anymal_lib.specs import TrainSpec

SPEC = TrainSpec(batch=8, learning_rate=1e-2, steps=60, checkpoint_every=20)


class InterruptedRunError(Exception):
    """The machine went down."""


@pytest.fixture
def fit(own_model, media_of, tmp_path):
    """Function: fit an adapter of a fresh model; returns the model, its bank and the curve."""

    def run(modality="image", folder=tmp_path / "words", seed=0, spec=SPEC, **more):
        model, bank = own_model(), media_of().banks[modality]
        curve = fit_to_words(
            model, modality, bank, phrases_of(bank, ()), spec, seed=seed, folder=folder, **more
        )
        return model, bank, curve

    return run


def weights(model):
    return {name: tensor.clone() for name, tensor in model.adapters.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# What is known of an item ------------------------------------------------------------------------


def question(row, text, answer):
    return ask(text, Item("image", row), answer=answer, kind="k", source="written")


def test_facts_come_first_and_by_name(media_of):
    row = media_of().banks["image"].rows[0]
    row = replace(row, facts={"shape": "square", "colour": "red"}, text=("A square.",))
    bank = Bank([row], [], [])
    asked = [question(row.id, "What?", "something")]
    assert phrases_of(bank, asked) == {row.id: ("red", "square")}


def test_without_facts_answers_tell_and_then_a_caption(media_of):
    row = replace(media_of().banks["image"].rows[0], facts={}, text=("A red dog.", "Another one."))
    bank = Bank([row], [], [])
    asked = [
        question(row.id, "What is it?", "a dog"),
        question(row.id, "Is it red?", "Yes"),
        question(row.id, "What do you see?", "a dog"),
        question("elsewhere", "What?", "a cat"),
    ]
    assert phrases_of(bank, asked) == {row.id: ("a dog",)}
    assert phrases_of(bank, asked[1:2]) == {row.id: ("A", "red", "dog")}
    silent = Bank([replace(row, text=())], [], [])
    assert phrases_of(silent, asked[1:2]) == {}


# Tokens ------------------------------------------------------------------------------------------


def test_words_take_turns_and_a_phrase_is_the_mean_of_its_tokens(tiny_llm):
    llm = tiny_llm(32)
    embedding = Embedding(llm)
    ids = llm.tokenize(" turquoise parallelogram")
    assert len(ids) > 2
    expected = llm.embed(torch.tensor(ids)).mean(0)
    torch.testing.assert_close(embedding("turquoise parallelogram"), expected)
    slots = embedding.slots(("red", "square"), 3)
    assert torch.equal(slots[0], embedding("red")) and torch.equal(slots[0], slots[2])
    assert torch.equal(slots[1], embedding("square"))


@pytest.mark.parametrize("kind", [LinearProjection, PerceiverResampler])
def test_tokens_are_scaled_exactly(own_model, media_of, kind):
    model, media = own_model(), media_of()
    adapters = {type(adapter): name for name, adapter in model.adapters.items()}
    name = adapters[kind]
    bank = media.banks[name]
    features = bank.features(model.encoders[name], range(4))
    with torch.no_grad():
        before = model.adapters[name](features)
        scale_tokens(model.adapters[name], 0.25)
        torch.testing.assert_close(model.adapters[name](features), before / 4)


@pytest.mark.parametrize("modality", ["image", "imu"])
def test_tokens_become_the_words_of_their_items(fit, asked_cards, own_model, modality):
    model, bank, curve = fit(modality)
    assert curve[-1].loss < curve[0].loss / 2
    values = asked_cards[modality].fact_values
    before = nearest_words(own_model(), modality, bank, values)
    after = nearest_words(model, modality, bank, values)
    assert after.keys() == values.keys() and sum(after.values()) > sum(before.values())
    assert not model.adapters[modality].training


def test_the_llm_and_the_other_adapters_stay_as_they_are(fit, own_model):
    fresh = own_model()
    model, _, _ = fit("image")
    for one, other in zip(model.llm.model.parameters(), fresh.llm.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert same(fresh.adapters["imu"].state_dict(), model.adapters["imu"].state_dict())


def test_the_same_seed_gives_the_same_bytes_and_another_one_not(fit, tmp_path):
    one, other = (weights(fit(folder=tmp_path / name)[0]) for name in "ab")
    assert same(one, other)
    assert not same(one, weights(fit(folder=tmp_path / "c", seed=1)[0]))


def test_an_interrupted_fit_goes_on_to_the_same_weights(fit, tmp_path):
    whole = weights(fit(folder=tmp_path / "whole")[0])

    def stop(report):
        if report.step == 45:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        fit(folder=tmp_path / "torn", on_step=stop)
    seen = []
    model, _, curve = fit(folder=tmp_path / "torn", on_step=lambda report: seen.append(report.step))
    assert seen[0] == 41 and len(curve) == SPEC.steps
    assert same(whole, weights(model))
