"""Answers: what counts as right, what each control does, and that neighbours change nothing."""

from dataclasses import replace

import pytest
import torch

from anymal_lib.controls import CONTROLS
from anymal_lib.errors import DataError
from anymal_lib.instruct.answers import (
    AnswerReport,
    answer_questions,
    answers,
    best_blind,
    is_right,
    partners,
    swapped,
    without_items,
)
from anymal_lib.instruct.examples import Example, Item, Turn, ask
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.modalities import MODALITIES, open_row
from anymal_lib.prompt import Dialogue


@pytest.fixture(scope="module")
def model(own_model):
    built = own_model()
    built.adapters.eval()
    return built


@pytest.fixture(scope="module")
def media(media_of):
    return media_of("test")


@pytest.fixture(scope="module")
def examples(asked, media):
    """Questions about both modalities in turn, one about two items, and a conversation."""
    both = [e for k in range(10) for e in (asked("test")["image"][k], asked("test")["imu"][k])]
    first, second = both[0].items[0], both[1].items[0]
    pair = ask("Which?", first, second, answer="first", kind="pair", source="pairs")
    turns = (Turn(("What is it? ", second), "a motion"), Turn(("Sure?",), "yes"))
    return [*both, pair, Example(turns, "dialogue", "dialogues")]


@pytest.fixture(scope="module")
def tokens(model, media, examples):
    return media.all_tokens(model, [item for e in examples for item in e.items])


def spoken(model, example, media, item_of=lambda item, media: open_row(media.rows[item])):
    """What the model's own interface says, the raw items given."""
    *before, last = [
        ([p if isinstance(p, str) else item_of(p, media) for p in turn.parts], turn.answer)
        for turn in example.turns
    ]
    limit = model.profile.finetuning.max_new_tokens
    return model.generate(Dialogue([*before, (last[0], None)]), max_new_tokens=limit)


def said(model, examples, tokens, control="clean", seed=0):
    """The answers under one control."""
    return answers(model, examples, tokens, (control,), seed)[control]


@pytest.mark.parametrize(
    ("text", "right"),
    [("red", True), ("Red.", True), ("  red ", True), ("reddish", False), ("a red", False),
     ("", False), ("blue", False)],
)  # fmt: skip
def test_an_answer_is_right_by_its_words(text, right):
    example = ask("What colour?", Item("image", "a"), answer="red", kind="colour", source="facts")
    assert is_right(example, text) == right
    assert is_right(replace(example, turns=(Turn(("What?",), "RED!"),)), text) == right


def test_answers_are_those_of_the_models_own_interface(model, media, examples, tokens):
    found = said(model, examples, tokens)
    assert found == [spoken(model, example, media) for example in examples]
    assert len(set(found)) > 5, "the tiny model tells its items apart"


def test_an_answer_does_not_depend_on_its_neighbours(model, examples, tokens, own_model):
    found = said(model, examples, tokens)
    assert said(model, examples[::-1], tokens) == found[::-1]
    assert [said(model, [example], tokens)[0] for example in examples] == found
    assert said(model, examples + examples, tokens) == found + found
    small = own_model(eval_batch=3)
    small.adapters.load_state_dict(model.adapters.state_dict())
    small.adapters.eval()
    assert said(small, examples, tokens) == found


def test_blank_items_leave_only_the_question(model, media, examples, tokens):
    found = said(model, examples, tokens, "blank")

    def blank(item, media):
        return MODALITIES[item.modality].blank()

    assert found == [spoken(model, example, media, blank) for example in examples]
    question = examples[0].question
    about = [ask(question, i, answer="x", kind="any", source="facts") for i in media.rows]
    found = said(model, about, media.all_tokens(model, list(media.rows)), "blank")
    for modality in media.banks:
        of = {t for e, t in zip(about, found, strict=True) if e.items[0].modality == modality}
        assert len(of) == 1, "one question, one answer"


def test_removed_items_leave_a_prompt_of_text(model, media, examples, tokens):
    found = said(model, examples, tokens, "removed")
    assert found == [spoken(model, without_items(example), media) for example in examples]
    assert all(not without_items(example).items for example in examples)
    assert [without_items(e).question for e in examples] == [e.question for e in examples]
    assert [without_items(e).answer for e in examples] == [e.answer for e in examples]


def with_items(example, items):
    """The same conversation about other items."""
    left = iter(items)
    turns = (
        replace(turn, parts=tuple(p if isinstance(p, str) else next(left) for p in turn.parts))
        for turn in example.turns
    )
    return replace(example, turns=tuple(turns))


def test_shuffled_items_are_others_of_their_modality(model, examples, tokens):
    others = swapped(examples, seed=3)
    for example, items in zip(examples, others, strict=True):
        assert [i.modality for i in items] == [i.modality for i in example.items]
        assert items != example.items
    moved = [with_items(e, items) for e, items in zip(examples, others, strict=True)]
    shuffled = said(model, examples, tokens, "shuffled", seed=3)
    assert shuffled == said(model, moved, tokens)
    assert shuffled != said(model, examples, tokens)


