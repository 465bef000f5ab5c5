"""lmms-eval itself runs AnyMAL on a local task, and its scores are the kit's."""

import pytest
import yaml

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (docs/harness.md)")

from datasets import load_dataset

from anymal_lib import AnyMAL, load_profile
from anymal_lib.bank import build_bank
from anymal_lib.errors import ConfigError
from anymal_lib.harness import NAME, manifest
from anymal_lib.harness.answering import Request, losses
from anymal_lib.harness.model import AnyMALModel
from anymal_lib.instruct.answers import answer_questions
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.questions import written
from anymal_lib.metrics.facts import words
from anymal_lib.runs import ROOT

TASKS = ROOT / "anymal_lib" / "harness" / "tasks" / "easy_vqa"


@pytest.fixture(scope="module")
def saved(new_model, tmp_path_factory):
    """Its recipe says how long an answer may be, as easy_vqa.yaml does."""
    model = new_model(finetune=load_profile("mini").finetune)
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "adapter")


@pytest.fixture(scope="module")
def results(saved, asked_squares, tmp_path_factory):
    """Both tasks as they stand, on the squares in place of easy-VQA."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    for file in TASKS.glob("*.yaml"):
        task = yaml.safe_load(file.read_text())
        if "dataset_kwargs" in task:
            task["dataset_kwargs"]["data_files"]["test"] = str(asked_squares)
        (folder / file.name).write_text(yaml.safe_dump(task))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder / "cache"))
        return simple_evaluate(
            model=NAME,
            model_args=f"pretrained={saved}",
            tasks=["easy_vqa", "easy_vqa_choices"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            batch_size="auto",
            log_samples=True,
            bootstrap_iters=0,
            process_docs_parallel=1,
        )


def test_lmms_eval_finds_the_model():
    from lmms_eval.models import get_model

    assert get_model(NAME) is AnyMALModel
    assert manifest().model_id == NAME


def test_its_answers_and_score_are_the_kits(results, saved, questions):
    examples, rows = written(questions, "test")
    model = AnyMAL.from_pretrained(saved)
    bank = build_bank(model.encoders["image"], rows, batch=16, max_bad_share=0.0, title="squares")
    report = answer_questions(model, Media({"image": bank}), examples)
    said = [sample["resps"][0][0] for sample in samples_of(results, "easy_vqa")]
    assert list(map(words, said)) == list(map(words, report.answers))
    assert len(set(said)) > 1
    score = results["results"]["easy_vqa"]["exact_match,none"]
    assert score == pytest.approx(report.accuracy)


def test_the_likeliest_choice_counts(results, saved, asked_squares):
    model = AnyMAL.from_pretrained(saved)
    choices = yaml.safe_load((TASKS / "easy_vqa_choices.yaml").read_text())["doc_to_choice"]
    documents = load_dataset("parquet", data_files=str(asked_squares), split="train")
    right = []
    for document, sample in zip(documents, samples_of(results, "easy_vqa_choices"), strict=True):
        asked = Request(document["question"], lambda d=document: [d["image"]], 0)
        found = losses(model, [asked] * len(choices), choices, batch=16)
        best = min(range(len(choices)), key=lambda k: found[k][0])
        right.append(choices[best] == document["answer"])
        assert sample["acc"] == right[-1]
    score = results["results"]["easy_vqa_choices"]["acc,none"]
    assert score == pytest.approx(sum(right) / len(right))


def samples_of(results, task):
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


def test_other_kinds_of_requests_are_refused(saved):
    model = AnyMALModel(pretrained=str(saved), batch_size=2)
    with pytest.raises(ConfigError, match="generate_until_multi_round"):
        model.generate_until_multi_round([])
    with pytest.raises(ConfigError, match="generate_visual_cot"):
        model.generate_visual_cot([])
