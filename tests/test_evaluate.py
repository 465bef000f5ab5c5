"""Captions of held-out items, and the controls that show whether they rest on the input."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from anymal_lib.bank import Bank
from anymal_lib.controls import CONTROLS, modality_tokens
from anymal_lib.evaluate import captions, chance, evaluate_captions
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.metrics.captions import cider_d, rouge_l
from anymal_lib.metrics.facts import words
from anymal_lib.modalities import open_row


@pytest.fixture(scope="module")
def model(new_model):
    return new_model(32)


@pytest.fixture(scope="module", params=["image", "imu", "audio", "video"])
def case(request, bank_of, card_of):
    """Modality and held-out bank of one of the small manifests."""
    return request.param, bank_of(card_of[request.param], "test")


@pytest.fixture(scope="module")
def squares(bank_of, image_card):
    return bank_of(image_card, "test")


def told(model, modality, bank):
    """The bank with what the model itself says as truth: a model that is always right."""
    said = captions(model, modality, bank)
    rows = [replace(r, text=(text,), facts={}) for r, text in zip(bank.rows, said, strict=True)]
    return Bank(rows, bank.intermediate, [])


def test_clean_captions_are_the_models_answers(model, case):
    modality, bank = case
    spec = model.spec(modality)
    prompts = [[spec.instructions[0] + " ", open_row(row)] for row in bank.rows]
    own = model.generate(prompts, max_new_tokens=spec.max_new_tokens)
    assert captions(model, modality, bank) == own
    assert len(set(own)) >= 4, "they differ, so that the controls say something"


def test_shuffled_is_a_derangement(model, case):
    modality, bank = case
    clean = captions(model, modality, bank)
    mixed = captions(model, modality, bank, "shuffled")
    assert sorted(clean) == sorted(mixed), "every input is used once"
    pairs = list(zip(clean, mixed, strict=True))
    assert all(a != b or clean.count(a) > 1 for a, b in pairs), "by another row"
    assert mixed == captions(model, modality, bank, "shuffled", seed=0)
    assert mixed != captions(model, modality, bank, "shuffled", seed=1)


@pytest.mark.parametrize("rows", [2, 3])
def test_few_rows_are_deranged_too(model, squares, rows):
    few = Bank(squares.rows[:rows], squares.intermediate[:rows], [])
    clean = captions(model, "image", few)
    for seed in range(5):
        mixed = captions(model, "image", few, "shuffled", seed)
        assert all(a != b for a, b in zip(clean, mixed, strict=True))


@pytest.mark.parametrize("control", ["blank", "removed"])
def test_blank_and_removed_give_one_answer_for_all(model, case, control):
    modality, bank = case
    said = captions(model, modality, bank, control)
    assert len(said) == len(bank) and len(set(said)) == 1
    assert said[0] not in captions(model, modality, bank)


def test_removed_is_the_prompt_without_any_item(model, squares):
    spec = model.spec("image")
    own = model.generate(spec.instructions[0] + " ", max_new_tokens=spec.max_new_tokens)
    assert captions(model, "image", squares, "removed")[0] == own


BLANKS = {
    "image": Image(np.full((10, 10, 3), 128, np.uint8)),  # grey
    "imu": Imu(np.zeros((500, 6)), rate=100),  # no motion, no gravity
    "audio": Audio(np.zeros(96_000), rate=32_000),  # silence
    "video": Video([PIL.Image.new("RGB", (30, 20), (128,) * 3)] * 5),  # grey
}


def test_blank_has_nothing_to_sense(model, case):
    modality, bank = case
    prompt = [model.spec(modality).instructions[0] + " ", BLANKS[modality]]
    own = model.generate(prompt, max_new_tokens=6)
    assert captions(model, modality, bank, "blank")[0] == own


def test_a_blinded_adapter_is_found_out(new_model, squares):
    blind = new_model(32)
    for parameter in blind.adapters["image"].parameters():
        parameter.data.zero_()
    clean = captions(blind, "image", squares)
    assert len(set(clean)) == 1
    assert clean == captions(blind, "image", squares, "shuffled")
    assert clean == captions(blind, "image", squares, "blank")
    report = evaluate_captions(blind, "image", told(blind, "image", squares), {})
    assert report.grounding["clean"] == report.grounding["shuffled"] == report.grounding["blank"]
    assert report.grounding["clean"].value == pytest.approx(1)


def test_a_seeing_adapter_stands_above_its_controls(model, squares):
    """The facts are the model's own answers: right with the input only."""
    bank = told(model, "image", squares)
    rows = [replace(r, facts={"said": words(r.text[0])}) for r in bank.rows]
    values = {"said": sorted({r.facts["said"] for r in rows})}
    report = evaluate_captions(model, "image", Bank(rows, bank.intermediate, []), values)
    assert report.grounding_score == "exact_match"
    assert {name: found.value for name, found in report.grounding.items()} == {
        "clean": 1.0, "blank": 0.0, "shuffled": 0.0, "removed": 0.0,
    }  # fmt: skip
    assert report.exact_match == report.grounding["clean"]
    assert report.attributes == {"said": 1.0} and report.attribute_accuracy == 1.0
    assert report.right == [True] * 8
    assert report.rouge_l == pytest.approx(1)