def test_shuffled_items_belong_to_the_same_question_where_they_can(media):
    """Then what is said of them is known already, and a question keeps its sense."""
    pictures = [item for item in media.rows if item.modality == "image"][:6]
    same = [ask("What?", item, answer="x", kind="any", source="facts") for item in pictures[:4]]
    twice = [*same, replace(same[0], kind="again")]
    alone = ask("Which?", pictures[5], answer="x", kind="any", source="facts")
    later = Example((Turn(("What? ", pictures[4]), "x"), Turn(("Sure?",), "y")), "any", "facts")
    for seed in range(5):
        *of_same, of_alone, of_later = swapped([*twice, alone, later], seed)
        assert {items for items in of_same[:4]} == {e.items for e in same}
        assert of_same[4] == of_same[0] != same[0].items
        assert of_alone != alone.items and of_later != later.items, "nobody else is asked this"


def test_what_was_said_already_is_not_asked_again(model, tokens, monkeypatch):
    asked = []
    respond = type(model).respond
    monkeypatch.setattr(
        type(model), "respond",
        lambda self, prompts, spans, **kw: asked.append(len(prompts))
        or respond(self, prompts, spans, **kw),
    )  # fmt: skip
    pictures = [item for item in tokens if item.modality == "image"]
    same = [ask("What?", item, answer="x", kind="any", source="facts") for item in pictures]
    found = answers(model, same, tokens, ("clean", "shuffled", "removed"), 1)
    assert asked == [len(same) + 1] and len(same) > 2
    assert sorted(found["shuffled"]) == sorted(found["clean"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 8])
def test_partners_are_a_derangement_within_each_modality(seed, count):
    items = {Item(m, str(k)): torch.zeros(1) for m in ("image", "imu") for k in range(count)}
    partner = partners(items, seed)
    assert partner.keys() == items.keys() == set(partner.values())
    assert all(item != other and item.modality == other.modality for item, other in partner.items())
    assert partner == partners(dict(reversed(items.items())), seed)


def test_an_unknown_control_is_a_mistake_of_the_caller(model, examples, tokens):
    with pytest.raises(ValueError, match="dark"):
        said(model, examples, tokens, "dark")


def test_a_report_holds_answers_and_scores_under_each_control(model, media, examples, tokens):
    first = said(model, examples, tokens)
    known = [
        replace(e, turns=(*e.turns[:-1], replace(e.turns[-1], answer=text)))
        for e, text in zip(examples[:4], first, strict=False)
    ] + examples[4:]
    report = answer_questions(model, media, known, controls=CONTROLS, seed=1)
    assert report.answers == first
    assert report.right == [is_right(e, text) for e, text in zip(known, first, strict=True)]
    assert report.right[:4] == [True] * 4 and set(report.controls) == set(CONTROLS)
    for control, score in report.controls.items():
        texts = said(model, known, tokens, control, 1)
        right = [is_right(e, text) for e, text in zip(known, texts, strict=True)]
        assert score == bootstrap(right, 1)
    assert report.accuracy == sum(report.right) / len(known)
    assert report.blind == best_blind(known)
    alone = answer_questions(model, media, known, controls=("removed",), seed=1)
    assert list(alone.controls) == ["clean", "removed"] and alone.answers == first


def test_no_questions_are_refused(model, media):
    with pytest.raises(DataError, match=r"questions to answer: expected at least one.*LIMIT"):
        answer_questions(model, media, [])


def kinds(*given):
    item = Item("image", "a")
    return [ask(q, item, answer=a, kind=kind, source="facts") for q, a, kind in given]


def test_the_best_blind_answer_is_each_questions_most_frequent():
    asked = kinds(
        ("What colour?", "red", "colour"), ("What colour?", "Red.", "colour"),
        ("What colour?", "blue", "colour"), ("Is it?", "yes", "yes/no"), ("Is it?", "no", "yes/no"),
        ("Which?", "left", "side"),
    )  # fmt: skip
    assert best_blind(asked) == pytest.approx((2 + 1 + 1) / 6)
    assert best_blind(asked[:1]) == 1.0
    assert best_blind([asked[3], asked[4]] * 3) == 0.5


def test_scores_are_told_apart_by_kind():
    asked = kinds(("a?", "x", "two"), ("b?", "x", "one"), ("c?", "x", "two"), ("d?", "x", "two"))
    right = [True, False, False, True]
    report = AnswerReport(asked, ["x"] * 4, right, {"clean": Interval(0.5, 0, 1)}, 1.0)
    assert report.by_kind == {"one": 0.0, "two": pytest.approx(2 / 3)}
    assert report.kinds == {"one": 1, "two": 3} and report.accuracy == 0.5
    assert list(report.by_kind) == list(report.kinds) == ["one", "two"]
