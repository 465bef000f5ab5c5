"""Tasks: one table of prompts, decoding and metrics, and what running one on rows says."""

import json
from dataclasses import replace

import numpy as np
import pytest

from anymal_lib.bank import build_bank
from anymal_lib.config import load_profile
from anymal_lib.controls import CONTROLS
from anymal_lib.errors import DataError
from anymal_lib.evaluate import captions
from anymal_lib.inputs import Image
from anymal_lib.instruct.answers import answers
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.questions import written
from anymal_lib.manifest import load_manifest
from anymal_lib.metrics.named import METRICS, NEED_LIKELIHOODS, Answered, score
from anymal_lib.modalities import MODALITIES, open_row
from anymal_lib.paper import PROMPTS
from anymal_lib.prompt import render
from anymal_lib.sources import profile_manifest
from anymal_lib.tasks.evaluate import evaluate_task
from anymal_lib.tasks.table import TASKS, json_caption, listed
from anymal_lib.tasks.tables import score_table, task_metrics, task_table

COLOURS = ("blue", "green", "red", "white")


@pytest.fixture(scope="module")
def model(new_model):
    """Fresh adapters; the mini profile's fine-tuning, for the limit of its answers."""
    mini = load_profile("mini")
    return new_model(32, finetune=replace(mini.finetune, max_new_tokens=6))


@pytest.fixture(scope="module")
def vqa():
    """easy-VQA's official questions."""
    return profile_manifest("easy-vqa-questions")


@pytest.fixture(scope="module")
def questions(vqa):
    """Twelve questions about a few pictures."""
    return vqa.split("test")[:12]


@pytest.fixture(scope="module")
def rows_for(questions, card_of):
    """Task -> rows that fit it, each with what its benchmark has."""
    squares, tones, motions, moves = (
        load_manifest(card_of[name]).split("test") for name in ("image", "audio", "imu", "video")
    )
    asked = [
        replace(r, question="Which colour?", options=COLOURS, answers=(r.facts["colour"],), text=())
        for r in squares
    ]
    films = [
        replace(r, question="Where to?", options=("left", "to the right"), text=(),
                answers=(("left", "to the right")[r.facts["direction"] == "right"],))
        for r in moves[:6]
    ]  # fmt: skip
    memes = [replace(r, options=("no", "yes")) for r in questions if r.answers[0] in ("yes", "no")]
    ten = [replace(r, answers=r.answers * 7 + ("blue",) * 3) for r in questions]
    return {
        "captions": squares,
        "questions": questions,
        "coco": squares,
        "vqa": ten,
        "vizwiz": ten[:3],
        "science-qa": asked,
        "video-qa": films,
        "hateful-memes": memes,
        "audio-captions": tones,
        "imu-captions": motions,
    }


@pytest.fixture(scope="module")
def reports(model, rows_for):
    """Task -> its report on these rows."""
    return {name: evaluate_task(model, TASKS[name], rows) for name, rows in rows_for.items()}


def test_every_prompt_of_the_paper_belongs_to_one_task():
    told = [task.prompt for task in TASKS.values() if task.prompt]
    assert sorted(told, key=PROMPTS.index) == list(PROMPTS)
    for name, task in TASKS.items():
        assert task.name == name and set(task.metrics) <= set(METRICS)
        assert task.about == "options" or not NEED_LIKELIHOODS & set(task.metrics)


def test_captions_are_asked_for_as_alignment_trained(model, rows_for, reports, bank_of, card_of):
    report = reports["captions"]
    assert report.said == captions(model, "image", bank_of(card_of["image"], "test"))
    assert len(set(report.said)) >= 4, "they differ, so that equality says something"


def test_media_that_are_encoded_already_are_not_encoded_again(
    model, reports, bank_of, card_of, monkeypatch
):
    bank = bank_of(card_of["image"], "test")
    monkeypatch.setattr("anymal_lib.tasks.evaluate.profile_bank", None)  # a call would fail
    found = evaluate_task(model, TASKS["captions"], bank.rows, bank=bank)
    assert found.said == reports["captions"].said and found.scores == reports["captions"].scores


def test_questions_are_asked_as_fine_tuning_trained(model, vqa, questions, reports, bank_of):
    short = replace(vqa, rows=tuple(questions))
    examples, rows = written(short, "test")
    bank = build_bank(model.encoders["image"], rows, batch=16, max_bad_share=0, title="questions")
    media = Media({"image": bank})
    tokens = media.all_tokens(model, [item for e in examples for item in e.items])
    assert reports["questions"].said == answers(model, examples, tokens)["clean"]


def beginning(text):
    """Eight words: in a batch sums are rounded otherwise, and a model of random weights comes to a
    near tie sooner or later, after which two long answers have nothing in common."""
    return text.split()[:8]