def test_the_report_counts_facts_one_by_one(model, squares):
    """Half of the rows get one fact right, a quarter both."""
    said = [words(text) for text in captions(model, "image", squares)]
    facts = [
        {"a": said[k] if k < 4 else "something else", "b": said[k] if k < 2 else "other"}
        for k in range(8)
    ]
    rows = [replace(row, facts=f) for row, f in zip(squares.rows, facts, strict=True)]
    values = {"a": [*said, "something else"], "b": [*said, "other"]}
    bank = Bank(rows, squares.intermediate, [])
    report = evaluate_captions(model, "image", bank, values, controls=("clean",))
    assert report.attributes == {"a": 0.5, "b": 0.25}
    assert report.attribute_accuracy == 0.375
    assert report.exact_match.value == 0.25 and report.right == [True] * 2 + [False] * 6
    assert report.exact_match.low < 0.25 < report.exact_match.high
    assert set(report.grounding) == {"clean"}
    assert report.captions == captions(model, "image", squares)


def test_rows_may_state_different_facts(model, squares):
    said = [words(text) for text in captions(model, "image", squares)]
    rows = [replace(row, facts={"ab"[k % 2]: said[k]}) for k, row in enumerate(squares.rows)]
    values = {"a": said[::2], "b": [*said[1::2], "z"]}
    bank = Bank(rows, squares.intermediate, [])
    report = evaluate_captions(model, "image", bank, values, controls=("clean",))
    assert report.attributes == {"a": 1.0, "b": 1.0} and report.exact_match.value == 1


def test_scores_are_those_of_the_metrics(model, case):
    modality, bank = case
    values = {name: [words] for name, words in bank.rows[0].facts.items()}
    report = evaluate_captions(model, modality, bank, values)
    truth = [row.text for row in bank.rows]
    assert set(report.grounding) == set(CONTROLS)
    assert report.cider_d == cider_d(report.captions, truth)
    assert report.rouge_l == pytest.approx(rouge_l(report.captions, truth).mean())
    assert report == evaluate_captions(model, modality, bank, values), "and it repeats itself"


def test_free_captions_are_grounded_by_rouge_l(model, squares):
    rows = told(model, "image", squares).rows
    # All but one caption lose their last word: still grounded, hardly ever equal.
    texts = [rows[0].text[0], *(" ".join(words(r.text[0]).split()[:-1]) or "x" for r in rows[1:])]
    rows = [replace(row, text=(text,)) for row, text in zip(rows, texts, strict=True)]
    report = evaluate_captions(model, "image", Bank(rows, squares.intermediate, []), {})
    assert report.grounding_score == "rouge_l"
    assert report.attributes == {} and report.attribute_accuracy is None
    assert report.exact_match.value == 1 / 8
    assert report.grounding["clean"].value == pytest.approx(report.rouge_l)
    assert report.grounding["clean"].low > report.grounding["shuffled"].high
    assert report.grounding["clean"].value > 0.5


def test_tokens_do_not_depend_on_how_rows_are_batched(new_model, case):
    modality, bank = case
    tokens = {"image": 4, "imu": 3, "audio": 3, "video": 4}
    one = modality_tokens(new_model(32, encode_batch=3), modality, bank)
    all_ = modality_tokens(new_model(32, encode_batch=64), modality, bank)
    assert one.shape == (8, tokens[modality], 64)
    torch.testing.assert_close(one, all_, rtol=1e-4, atol=1e-5)


def test_chance_is_the_most_common_meaning(squares):
    facts = [{"c": "red"}] * 4 + [{"c": "blue"}] * 3 + [{"c": "green"}]
    rows = [replace(row, facts=f) for row, f in zip(squares.rows, facts, strict=True)]
    assert chance(Bank(rows, squares.intermediate, [])) == 0.5
    assert chance(squares) == pytest.approx(1 / 8), "four colours on two sides"
    bare = [replace(row, facts={}, text=("same",)) for row in squares.rows]
    assert chance(Bank(bare, squares.intermediate, [])) == 1
