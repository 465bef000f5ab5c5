"""Comparisons of words, and names that a text tells: what they ask, and that nothing leaks."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib import runs, train
from anymal_lib.instruct import groundwork
from anymal_lib.instruct.comparisons import NEGATED, SOURCE, comparisons
from anymal_lib.instruct.examples import TEXT, Item
from anymal_lib.instruct.finetune import finetune
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.mixture import Mixture
from anymal_lib.instruct.sets import InstructionSet
from anymal_lib.instruct.told import told
from anymal_lib.instruct.verdicts import denies
from anymal_lib.lora import lora_parameters
from anymal_lib.retrieval.naming import invented_names
from anymal_lib.specs import FinetuneSpec, LoraSpec, TrainSpec


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return tiny_llm(32)


def listed(example):
    (item,) = example.items
    return item.id.split()


@pytest.fixture(scope="module")
def made(llm):
    return comparisons(llm, count=400, seed=0)


@pytest.mark.parametrize("negated", [False, True])
def test_the_answer_says_whether_the_word_is_listed(llm, negated):
    made = comparisons(llm, count=400, seed=0, negated=negated)
    assert len(made) == 400
    assert {example.source for example in made} == {NEGATED if negated else SOURCE}
    assert all(denies(example.question) == negated for example in made)
    there, missing = ("no", "yes") if negated else ("yes", "no")
    for start in range(0, 400, 8):
        group = made[start : start + 8]
        assert len({example.question for example in group}) == 1
        assert [example.answer for example in group] == [missing, there] * 4
        shown = [set(listed(e)) for e in group if e.answer == there]
        others = set().union(*(listed(e) for e in group if e.answer == missing))
        asked = set.intersection(*shown) - others
        assert any(word in group[0].question for word in asked)
        for example in group:
            assert example.items[0].modality == TEXT and len(listed(example)) == 8


def test_words_can_be_left_out(llm):
    """Those that are asked about later are never compared before."""
    said = Counter(w for e in comparisons(llm, count=4000, seed=0) for w in listed(e))
    common = {word for word, _ in said.most_common(50)}
    made = comparisons(llm, count=4000, seed=0, without=common)
    assert not common & {word for example in made for word in listed(example)}


@given(count=st.integers(8, 80), seed=st.integers(0, 2**31))
def test_more_of_them_begin_with_the_fewer(llm, count, seed):
    fewer = comparisons(llm, count=count, seed=seed)
    assert len(fewer) == count // 8 * 8
    assert comparisons(llm, count=count + 8, seed=seed)[: len(fewer)] == fewer


def test_a_vocabulary_without_words_gives_none(llm):
    class Silent:
        tokenizer = type(
            "Bytes",
            (),
            {
                "__len__": lambda self: 3,
                "convert_ids_to_tokens": lambda self, ids: [None, "a", "b"],
            },
        )()

    assert comparisons(Silent(), count=80, seed=0) == []


def test_words_in_an_items_place_are_the_llms_own_embeddings(llm, own_model, made):
    model, media = own_model(), Media({})
    items = [made[0].items[0], made[1].items[0]]
    inputs = media.inputs(model, items)
    tokens = media.tokens(model, model.adapters, items, inputs)
    for item, span in zip(items, tokens, strict=True):
        ids = torch.tensor(model.llm.tokenize(item.id))
        assert torch.equal(span, model.llm.embed(ids))


def only_comparing(spec):
    return FinetuneSpec(spec, spec, LoraSpec(4, 8), {}, {"comparisons": 1.0})


def test_lora_learns_from_words_alone_and_adapters_do_not_move(own_model, made, tmp_path):
    model = own_model()
    spec = TrainSpec(batch=8, learning_rate=3e-3, steps=6)
    recipe = FinetuneSpec(spec, spec, LoraSpec(4, 8), {}, {"comparisons": 1.0, "image": 1.0})
    model.profile = replace(model.profile, finetune=recipe)
    before = {name: tensor.clone() for name, tensor in model.adapters.state_dict().items()}
    parts = {"comparisons": made}
    finetune(model, Media({}), parts, spec, lora=True, seed=0, folder=tmp_path)
    assert any(
        tensor.abs().sum() > 0 for n, tensor in lora_parameters(model.llm).items() if "_B" in n
    )
    after = model.adapters.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("enough", "steps"),
    [(None, 6), (0.0, 6), pytest.param(99.0, 3, id="from the middle on")],
)
def test_it_ends_where_it_has_learned(own_model, made, tmp_path, enough, steps):
    spec = TrainSpec(batch=8, learning_rate=3e-3, steps=6, checkpoint_every=2)
    parts, seen = {"comparisons": made}, []

    def learn(stop_at=None):
        def on_step(report):
            seen.append(report.step)
            if report.step == stop_at:
                raise KeyboardInterrupt

        model = own_model()
        model.profile = replace(model.profile, finetune=only_comparing(spec))
        common = {"lora": True, "seed": 0, "folder": tmp_path, "enough": enough}
        return finetune(model, Media({}), parts, spec, on_step=on_step, **common)

    with pytest.raises(KeyboardInterrupt):
        learn(stop_at=3)
    assert len(learn()) == steps, "also of a run that goes on from a checkpoint"
    assert seen == [1, 2, 3, *range(3, steps + 1)]


@pytest.mark.parametrize(("compared", "steps"), [(None, 4), (99.0, 2)])
def test_the_profile_says_when_words_are_compared_enough(
    own_model, made, tmp_path, compared, steps
):
    model = own_model()
    spec = TrainSpec(batch=8, learning_rate=3e-3, steps=4)
    recipe = replace(only_comparing(spec), comparisons=spec, compared=compared)
    model.profile = replace(model.profile, finetune=recipe)
    asked = {"PROFILE": "mini", "SEED": 0, "OUTPUT_DIR": str(tmp_path)}
    run = runs.start("06_finetune_mmit", asked)
    data = InstructionSet({}, {SOURCE: made, NEGATED: []}, {}, [], Media({}), Media({}))
    tuned = groundwork.compare_words(run, model, data)
    assert len(tuned[SOURCE].curve) == steps


def test_whether_to_compile_is_asked_of_words_and_mixture_together(
    own_model, media_of, asked, made, tmp_path, monkeypatch
):
    """What is compiled for the first is there for the second; without LoRA nothing else uses it."""
    model, seen = own_model(), []
    monkeypatch.setattr(train, "repays", lambda llm, samples, tokens: bool(seen.append(samples)))
    mixture, words = (TrainSpec(4, 1e-3, steps) for steps in (2, 1))
    recipe = FinetuneSpec(
        mixture, mixture, LoraSpec(4, 8), {}, {"comparisons": 1.0, "image": 1.0}, comparisons=words
    )
    model.profile = replace(model.profile, finetune=recipe)
    for parts, spec, lora in (
        (asked(), mixture, False),
        ({"comparisons": made}, words, True),
        (asked(), mixture, True),
    ):
        folder = tmp_path / str(len(seen))
        finetune(model, media_of(), parts, spec, lora=lora, seed=0, folder=folder)
    assert seen == [8, 4 + 8, 8 + 4]


def test_lists_under_one_question_share_it(made):
    spec = TrainSpec(batch=16, learning_rate=1e-3, steps=4)
    mixture = Mixture({"comparisons": made}, only_comparing(spec), spec, 0)
    for start in range(0, len(mixture), 8):
        drawn = [mixture[k].example for k in range(start, start + 8)]
        assert len({example.question for example in drawn}) == 1
        assert Counter(example.answer for example in drawn) == {"yes": 4, "no": 4}


# What a text tells -------------------------------------------------------------------------------


def test_a_name_is_told_and_then_asked_for(llm, asked_cards):
    made = told(llm, asked_cards, count=40, seed=0)
    assert Counter(e.items[0].modality for e in made) == {"image": 20, "imu": 20}
    for example in made:
        item, text = example.turns[0].parts
        assert isinstance(item, Item) and item.id in {
            row.id for row in asked_cards[item.modality].split("train")
        }
        assert text.count(example.answer.rstrip(".")) == 1
    assert made == told(llm, asked_cards, count=40, seed=0)


def test_told_names_are_none_that_retrieval_is_tested_with(llm, asked_cards):
    tested = set(invented_names(llm, 100, "", seed=3))
    assert not tested & {e.answer.rstrip(".") for e in told(llm, asked_cards, count=400, seed=3)}
