"""What stands in an item's place under each control, and that nothing is computed twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.bank import Bank
from anymal_lib.controls import CONDITIONS, Probe, blank_tokens, least_alike, modality_tokens, ring
from anymal_lib.metrics.facts import words
from anymal_lib.modalities import open_row
from anymal_lib.prompt import render
from anymal_lib.rows import Row


@pytest.fixture(scope="module")
def model(new_model):
    built = new_model(32)
    built.adapters.eval()
    return built


@pytest.fixture(scope="module", params=["image", "imu", "audio", "video"])
def case(request, bank_of, card_of):
    return request.param, bank_of(card_of[request.param], "test")


@pytest.fixture(scope="module")
def squares(bank_of, image_card):
    return bank_of(image_card, "test")


def row_of(k, text="x", **facts):
    return Row(str(k), "test", "image", Path("x.png"), (text,), facts)


@given(st.integers(2, 40), st.integers(0, 2**40))
def test_a_ring_leaves_none_in_its_place(count, seed):
    partner = ring(count, seed)
    assert sorted(partner) == list(range(count)) and partner == ring(count, seed)
    assert all(k != other for k, other in enumerate(partner))


FACTS = st.lists(
    st.fixed_dictionaries({"a": st.sampled_from("xyz"), "b": st.sampled_from("xy")}),
    min_size=2,
    max_size=12,
)


@given(FACTS, st.integers(0, 99))
def test_a_wrong_partner_differs_in_as_many_facts_as_any(facts, seed):
    rows = [row_of(k, **found) for k, found in enumerate(facts)]
    partner = least_alike(rows, seed)
    for own, k in zip(facts, partner, strict=True):
        differ = [sum(own[n] != other[n] for n in own) for other in facts]
        assert differ[k] == max(differ)
    assert partner == least_alike(rows, seed)


TEXTS = st.lists(st.text("abcd ", min_size=1, max_size=9), min_size=2, max_size=8)


@given(TEXTS, st.integers(0, 99))
def test_without_facts_a_wrong_partner_shares_the_fewest_words(texts, seed):
    rows = [row_of(k, text) for k, text in enumerate(texts)]
    bags = [set(words(text).split()) for text in texts]
    for own, k in zip(bags, least_alike(rows, seed), strict=True):
        shared = [2 * len(own & other) / max(1, len(own) + len(other)) for other in bags]
        assert shared[k] == pytest.approx(min(shared))


def test_one_row_without_facts_makes_words_count():
    rows = [row_of(0, "a b", x="1"), row_of(1, "a b", x="2"), row_of(2, "c d")]
    assert least_alike(rows, 0)[:2] == [2, 2]


def test_equally_wrong_partners_are_drawn():
    rows = [row_of(k, side="left" if k % 2 else "right") for k in range(60)]
    partner = least_alike(rows, 0)
    assert all((k - other) % 2 for k, other in enumerate(partner))
    assert len(set(partner)) > 25 and partner != least_alike(rows, 1)


def test_with_a_wrong_partner_the_model_says_what_it_says_of_that_item(model, case):
    modality, bank = case
    spec = model.spec(modality)
    said = Probe(model, modality, bank).captions("wrong_partner")
    partners = [bank.rows[k] for k in least_alike(bank.rows, 0)]
    prompts = [[spec.instructions[0] + " ", open_row(row)] for row in partners]
    assert said == model.generate(prompts, max_new_tokens=spec.max_new_tokens)
    for row, other in zip(bank.rows, partners, strict=True):
        assert all(other.facts[name] != value for name, value in row.facts.items())


def test_what_is_known_to_have_been_said_is_not_asked_again(model, case):
    modality, bank = case
    known = [f"caption {k}" for k in range(len(bank))]
    probe = Probe(model, modality, bank, said=known)
    assert probe.captions() == known
    assert probe.captions("shuffled") == [known[k] for k in ring(len(bank), 0)]
    for control in ("blank", "removed"):
        assert probe.captions(control) == Probe(model, modality, bank).captions(control)


def test_likelihoods_are_transformers_own(model, case, own_loss):
    modality, bank = case
    probe, tokens = Probe(model, modality, bank), modality_tokens(model, modality, bank)
    partner = ring(len(bank), 0)
    for control, spans in {
        "clean": [[span] for span in tokens],
        "shuffled": [[tokens[k]] for k in partner],
        "blank": [[blank_tokens(model, modality)]] * len(bank),
        "removed": [[]] * len(bank),
    }.items():
        found = probe.log_likelihoods(control)
        assert found.shape == (len(bank),)
        for k in (0, len(bank) - 1):
            parts = [model.spec(modality).instructions[0] + " ", *([object()] if spans[k] else [])]
            system, text = model.profile.system, bank.rows[k].text[0]
            prompt = render(model.llm, parts, system=system, response=text)
            expected = -own_loss(model.llm, prompt, spans[k]).item()
            assert found[k] == pytest.approx(expected, rel=1e-4), (control, k)


def test_likelihoods_do_not_depend_on_their_batch(model, squares, new_model):
    found = Probe(model, "image", squares).log_likelihoods()
    small = new_model(32, eval_batch=3)
    small.adapters.load_state_dict(model.adapters.state_dict())
    small.adapters.eval()
    np.testing.assert_allclose(Probe(small, "image", squares).log_likelihoods(), found, rtol=1e-4)
    turned = Bank(squares.rows[::-1], list(squares.intermediate)[::-1], [])
    np.testing.assert_allclose(
        Probe(model, "image", turned).log_likelihoods()[::-1], found, rtol=1e-4
    )


def test_nothing_is_generated_or_scored_twice(model, squares, monkeypatch):
    generated, scored = [], []
    respond, score = model.respond, model.score
    monkeypatch.setattr(
        model, "respond", lambda p, *a, **k: generated.extend(p) or respond(p, *a, **k)
    )
    monkeypatch.setattr(model, "score", lambda p, *a: scored.extend(p) or score(p, *a))
    probe = Probe(model, "image", squares)
    for control in CONDITIONS:
        probe.captions(control)
        probe.log_likelihoods(control)
    assert len(generated) == len(squares) + 2, "each item once, blank and removed once"
    places = [range(len(squares)), ring(len(squares), 0), least_alike(squares.rows, 0)]
    pairs = {(k, row.text[0]) for of in places for k, row in zip(of, squares.rows, strict=True)}
    count = len(pairs) + 2 * len({row.text[0] for row in squares.rows})
    assert len(scored) == count, "each caption once with each item, blank and removed"
    first = probe.log_likelihoods()
    assert len(scored) == count and (first == probe.log_likelihoods()).all()


def test_equal_captions_without_an_item_are_equally_likely(model, squares):
    rows = [replace(row, text=("the same",)) for row in squares.rows]
    bank = Bank(rows, squares.intermediate, [])
    probe = Probe(model, "image", bank)
    for control in ("blank", "removed"):
        assert len(set(probe.log_likelihoods(control))) == 1
    assert len(set(probe.log_likelihoods())) == len(bank)


def test_an_unknown_control_is_a_mistake_of_the_caller(model, squares):
    with pytest.raises(KeyError, match="dark"):
        Probe(model, "image", squares).captions("dark")
