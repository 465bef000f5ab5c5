"""Invented names, and what is measured with them: off, on, and with a wrong text."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.bank import Bank
from anymal_lib.errors import DataError
from anymal_lib.manifest import load_manifest
from anymal_lib.metrics.facts import words
from anymal_lib.metrics.intervals import Interval
from anymal_lib.modalities import open_row
from anymal_lib.retrieval import Corpus, Entry, figures, stages, tables
from anymal_lib.retrieval.naming import (
    ANSWER_TOKENS,
    CONDITIONS,
    QUESTION,
    Asked,
    NamingReport,
    ask_names,
    first_title,
    invented_names,
    named_things,
)
from anymal_lib.runs import plain, start


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return tiny_llm(32)


@pytest.fixture(scope="module")
def model(new_model):
    built = new_model(32)
    built.adapters.eval()
    return built


# names --------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**40))
def test_names_are_new_short_and_follow_from_the_seed(llm, count, seed):
    names = invented_names(llm, count, "", seed=seed)
    assert names == invented_names(llm, count, "", seed=seed)
    assert len({name.lower() for name in names}) == count
    assert all(
        len(llm.tokenize(f" {name}")) in (2, 3) and name == name.capitalize() for name in names
    )
    known = f"one says {names[0].lower()}s"
    assert names[0] not in invented_names(llm, count, known, seed=seed)


def test_other_seeds_give_other_names(llm):
    assert invented_names(llm, 20, "", seed=0) != invented_names(llm, 20, "", seed=1)


def test_more_things_than_names_are_refused(llm):
    with pytest.raises(DataError, match=r"100000.*LIMIT"):
        invented_names(llm, 100_000, "", seed=0)


@pytest.mark.parametrize(
    ("modality", "things"),
    [
        ("image", 8),  # no shape among its facts: by colour and side
        ("imu", 2),
        ("audio", 4),
        ("video", 4),
    ],
)
def test_each_meaning_has_a_name_that_its_data_does_not_know(llm, card_of, modality, things):
    manifest = load_manifest(card_of[modality])
    entries, titles = named_things(llm, manifest, seed=0)
    assert len(entries) == things and titles.keys() == {row.id for row in manifest.rows}
    said = " ".join(text for row in manifest.rows for text in row.text).lower()
    text_of = {entry.title: entry.text for entry in entries}
    for row in manifest.rows:
        title = titles[row.id]
        assert title.lower() not in said
        assert all(fact in text_of[title] for fact in row.facts.values())
        assert text_of[title].endswith(f" is called a {title}.") and text_of[title][0].isupper()


def test_things_are_told_apart_by_the_facts_that_name_them(llm, video_card):
    """A clip's thing is its colour and shape, wherever it moves."""
    manifest = load_manifest(video_card)
    rows = [replace(row, facts={**row.facts, "shape": "rectangle"}) for row in manifest.rows]
    entries, titles = named_things(llm, replace(manifest, rows=tuple(rows)), seed=0)
    assert [entry.text.split(" is ")[0] for entry in entries] == [
        "A blue rectangle",
        "A red rectangle",
    ]
    by_colour = {(row.facts["colour"], titles[row.id]) for row in rows}
    assert len(by_colour) == 2


# answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("It is a BODEL, no Tranik.", "Bodel"),
        ("tranik and Bodel", "Tranik"),
        ("A Bodeler", None),
        ("", None),
        ("a old  mill.", "Old Mill"),
    ],
)
def test_the_first_title_that_is_said_counts(tiny_encoders, answer, title):
    entries = [Entry("Bodel", "a"), Entry("Tranik", "b"), Entry("Old Mill", "c")]
    assert first_title(answer, Corpus.build(entries, tiny_encoders["image"])) == title


@pytest.fixture(scope="module")
def squares(llm, bank_of, image_card, tiny_encoders):
    """The held-out squares, and the corpus of their names."""
    entries, titles = named_things(llm, load_manifest(image_card), seed=0)
    return bank_of(image_card, "test"), Corpus.build(entries, tiny_encoders["image"]), titles


@pytest.fixture(scope="module")
def report(model, squares):
    return ask_names(model, "image", *squares, k=2)


def test_each_condition_reads_what_it_should(report, squares, model):
    bank, corpus, titles = squares
    assert list(report.asked) == list(CONDITIONS)
    assert report.titles == [titles[row.id] for row in bank.rows]
    assert report.asked["off"].read == [[]] * len(bank)
    near = corpus.nearest(bank.embeddings(model.encoders["image"]), 2)
    assert report.asked["on"].read == [[n.entry for n in found] for found in near]
    for title, (entry,) in zip(report.titles, report.asked["wrong"].read, strict=True):
        assert entry in corpus.entries and entry.title != title


def test_answers_are_those_of_the_models_own_interface(report, model):
    for asked in report.asked.values():
        for row, read, answer in list(zip(report.rows, asked.read, asked.answers, strict=True))[:3]:
            text = "".join(f" {entry.text}" for entry in read)
            prompt = [open_row(row), f"{text}{QUESTION}"]
            assert answer == model.generate(prompt, max_new_tokens=ANSWER_TOKENS)