def own_answer(model, task, row, item):
    """The answer to a prompt that is put together here, alone in its batch."""
    system = [model.profile.system + " "]
    if task.prompt:
        told = task.prompt.instruction.replace("{options}", listed(row.options))
        question = row.question
        if task.about == "captions":
            question = model.spec(row.modality).instructions[0]
        system, user = [f"{model.profile.system} {told} ", object()], [question]
    prompt = render(model.llm, user, system=system)
    said = model.respond([prompt], model.encode([item]), max_new_tokens=task.max_new_tokens)[0]
    return json_caption(said) if task.reply == "json" else said


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.prompt])
def test_every_task_of_the_paper_runs_on_rows(model, rows_for, reports, name):
    task, report = TASKS[name], reports[name]
    assert report.rows == rows_for[name] and report.skipped == []
    own = [own_answer(model, task, row, open_row(row)) for row in report.rows]
    assert [beginning(text) for text in report.said] == [beginning(text) for text in own]
    assert list(report.scores) == list(task.metrics)
    for metric, by_control in report.scores.items():
        found = by_control["clean"]
        assert (found.value is None) == (found.absent is not None)
        if metric not in ("spice", "spider", "auc"):
            assert len(found.each) == len(own)
            assert found.interval.low <= found.value <= found.interval.high


def test_the_item_stands_at_the_end_of_the_system_message(model, rows_for):
    row = rows_for["science-qa"][0]
    system, user = TASKS["science-qa"].parts(model.profile, row, [object()])
    before, after = render(model.llm, user, system=system).pieces
    text = model.llm.tokenizer.decode(before)
    assert text.startswith(
        "<|im_start|>system\nYou describe what you sense. Answer with the letter"
    )
    assert text.endswith("(A) blue\n(B) green\n(C) red\n(D) white ")
    assert model.llm.tokenizer.decode(after).startswith(
        "<|im_end|>\n<|im_start|>user\nWhich colour?"
    )


def test_media_that_rows_share_are_encoded_once(own_cache, model, questions, monkeypatch):
    prepared = []
    encoder = model.encoders["image"]
    prepare = encoder.prepare
    monkeypatch.setattr(encoder, "prepare", lambda item: prepared.append(item) or prepare(item))
    evaluate_task(model, TASKS["vqa"], questions)
    assert len(prepared) == len({row.path for row in questions}) < len(questions)


def test_controls_stand_beside_the_items(model, questions):
    rows = [*questions, *(replace(row, id=f"{row.id}-again") for row in questions)]
    report = evaluate_task(model, TASKS["vqa"], rows, controls=CONTROLS)
    assert list(report.answered) == list(report.scores["vqa_accuracy"]) == list(CONTROLS)
    said = {control: [a.said for a in found] for control, found in report.answered.items()}
    blank = MODALITIES["image"].blank()
    assert said["blank"] == [own_answer(model, TASKS["vqa"], row, blank) for row in rows]
    told = f"{model.profile.system} {TASKS['vqa'].prompt.instruction} "
    prompts = [render(model.llm, [row.question], system=[told]) for row in rows]
    assert said["removed"] == model.respond(prompts, [], max_new_tokens=10)
    by_path = {}
    for row, clean, mixed in zip(rows, said["clean"], said["shuffled"], strict=True):
        by_path.setdefault((row.path, row.question), set()).add((clean, mixed))
    assert all(len(found) == 1 for found in by_path.values())
    assert said["shuffled"] != said["clean"]


def test_a_model_that_says_the_truth_scores_one(model, rows_for, reports):
    said = reports["vqa"].said
    rows = [replace(r, answers=(t,) * 10) for r, t in zip(rows_for["vqa"], said, strict=True)]
    true = evaluate_task(model, TASKS["vqa"], rows).scores["vqa_accuracy"]["clean"]
    assert true.value == 1 and true.each == (1.0,) * len(rows)
    rows = [replace(r, answers=("zzz",) * 10) for r in rows_for["vqa"]]
    assert evaluate_task(model, TASKS["vqa"], rows).scores["vqa_accuracy"]["clean"].value == 0


def test_likelihoods_decide_where_the_task_says(reports):
    items = reports["science-qa"].answered["clean"]
    best = [item.options[int(np.argmax(item.likelihoods))] for item in items]
    right = [b in item.truth for b, item in zip(best, items, strict=True)]
    assert reports["science-qa"].scores["likelihood_accuracy"]["clean"].each == tuple(right)
    memes = reports["hateful-memes"]
    margins = [dict(zip(i.options, i.likelihoods, strict=True)) for i in memes.answered["clean"]]
    scores = [m["yes"] - m["no"] for m in margins]
    labels = [row.answers == ("yes",) for row in memes.rows]
    pairs = [(p, n) for p, a in zip(scores, labels, strict=True) if a
             for n, b in zip(scores, labels, strict=True) if not b]  # fmt: skip
    expected = np.mean([(p > n) + (p == n) / 2 for p, n in pairs])
    assert memes.scores["auc"]["clean"].value == pytest.approx(expected)
    assert all(item.likelihoods == () for item in reports["vqa"].answered["clean"])


