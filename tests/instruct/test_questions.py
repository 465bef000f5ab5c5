"""Questions about single items: official ones as they stand, and those that facts allow."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.errors import ManifestError
from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.questions import QUESTIONS, from_facts, kind_of, written
from anymal_lib.manifest import load_manifest
from anymal_lib.rows import Row
from anymal_lib.sources import profile_manifest

MANIFESTS = {"audio": "phrases", "imu": "shoulder-imu", "video": "moving-shapes"}


def make_row(name, facts):
    return Row(id=name, split="train", modality="audio", path=Path(name), text=(), facts=facts)


# Written -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vqa():
    return profile_manifest("easy-vqa-questions")


@pytest.mark.parametrize(
    ("split", "count", "images"), [("train", 38575, 4000), ("test", 9673, 1000)]
)
def test_every_official_question_is_an_example(vqa, split, count, images):
    examples, rows = written(vqa, split)
    assert (len(examples), len(rows), len({row.path for row in rows})) == (count, images, images)
    by_id = {row.id: row for row in rows}
    for example, row in zip(examples, vqa.split(split), strict=True):
        (item,) = example.items
        assert (example.question, example.answer) == (row.question, row.answers[0])
        assert example.source == "written" and item.modality == "image"
        assert by_id[item.id].path == row.path
    order = {row.id: k for k, row in enumerate(vqa.rows)}
    assert [order[row.id] for row in rows] == sorted(order[row.id] for row in rows)
    assert all(row.id.endswith("-0") for row in rows)


def test_kinds_of_easy_vqa(vqa):
    examples, _ = written(vqa, "test")
    kinds = Counter(example.kind for example in examples)
    assert kinds.keys() == {"colour", "shape", "yes/no", "negated yes/no"}
    assert min(kinds.values()) > 1000
    for example in examples:
        negated = "not" in example.question.split() or "no" in example.question.split()
        assert negated == (example.kind == "negated yes/no")


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("Is it red?", "Yes", "yes/no"),
        ("is there no dog?", "no", "negated yes/no"),
        ("Isn't it red?", "no", "negated yes/no"),
        ("Is this a notebook?", "no", "yes/no"),
        ("How many?", "3", "number"),
        ("How far?", "1,200.5", "number"),
        ("Which page?", "3 and 4", "other"),
        ("Why is it not red?", "rust", "other"),
        ("What is it?", "Dark Red", "colour"),
    ],
)
def test_kind_of(question, answer, kind):
    assert kind_of(question, answer, {"colour": "dark red"}) == kind


def manifest_of(folder, *rows):
    (folder / "card.yaml").write_text("name: mine\nmodality: audio\nstage: evaluate\n")
    (folder / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return load_manifest(folder / "card.yaml")


def test_windows_are_media_of_their_own_and_the_usual_answer_counts(tmp_path):
    ask = {"audio": "a.wav", "question": "Who?", "answers": ["a man", "Tom", "Tom"]}
    manifest = manifest_of(
        tmp_path,
        {"id": "caption", "audio": "a.wav", "text": "a voice"},
        {"id": "1", **ask, "end": 2},
        {"id": "2", **ask, "start": 2, "end": 4},
        {"id": "3", **ask, "end": 2, "question": "Where?"},
    )
    examples, rows = written(manifest, "test")
    assert [row.id for row in rows] == ["1", "2"]
    assert [example.items for example in examples] == [(Item("audio", i),) for i in "121"]
    assert {(e.answer, e.kind) for e in examples} == {("Tom", "other")}
    assert written(manifest, "val") == ([], [])


def test_a_manifest_without_questions_is_refused(tmp_path):
    manifest = manifest_of(tmp_path, {"id": "caption", "audio": "a.wav", "text": "a voice"})
    with pytest.raises(ManifestError, match=r"card\.yaml.*questions in the test split.*1 rows"):
        written(manifest, "test")


# From facts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=MANIFESTS)
def asked(request):
    manifest = profile_manifest(MANIFESTS[request.param])
    values = manifest.fact_values
    return manifest, from_facts(manifest.rows, request.param, seed=0, fact_values=values)


def test_answers_are_true_of_the_rows(asked):
    manifest, examples = asked
    rows = {row.id: row for row in manifest.rows}
    assert len(examples) == 2 * len(manifest.fact_values) * len(rows)
    for example in examples:
        (item,) = example.items
        fact, _, whether = example.kind.partition(" ")
        value = rows[item.id].facts[fact]
        assert item.modality == manifest.modality
        assert 4 <= len(example.question.replace(value, "value").split()) <= 12
        if not whether:
            assert example.answer == value and value not in example.question.split()
        else:
            # Longest first: "row" stands in "bent over row".
            named = [v for v in manifest.fact_values[fact] if f" {v}" in example.question]
            assert (example.answer == "yes") == (max(named, key=len) == value)


def test_questions_do_not_give_their_answers_away(asked):
    manifest, examples = asked
    whethers = [e for e in examples if e.kind.endswith("yes/no")]
    for kind in {e.kind for e in whethers}:
        answers = Counter(e.answer for e in whethers if e.kind == kind)
        n = answers.total()
        assert abs(answers["yes"] - n / 2) < 2.5 * n**0.5, "within five standard deviations"
    fact_questions = {e.question for e in examples if e.kind in manifest.fact_values}
    assert len(fact_questions) == 2 * len(manifest.fact_values), "both phrasings are used"


def test_both_asks_about_the_right_value_and_a_wrong_one():
    rows = [make_row("a", {"animal": "dog", "place": "park"}), make_row("b", {"animal": "cat"})]
    values = {"animal": ["cat", "cow", "dog"], "place": ["park"]}
    examples = from_facts(rows, "audio", seed=0, fact_values=values, both=True)
    asked = [(e.items[0].id, e.kind, e.answer) for e in examples]
    assert asked == [
        ("a", "animal", "dog"),
        ("a", "animal yes/no", "yes"),
        ("a", "animal yes/no", "no"),
        ("a", "place", "park"),
        ("b", "animal", "cat"),
        ("b", "animal yes/no", "yes"),
        ("b", "animal yes/no", "no"),
    ]
    for example in examples:
        value = {"a": "dog", "b": "cat"}[example.items[0].id]
        if example.kind.endswith("yes/no"):
            assert (f" {value}?" in example.question) == (example.answer == "yes")


def test_the_mini_profiles_facts_have_phrasings_of_their_own():
    for modality, name in MANIFESTS.items():
        assert QUESTIONS[modality].keys() == profile_manifest(name).fact_values.keys()
        for whats, whethers in QUESTIONS[modality].values():
            assert len(whats) == len(whethers) == 2
            assert all("{value}" in text for text in whethers)
            assert not any("{" in text for text in whats)


def test_facts_of_ones_own_are_asked_in_generic_words():
    rows = [make_row("a", {"animal": "dog", "place": "park"})]
    values = {"animal": ["cat", "dog"], "place": ["park"]}
    what, whether, place = from_facts(rows, "audio", seed=0, fact_values=values)
    assert (what.question, what.answer, what.kind) == ("What is the animal?", "dog", "animal")
    assert whether.question in ("Is the animal dog?", "Is the animal cat?")
    assert (place.question, place.kind) == ("What is the place?", "place"), "and nothing to deny"
    table = {"audio": {"animal": (("Who barks?",), ("Does a {value} bark?",))}}
    what, whether, _ = from_facts(rows, "audio", table, seed=0, fact_values=values)
    assert (what.question, whether.question[:7]) == ("Who barks?", "Does a ")


FACTS = st.fixed_dictionaries(
    {}, optional={n: st.sampled_from("uvwx") for n in ("notes", "tempo", "other")}
)


@settings(max_examples=50)
@given(
    facts=st.dictionaries(st.text(min_size=1), FACTS, max_size=8),
    seed=st.integers(),
    draw=st.randoms(),
)
def test_what_a_row_is_asked_depends_on_the_row_alone(facts, seed, draw):
    rows = [make_row(name, of) for name, of in facts.items()]
    values = {name: "uvwx" for name in ("notes", "tempo", "other")}

    def asked_of(rows):
        return from_facts(rows, "audio", seed=seed, fact_values=values)

    alone = {row.id: asked_of([row]) for row in rows}
    draw.shuffle(rows)
    assert asked_of(rows) == [example for row in rows for example in alone[row.id]]
    turned = [replace(row, facts=dict(reversed(row.facts.items()))) for row in rows]
    assert set(asked_of(turned)) == set(asked_of(rows))


def test_another_seed_asks_otherwise():
    manifest = profile_manifest("phrases")
    first, second = (
        from_facts(manifest.split("test"), "audio", seed=seed, fact_values=manifest.fact_values)
        for seed in (0, 1)
    )
    assert first != second
