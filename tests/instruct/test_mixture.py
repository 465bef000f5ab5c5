"""The mixture: what is drawn when, conversations, items first, captions in place of items."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.errors import ConfigError
from anymal_lib.instruct.answers import without_items
from anymal_lib.instruct.examples import Example, Item, Turn, ask
from anymal_lib.instruct.mixture import Mixture, dialogues, item_first
from anymal_lib.specs import FinetuneSpec, LoraSpec, TrainSpec


def spec_of(weights, same_question=4, joins=None, batch=8, steps=5):
    train = TrainSpec(batch=batch, learning_rate=1e-3, steps=steps)
    return FinetuneSpec(
        train, train, LoraSpec(4, 8), {}, weights, joins or {}, same_question=same_question
    )


def mixture_of(parts, spec, seed=0):
    return Mixture(parts, spec, spec.projection, seed)


def some(name, questions=("How so?", "Why?"), answers=("one", "two", "three"), each=2):
    """Every question with every answer about `each` items."""
    return [
        ask(q, Item("image", f"{name}-{q}-{a}-{k}"), answer=a, kind="any", source=name)
        for q in questions
        for a in answers
        for k in range(each)
    ]


def all_of(mixture):
    return [mixture[k] for k in range(len(mixture))]


def test_a_position_is_a_function_of_seed_and_position():
    spec = spec_of({"a": 1.0, "b": 2.0})
    parts = {"a": some("a"), "b": some("b")}
    drawn = all_of(mixture_of(parts, spec))
    assert len(drawn) == 40
    assert [found.step for found in drawn] == [k // 8 for k in range(40)]
    again = mixture_of(dict(reversed(parts.items())), spec)
    for k in (39, 0, 17, 3, 17):
        assert again[k] == drawn[k]
    longer = mixture_of(parts, spec_of(spec.weights, steps=50))
    assert [longer[k] for k in range(40)] == drawn
    assert all_of(mixture_of(parts, spec, seed=1)) != drawn


def test_parts_are_drawn_by_their_weights():
    weights = {"a": 3.0, "b": 1.0, "none": 0.0, "empty": 5.0}
    parts = {"a": some("a"), "b": some("b", each=9), "none": some("none"), "empty": []}
    parts["unnamed"] = some("unnamed")
    mixture = mixture_of(parts, spec_of(weights, same_question=1, batch=50, steps=40))
    counts = Counter(found.example.source for found in all_of(mixture))
    assert set(counts) == {"a", "b"} == set(mixture.parts)
    assert abs(counts["a"] - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5


def test_a_question_is_drawn_as_often_as_its_part_asks_it_and_its_answers_alike():
    asked = some("a", questions=("often?",), each=3) + some("a", questions=("seldom?",), each=1)
    lopsided = [e for e in asked if e.answer != "one"] + [e for e in asked if e.answer == "one"] * 5
    share = sum(e.question == "often?" for e in lopsided) / len(lopsided)
    mixture = mixture_of({"a": lopsided}, spec_of({"a": 1.0}, 3, batch=60, steps=50))
    drawn = [found.example for found in all_of(mixture)]
    often = sum(e.question == "often?" for e in drawn) / 3
    assert abs(often - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5
    answers = Counter((e.question, e.answer) for e in drawn)
    assert answers["often?", "one"] == answers["often?", "two"] == answers["often?", "three"]


def test_every_item_of_a_question_comes():
    asked = some("a", each=4)
    mixture = mixture_of({"a": asked}, spec_of({"a": 1.0}, batch=40, steps=20))
    assert {found.example for found in all_of(mixture)} == set(asked)


def test_parts_wait_for_their_time_and_then_come_by_their_weight():
    spec = spec_of({"a": 1.0, "late": 1.0}, 4, {"late": 0.5}, batch=400, steps=20)
    parts = {name: some(name) for name in spec.weights}
    often = {name: Counter() for name in parts}
    for found in all_of(mixture_of(parts, spec)):
        often[found.example.source][found.step] += 1
    assert min(often["late"]) == 10
    assert sum(often["late"].values()) / (10 * 400) == pytest.approx(1 / 2, abs=0.08)


def test_some_of_a_parts_examples_come_without_their_items():
    parts = {"a": some("a"), "b": some("b")}
    spec = spec_of({"a": 1.0, "b": 1.0}, batch=400, steps=10)
    dropping = all_of(mixture_of(parts, replace(spec, item_dropout={"a": 0.2, "none": 0.5})))
    whole = all_of(mixture_of(parts, spec))
    bare = [found.example for found in dropping if not found.example.items]
    assert {(e.source, e.question, e.answer) for e in bare} == {
        ("a", e.question, e.answer) for e in parts["a"]
    }
    share, drawn = 0.2, sum(found.example.source == "a" for found in whole)
    assert abs(len(bare) - drawn * share) < 4 * (drawn * share * (1 - share)) ** 0.5
    for ours, its in zip(dropping, whole, strict=True):
        assert ours == its or ours.example == without_items(its.example), "nothing else changes"


def test_a_group_across_two_batches_is_of_one_part():
    """The part that joins with the second batch waits for the group that reaches into it to end."""
    spec = spec_of({"a": 1e-6, "late": 1.0}, 4, {"late": 0.5}, batch=6, steps=2)
    parts = {name: some(name, questions=(f"{name}?",)) for name in spec.weights}
    drawn = [found.example.source for found in all_of(mixture_of(parts, spec))]
    assert drawn == ["a"] * 8 + ["late"] * 4


@pytest.mark.parametrize(
    ("parts", "joins"),
    [
        ({}, {}),
        ({"a": []}, {}),
        ({"none": some("none")}, {}),
        ({"other": some("other")}, {}),
        ({"a": some("a")}, {"a": 0.5}),
    ],
)
def test_no_part_to_draw_is_refused(parts, joins):
    spec = spec_of({"a": 1.0, "none": 0.0}, joins=joins)
    with pytest.raises(ConfigError, match=r"fine-tuning mixture.*finetune\.weights"):
        mixture_of(parts, spec)


NAMES = ("a", "b", "c")
ANY_PARTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("xyz")), max_size=8),
)
SHARES = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@settings(max_examples=100)
@given(
    given_parts=ANY_PARTS,
    weights=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 2.0])),
    joins=st.dictionaries(st.sampled_from(NAMES), SHARES),
    same=st.integers(1, 9),
    batch=st.integers(1, 12),
    steps=st.integers(1, 6),
    seed=st.integers(),
)
def test_any_mixture_keeps_its_promises(given_parts, weights, joins, same, batch, steps, seed):
    parts = {
        name: [
            ask(f"{q}?", Item("image", f"{k}"), answer=a, kind="any", source=name)
            for k, (q, a) in enumerate(pairs)
        ]
        for name, pairs in given_parts.items()
    }
    spec = spec_of(weights, same, joins, batch, steps)
    if not any(parts[name] and weights.get(name) and not joins.get(name) for name in parts):
        with pytest.raises(ConfigError):
            mixture_of(parts, spec, seed)
        return
    drawn = all_of(mixture_of(parts, spec, seed))
    assert len(drawn) == batch * steps
    for start in range(0, len(drawn), same):
        group = [found.example for found in drawn[start : start + same]]
        ((name, question),) = {(e.source, e.question) for e in group}
        assert weights[name] > 0 and all(e in parts[name] for e in group)
        assert joins.get(name, 0) <= drawn[start].step / steps
        possible = {e.answer for e in parts[name] if e.question == question}
        counts = Counter(e.answer for e in group)
        assert max(counts.values()) - min(counts[answer] for answer in possible) <= 1


def about(item, count):
    return [
        ask(f"Question {k}?", item, answer=f"answer {k}", kind="any", source="facts")
        for k in range(count)
    ]


PICTURE, SOUND, SHORT = Item("image", "one"), Item("audio", "one"), Item("image", "short")
SINGLE = about(PICTURE, 4) + about(SOUND, 3) + about(SHORT, 2)


def test_a_conversation_asks_several_questions_about_one_item():
    made = dialogues(SINGLE, turns=3, count=40, seed=0)
    assert len(made) == 40
    assert {e.items for e in made} == {(PICTURE,), (SOUND,)}, "two questions are too few"
    known = {(e.items[0], e.question): e.answer for e in SINGLE}
    for k, example in enumerate(made):
        assert len(example.turns) == 3
        assert (example.kind, example.source) == ("dialogue", "dialogues")
        first, *later = example.turns
        assert isinstance(first.parts[0], Item) == bool(k % 2), "after and before it in turn"
        assert all(isinstance(part, str) for turn in later for part in turn.parts)
        said = [
            "".join(p for p in turn.parts if isinstance(p, str)).strip() for turn in example.turns
        ]
        assert len(set(said)) == 3, "no question twice"
        for question, turn in zip(said, example.turns, strict=True):
            assert known[example.items[0], question] == turn.answer


def test_conversations_repeat_themselves_and_can_be_none():
    made = dialogues(SINGLE, turns=3, count=40, seed=0)
    assert dialogues(SINGLE, turns=3, count=40, seed=0) == made
    assert dialogues(SINGLE, turns=3, count=10, seed=0) == made[:10]
    assert dialogues(SINGLE, turns=3, count=40, seed=1) != made
    assert dialogues(SINGLE, turns=5, count=40, seed=0) == []
    assert dialogues([], turns=1, count=40, seed=0) == []


def test_examples_of_several_items_or_turns_make_no_conversation():
    pair = Example((Turn(("Same? ", PICTURE, " ", SOUND), "no"),), "same", "pairs")
    spoken = dialogues(SINGLE, turns=2, count=3, seed=0)
    assert dialogues([pair] * 3 + spoken, turns=1, count=9, seed=0) == []


def test_items_come_before_the_question():
    example = about(PICTURE, 1)[0]
    turned = item_first(example)
    assert turned.turns[0].parts == (PICTURE, " Question 0?")
    assert (turned.question, turned.answer) == (example.question, example.answer)
    pair = Example((Turn(("Same? ", PICTURE, " ", SOUND), "no"),), "same", "pairs")
    assert item_first(pair).turns[0].parts == (PICTURE, SOUND, " Same?")
    several = Example((Turn(("See ", PICTURE), "yes"), Turn(("What?",), "x")), "any", "written")
    assert item_first(several).turns == (Turn((PICTURE, " See"), "yes"), several.turns[1])
