"""The filter: its likelihoods are transformers' own, and every reason is found for what it is."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.instruct.answers import partners, without_items
from anymal_lib.instruct.examples import Example, Item, Turn, ask
from anymal_lib.instruct.filter import REASONS, Judged, counts, judge, likelihoods
from anymal_lib.instruct.filter import _reason as first_reason
from anymal_lib.instruct.finetune import finetune
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.specs import TrainSpec

MOTION, SUM = "What is the motion?", "How much is two and two?"


@pytest.fixture(scope="module")
def motions(asked):
    """What each motion to train on is."""
    return [e for e in asked()["imu"] if e.kind == "motion"]


@pytest.fixture(scope="module")
def two(motions):
    """A motion of each kind: the other one is always the item in place of the one at hand."""
    return [next(e for e in motions if e.answer == answer) for answer in ("shaking", "turning")]


def sums(items):
    """A question that needs no item, about each of them."""
    return [ask(SUM, item, answer="four", kind="sum", source="planted") for item in items]


@pytest.fixture(scope="module")
def the_judge(own_model, media_of, motions, recipe, tmp_path_factory):
    """A tiny model that has learned what the motions are, and how much two and two is."""
    weights = {"imu": 1.0, "with items": 1.0, "without": 1.0}
    model = own_model(finetune=replace(recipe, weights=weights))
    # A random head is never sure of a token: the model could not know an answer.
    with torch.no_grad():
        model.llm.model.get_output_embeddings().weight.mul_(2)
    asked = sums(e.items[0] for e in motions)
    parts = {"imu": motions, "with items": asked, "without": [without_items(asked[0])]}
    spec = TrainSpec(batch=12, learning_rate=5e-3, steps=140, weight_decay=0.0)
    folder = tmp_path_factory.mktemp("judge")
    finetune(model, media_of(), parts, spec, lora=True, seed=0, folder=folder)
    return model


@pytest.fixture(scope="module")
def judged(the_judge, media_of, asked_cards):
    """Function: examples as the judge sees them, by default with no other items than theirs."""
    values = {name: card.fact_values for name, card in asked_cards.items()}

    def run(examples, seed=0, *, others=False):
        media = media_of()
        if not others:
            media = only({item for e in examples for item in e.items}, media)
        return judge(the_judge, media, examples, values, seed=seed)

    return run


def only(items, media):
    """The media without any other items."""
    banks = {}
    for modality, bank in media.banks.items():
        chosen = [k for k, row in enumerate(bank.rows) if Item(modality, row.id) in items]
        rows, tensors = [bank.rows[k] for k in chosen], [bank.intermediate[k] for k in chosen]
        banks[modality] = replace(bank, rows=rows, intermediate=tensors)
    return Media(banks)


def of_motion(example, question=MOTION, answer=None):
    given = example.answer if answer is None else answer
    return ask(question, *example.items, answer=given, kind="motion", source="synthetic")


def test_what_needs_the_item_is_kept_and_what_does_not_is_dropped(judged, two):
    found = judged([*two, *sums(e.items[0] for e in two)])
    assert [j.reason for j in found] == [None, None, *["answered without the item"] * 2]
    assert all(j.gain > 0.05 and j.blind < 0.95 for j in found[:2])
    assert all(j.blind >= 0.95 and j.others is None for j in found[2:])


def test_an_answer_that_no_other_item_makes_less_likely_is_dropped(judged, two):
    """An item alone in its modality takes its own place: nothing shows that it helps."""
    (found,) = judged(two[:1])
    assert found.reason == "item does not help" and found.others == pytest.approx(found.sensed)
    assert found.blind < found.sensed


def test_other_items_come_from_all_that_there_are(judged, two):
    (found,) = judged(two[:1], others=True)
    assert found.reason is None and found.others < found.sensed


def test_duplicates_are_dropped_after_the_first(judged, two):
    first, second = two
    again = of_motion(first, "what is the MOTION", f"{first.answer.title()}.")
    found = judged([first, second, again, second])
    assert [j.example for j in found] == [first, second, again, second]
    assert [j.reason for j in found] == [None, None, "duplicate", "duplicate"]


def test_contradictions_are_dropped_before_anything_is_asked_of_the_item(judged, two):
    wrong = of_motion(two[0], answer=two[1].answer)
    found = judged([wrong, *two, wrong])
    assert [j.reason for j in found] == ["contradicts a fact", None, None, "duplicate"]


def test_a_judgement_holds_the_likelihoods_with_other_items_and_none(
    the_judge, judged, media_of, two
):
    items = [e.items[0] for e in two]
    tokens = media_of().all_tokens(the_judge, items)
    for found, item, other in zip(judged(two), items, reversed(items), strict=True):
        example = found.example
        for p, spans in (
            (found.sensed, [[tokens[item]]]),
            (found.others, [[tokens[other]]]),  # of two, always the other
        ):
            assert p == pytest.approx(likelihoods(the_judge, [example], spans)[0], rel=1e-3)
        blind = likelihoods(the_judge, [without_items(example)], [[]])[0]
        assert found.blind == pytest.approx(blind, rel=1e-3)
        assert found.gain == pytest.approx(math.log(found.sensed / found.others), rel=1e-3)


def test_others_are_tried_until_one_makes_the_answer_unlikely(the_judge, judged, media_of, motions):
    """Rounds of ever more drawn partners, up to the first with one at a tenth of the item's."""
    tokens = media_of().all_tokens(the_judge, [e.items[0] for e in motions])
    found = judged(motions, seed=5)
    least, expected = [math.inf] * len(motions), [None] * len(motions)
    for tried in range(1, 32 + 1):
        partner = partners(tokens, 5 + tried - 1)
        spans = [[tokens[partner[i]] for i in e.items] for e in motions]
        for k, p in enumerate(likelihoods(the_judge, motions, spans)):
            least[k] = min(least[k], p)
            over = expected[k] is None and found[k].sensed / least[k] >= 10
            if over and tried in (1, 2, 4, 8, 16, 32):
                expected[k] = least[k]
    asked = [k for k, j in enumerate(found) if j.others is not None]
    assert len(asked) > len(motions) / 2
    for k in asked:
        p = least[k] if expected[k] is None else expected[k]
        assert found[k].others == pytest.approx(p, rel=1e-3)
        assert (found[k].reason is None) == (expected[k] is not None)