def test_what_cannot_be_scored_says_why(model, rows_for, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    report = evaluate_task(model, TASKS["audio-captions"], rows_for["audio-captions"])
    table = score_table({"audio-captions": report})["clean"]
    assert table["audio-captions", "spider"] == "absent: SPICE needs Java, which is not here"
    assert table["audio-captions", "cider_d"][0].isdigit()
    plain = json.loads(json.dumps(task_metrics(report)))
    assert plain["spice"]["clean"] == {
        "value": None,
        "absent": "SPICE needs Java, which is not here",
    }
    assert set(plain["cider_d"]["clean"]) == {"value", "low", "high"}
    one = [Answered("a dog", ("a dog",))]
    assert score("cider_d", one).value is None and "two" in score("cider_d", one).absent
    told = [Answered("yes", ("yes",), ("no", "yes"), (-2.0, -1.0))]
    assert score("auc", told).value is None and "both" in score("auc", told).absent
    with pytest.raises(DataError, match="cat"):
        score("auc", [Answered("cat", ("cat",), ("cat", "dog"), (-1.0, -2.0))])


def test_metrics_by_name():
    items = [
        Answered("B. dog", ("dog",), ("cat", "dog"), (-3.0, -1.0)),
        Answered("a cat", ("dog",), ("cat", "dog"), (-3.0, -4.0)),
    ]
    assert score("choice_accuracy", items).each == (1, 0)
    assert score("likelihood_accuracy", items).each == (1, 0)
    said = [Answered("A dog runs fast.", ("a dog runs fast", "x")), Answered("no", ("a cat sits",))]
    assert score("exact_match", said).each == (1, 0)
    assert score("rouge_l", said).value == pytest.approx(0.5)
    assert 0 < score("bleu_4", said).value < 1 and score("bleu_4", said).interval is None
    assert score("cider_d", said, seed=3) == score("cider_d", said, seed=3)


def test_rows_that_do_not_fit_are_left_out_or_refused(model, rows_for):
    squares, questions = rows_for["captions"], rows_for["questions"]
    both = evaluate_task(model, TASKS["vqa"], [*squares, *questions[:2]])
    assert both.rows == list(questions[:2])
    for name, needs in (("vqa", "question"), ("science-qa", "options")):
        with pytest.raises(DataError, match=needs):
            evaluate_task(model, TASKS[name], squares)
    many = replace(questions[0], options=tuple(map(str, range(27))), answers=("1",))
    assert not TASKS["science-qa"].fits(many)
    with pytest.raises(DataError, match="smell"):
        evaluate_task(model, TASKS["vqa"], [replace(questions[0], modality="smell")])
    with pytest.raises(ValueError, match="dark"):
        evaluate_task(model, TASKS["vqa"], questions[:1], controls=["dark"])


def test_media_that_cannot_be_read_are_named(model, rows_for, tmp_path):
    bad = replace(rows_for["vqa"][0], id="gone", path=tmp_path / "gone.png")
    report = evaluate_task(model, TASKS["vqa"], [bad, *rows_for["vqa"]])
    assert report.rows == rows_for["vqa"] and [b.id for b in report.skipped] == ["gone"]


@pytest.mark.parametrize(
    ("response", "caption"),
    [
        ('{"caption": "A dog."}', "A dog."),
        ('Sure: {"caption":"A \\"big\\" dog"} ', 'A "big" dog'),
        ('{"caption": "A dog that ru', "A dog that ru"),
        ("A dog.", "A dog."),
        ('{"text": "A dog."}', '{"text": "A dog."}'),
        ("", ""),
    ],
)
def test_a_caption_in_json(response, caption):
    assert json_caption(response) == caption


def test_frames():
    table = task_table()
    assert list(table.index) == list(TASKS)
    assert table.loc["video-qa", "benchmarks"] == "STAR, How2QA, NextQA"
    assert set(table["decoding"]) == {"greedy"}
    assert table.loc["questions", "modality tokens"] == "after the question"
    assert table.loc["vqa", "modality tokens"] == "end of the system message"


def test_a_picture_alone_changes_the_answer(model, rows_for):
    task, row = TASKS["vqa"], rows_for["vqa"][0]
    other = Image(np.full((64, 64, 3), 255, np.uint8))
    assert own_answer(model, task, row, open_row(row)) != own_answer(model, task, row, other)
