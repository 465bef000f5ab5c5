"""lmms-eval itself runs AnyMAL on a local task, and its scores are the kit's."""

import pytest
import yaml

lmms_eval = pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (docs/harness.md)")

from anymal_lib.errors import ConfigError  # noqa: E402
from anymal_lib.harness import NAME, answering, manifest  # noqa: E402
from anymal_lib.harness.model import AnyMALModel  # noqa: E402
from anymal_lib.instruct.answers import answer_questions  # noqa: E402
from anymal_lib.instruct.media import Media  # noqa: E402
from anymal_lib.instruct.questions import written  # noqa: E402
from anymal_lib.metrics import words  # noqa: E402
from anymal_lib.runs import ROOT  # noqa: E402

TASKS = ROOT / "anymal_lib" / "harness" / "tasks" / "easy_vqa"


@pytest.fixture(scope="module")
def saved(new_model, tmp_path_factory):
    return new_model().save_pretrained(tmp_path_factory.mktemp("saved") / "adapter")


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


def test_its_answers_and_score_are_the_kits(results, saved, questions, bank_of, image_card):
    from anymal_lib import AnyMAL

    examples, rows = written(questions, "test")
    model = AnyMAL.from_pretrained(saved)
    bank = build(model, rows)
    report = answer_questions(model, Media({"image": bank}), examples)
    samples = sorted(results["samples"]["easy_vqa"], key=lambda s: s["doc_id"])
    said = [sample["resps"][0][0] for sample in samples]
    assert list(map(words, said)) == list(map(words, report.answers)) and len(set(said)) > 1
    assert results["results"]["easy_vqa"]["exact_match,none"] == pytest.approx(report.accuracy)


def build(model, rows):
    from anymal_lib.bank import build_bank

    return build_bank(
        model.encoders["image"], rows, batch=16, max_bad_share=0.0, title="asked squares"
    )


def test_the_likeliest_choice_counts(results, saved, asked_squares):
    from anymal_lib import AnyMAL

    model = AnyMAL.from_pretrained(saved)
    choices = yaml.safe_load((TASKS / "easy_vqa_choices.yaml").read_text())["doc_to_choice"]
    samples = sorted(results["samples"]["easy_vqa_choices"], key=lambda s: s["doc_id"])
    assert len(samples) == 16
    from datasets import load_dataset

    documents = load_dataset("parquet", data_files=str(asked_squares), split="train")
    right = []
    for document, sample in zip(documents, samples, strict=True):
        asked = answering.Request(document["question"], lambda d=document: [d["image"]], 0)
        found = answering.losses(model, [asked] * 13, choices, batch=13)
        best = min(range(13), key=lambda k: found[k][0])
        right.append(choices[best] == document["answer"])
        assert sample["acc"] == right[-1]
    assert results["results"]["easy_vqa_choices"]["acc,none"] == pytest.approx(sum(right) / 16)


def test_other_kinds_of_requests_are_refused(saved):
    model = AnyMALModel(pretrained=str(saved), batch_size=2)
    with pytest.raises(ConfigError, match="generate_until_multi_round"):
        model.generate_until_multi_round([])
    with pytest.raises(ConfigError, match="generate_visual_cot"):
        model.generate_visual_cot([])
