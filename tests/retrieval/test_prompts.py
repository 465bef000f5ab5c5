"""Retrieved texts stand in the prompt before the question, and the answer is read with them."""

import pytest
import torch

from anymal_lib.errors import AssetError, ConfigError, InputError
from anymal_lib.modalities import open_row
from anymal_lib.model import AnyMAL
from anymal_lib.retrieval import Corpus, Entry, generate_with_retrieval
from anymal_lib.retrieval.prompts import with_texts

ITEM, OTHER = object(), object()
QUESTION = " What is it called?"


@pytest.fixture(scope="module")
def model(new_model):
    built = new_model(32)
    built.adapters.eval()
    return built


@pytest.fixture(scope="module")
def items(bank_of, image_card, imu_card):
    """Two squares and a motion."""
    rows = [*bank_of(image_card, "test").rows[:2], bank_of(imu_card, "test").rows[0]]
    return [open_row(row) for row in rows]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([ITEM, QUESTION], [ITEM, " A. B. What is it called?"]),
        (["What is it? ", ITEM], [" A. B. What is it?", ITEM]),
        ([ITEM], [ITEM, " A. B."]),
        ([ITEM, "  "], [ITEM, "  ", " A. B."]),
        (
            ["First ", ITEM, "second ", OTHER, QUESTION],
            ["First ", ITEM, "second ", OTHER, " A. B. What is it called?"],
        ),
    ],
)
def test_texts_stand_before_the_last_question(parts, expected):
    assert with_texts(parts, ["A.", "B."]) == expected


def test_answers_are_those_to_the_prompt_with_what_was_read(model, corpus, items):
    prompts = [[item, QUESTION] for item in items]
    found = generate_with_retrieval(model, corpus, prompts, 2, max_new_tokens=6)
    pooled = torch.stack([pooled for _, pooled in model.sense(items)])
    assert [list(answer.read) for answer in found] == corpus.nearest(pooled, 2)
    for item, answer in zip(items, found, strict=True):
        text = " ".join(neighbour.entry.text for neighbour in answer.read)
        assert answer.text == model.generate([item, f" {text}{QUESTION}"], max_new_tokens=6)
    assert [a.text for a in found] != model.generate(prompts, max_new_tokens=6)


def test_what_two_items_find_is_read_once(model, corpus, items):
    answer = generate_with_retrieval(model, corpus, [[items[0], items[0], QUESTION]], 2)[0]
    assert len(answer.read) == 2
    both = generate_with_retrieval(model, corpus, [[*items, QUESTION]], len(corpus))[0]
    assert {n.entry for n in both.read} == set(corpus.entries)
    assert len(both.read) == len(corpus)


def test_sense_gives_the_tokens_and_the_embedding_of_each_item(model, items):
    sensed = model.sense(items)
    for item, (tokens, pooled) in zip(items, sensed, strict=True):
        assert torch.allclose(tokens, model.encode([item])[0], atol=1e-5)
        assert pooled.norm().item() == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(sensed[0][1], sensed[1][1], atol=1e-4)


@pytest.mark.parametrize("prompt", [["What is it called?"], []])
def test_a_prompt_without_an_item_is_refused(model, corpus, prompt):
    with pytest.raises(InputError, match="at least one item"):
        generate_with_retrieval(model, corpus, [prompt])


def test_an_encoder_without_texts_and_another_tower_are_refused(new_model, corpus, items):
    model: AnyMAL = new_model(32)
    other = Corpus([Entry("a", "b")], corpus._index, "0" * 64)
    with pytest.raises(AssetError, match="another tower"):
        generate_with_retrieval(model, other, [[items[0], QUESTION]])
    model.encoders["image"].text = None
    with pytest.raises(ConfigError, match=r"image encoder.*aligned to text"):
        generate_with_retrieval(model, corpus, [[items[0], QUESTION]])