def test_likelihoods_are_transformers_own(own_model, media_of, asked, own_loss):
    model, media = own_model(), media_of()
    model.adapters.eval()
    items = [e.items[0] for e in asked()["image"][:3]] + [e.items[0] for e in asked()["imu"][:2]]
    tokens = media.all_tokens(model, items)
    turns = (Turn(("What is it? ", items[3]), "a motion"), Turn(("Is that so?",), "yes"))
    examples = [
        *asked()["image"][:3],
        *asked()["imu"][:2],
        ask("Which one? ", items[0], items[4], answer="the first", kind="pair", source="pairs"),
        Example(turns, "dialogue", "dialogues"),
        without_items(asked()["imu"][0]),
    ]
    spans = [[tokens[item] for item in e.items] for e in examples]
    found = likelihoods(model, examples, spans)
    for example, span, p in zip(examples, spans, found, strict=True):
        prompt = prompt_of(model, example, learn=True)
        with torch.no_grad():
            loss = own_loss(model.llm, replace(prompt, earlier=()), span).item()
        ids = model.llm.tokenizer(example.answer, add_special_tokens=False).input_ids
        assert prompt.response == (*ids, model.llm.end_of_turn)
        assert math.log(p) == pytest.approx(-loss * len(prompt.response), rel=1e-4)
    mixed = list(range(len(examples)))
    random.Random(0).shuffle(mixed)
    again = likelihoods(model, [examples[k] for k in mixed], [spans[k] for k in mixed])
    assert again == pytest.approx([found[k] for k in mixed], rel=1e-3)
    small = own_model(eval_batch=2)
    assert likelihoods(small, examples, spans) == pytest.approx(found, rel=1e-3)


def test_judging_leaves_what_is_trained_afterwards_alone(own_model, media_of, motions, tmp_path):
    """The judge remembers prefixes without gradients; training reads the same ones."""
    media, spec = media_of(), TrainSpec(batch=4, learning_rate=1e-3, steps=2)
    curves = []
    for look in (False, True):
        model = own_model()
        if look:
            tokens = media.all_tokens(model, [e.items[0] for e in motions])
            likelihoods(model, motions, [[tokens[i] for i in e.items] for e in motions])
        folder = tmp_path / str(look)
        curve = finetune(model, media, {"imu": motions}, spec, lora=False, seed=0, folder=folder)
        curves.append([report.loss for report in curve])
    assert curves[0] == curves[1]


def outcome(reason, sensed=0.5, blind=0.1, others=0.1):
    example = ask("What?", Item("image", "a"), answer="x", kind="any", source="facts")
    return Judged(example, sensed, blind, others, reason)


@given(st.lists(st.sampled_from([None, *REASONS])))
def test_counts_add_up(reasons):
    found = counts([outcome(reason) for reason in reasons])
    given_reasons = Counter(reasons)
    assert found.pop("before") == len(reasons)
    assert found.pop("after") == given_reasons[None]
    assert found == {f"dropped: {reason}": given_reasons[reason] for reason in REASONS}
    assert sum(found.values()) + given_reasons[None] == len(reasons)


def test_gain_is_over_none_until_other_items_are_asked():
    assert outcome(None, 0.8, 0.4, None).gain == pytest.approx(math.log(2))
    assert outcome(None, 0.8, 0.2, 0.4).gain == pytest.approx(math.log(2))
    assert outcome(None, 0.2, 0.1, 0.4).gain == pytest.approx(-math.log(2))
    assert outcome(None, 0.0, 0.0, 0.0).gain == 0


@pytest.mark.parametrize(
    ("sensed", "blind", "reason"),
    [
        (0.9, 0.85, "answered without the item"),
        (0.01, 0.9, "answered without the item"),
        (0.4, 0.01, "unlikely with the item"),
        (0.8, 0.70, "answered without the item"),
        (0.8, 0.69, None),
    ],
)
def test_the_item_must_make_the_answer_likelier_and_likely(
    media_of, motions, sensed, blind, reason
):
    found = Judged(motions[0], sensed, blind)
    assert first_reason(found, media_of().rows, {"imu": {}}) == reason