def test_scores_count_names_and_recall_counts_texts(report, squares):
    corpus = squares[1]
    for asked in report.asked.values():
        said = [first_title(answer, corpus) for answer in asked.answers]
        assert asked.right == [a == b for a, b in zip(said, report.titles, strict=True)]
        assert asked.score.value == pytest.approx(sum(asked.right) / len(asked.right))
    first = [read[0].title == t for t, read in zip(report.titles, report.asked["on"].read)]  # noqa: B905
    assert report.recall_at_1 == pytest.approx(sum(first) / len(first))
    assert report.recall_at_1 <= report.recall_at_k <= 1
    assert (report.corpus, report.k) == (len(corpus), 2)


def test_truth_serves_the_scores_alone(model, squares, report):
    """With the truth exchanged among the things, what is read and answered stays."""
    bank, corpus, titles = squares
    moved = dict(
        zip(titles, [*list(titles.values())[1:], next(iter(titles.values()))], strict=True)
    )
    other = ask_names(model, "image", bank, corpus, moved, k=2)
    for condition in ("off", "on"):
        assert other.asked[condition].read == report.asked[condition].read
        assert other.asked[condition].answers == report.asked[condition].answers
    assert other.titles != report.titles


def test_perfect_embeddings_are_perfectly_recalled(model, squares):
    """Features whose embedding is that of the item's own text find that text."""
    bank, corpus, titles = squares
    encoder = model.encoders["image"]
    of_title = {e.title: encoder.encode_text([e.text])[0] for e in corpus.entries}

    class Told(Bank):
        def embeddings(self, encoder, batch=256):
            return torch.stack([of_title[titles[row.id]] for row in self.rows])

    told = Told(bank.rows, bank.intermediate, [])
    found = ask_names(model, "image", told, corpus, titles)
    assert found.recall_at_1 == found.recall_at_k == 1


def test_a_corpus_of_one_text_has_no_wrong_one(model, squares, tiny_encoders):
    one = Corpus.build(squares[1].entries[:1], tiny_encoders["image"])
    with pytest.raises(DataError, match="two texts"):
        ask_names(model, "image", squares[0], one, squares[2])


# what the notebook shows --------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "imu"])
def test_the_stage_builds_saves_and_asks(model, card_of, tmp_path, modality):
    parameters = {"OUTPUT_DIR": str(tmp_path), "MANIFEST": str(card_of[modality]), "SEED": 3}
    run = start("07_evaluate", {**parameters, "PROFILE": "mini"})
    found = stages.name_things(run, model, modality)
    saved = Corpus.load(run.output / "corpus" / modality, model.encoders[modality])
    assert len(saved) == found.corpus and set(found.titles) <= {e.title for e in saved.entries}
    assert len(found.rows) == 8 and all(row.split == "test" for row in found.rows)
    metrics = json.loads(json.dumps(plain(stages.retrieval_metrics({modality: found}))))
    assert {"on", "off", "wrong", "recall_at_1", "by_modality"} <= metrics.keys()
    assert metrics["by_modality"][modality]["n"] == 8
    assert metrics["on"] == pytest.approx(found.asked["on"].score.value)


def told(rows, right):
    """A report of hand-made answers."""
    entries = [Entry(f"Name{k}", f"Thing {k} is called a Name{k}.") for k in range(len(rows))]

    def asked(read, right):
        said = [e.title if ok else "a thing" for e, ok in zip(entries, right, strict=True)]
        return Asked(read, said, right, Interval(sum(right) / len(right), 0.1, 0.9))

    never = [False] * len(rows)
    conditions = {
        "off": asked([[] for _ in rows], never),
        "on": asked([[e] for e in entries], right),
        "wrong": asked([[e] for e in entries], never),
    }
    return NamingReport(rows, [e.title for e in entries], conditions, 0.5, 0.75, 0.25, 9, 1)


def test_the_table_has_a_line_for_each_modality(squares):
    report = told(squares[0].rows[:4], [True, True, True, False])
    table = tables.naming_scores({"image": report, "imu": report})
    assert list(table.index) == ["image", "imu"]
    assert table.loc["imu", "on"] == "0.750 (0.100-0.900)"
    assert table.loc["imu", "off"].startswith("0.000")
    assert table.loc["image", "recall@1"] == "0.500" and table.loc["image", "items"] == 4


@pytest.mark.parametrize("right", [[True] * 6, [False] * 6, [True, False] * 3, [True]])
def test_the_figure_shows_items_texts_and_both_answers(squares, right):
    rows = squares[0].rows[: len(right)]
    report = told(rows, right)
    figure = figures.named(report, count=4)
    shown = [words(t.get_text()) for axis in figure.axes for t in axis.texts]
    assert len(figure.axes) == 2 * min(4, sum(right) + (not all(right)))
    assert any("is called a" in text for text in shown)
    assert any(text.startswith("on") and "truth" in text for text in shown) == (not all(right))
    plt.close(figure)
