"""The stages of notebook 07, one call each: the model, its captions, answers and pairs, ratings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anymal_lib import rating
from anymal_lib.controls import CONTROLS
from anymal_lib.evaluation.beside import Beside, beside
from anymal_lib.grounding.report import Grounding, grounding_metrics
from anymal_lib.grounding.stages import HeldOut
from anymal_lib.instruct import stages as instruct
from anymal_lib.instruct.answers import AnswerReport, answer_questions
from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.pairs import item_pairs
from anymal_lib.lora import merge_lora
from anymal_lib.manifest import Manifest
from anymal_lib.model import AnyMAL
from anymal_lib.paper.verdicts import claims
from anymal_lib.retrieval.naming import NamingReport
from anymal_lib.retrieval.stages import retrieval_metrics
from anymal_lib.rows import Row
from anymal_lib.runs import Run
from anymal_lib.saving import CONFIG
from anymal_lib.sources import profile_manifest
from anymal_lib.stages import limited, spread
from anymal_lib.tasks.evaluate import TaskReport, evaluate_task
from anymal_lib.tasks.table import TASKS
from anymal_lib.tasks.tables import task_metrics

log = logging.getLogger(__name__)

FINETUNED = "06_finetune_mmit"
_QUESTIONS = 1000  # about pictures
_PAIRS = 280  # forty of each kind
_RATED = 24  # items that raters see


def tuned_model(run: Run) -> AnyMAL:
    """The model that notebook 06 fine-tuned, its LoRA merged; made first where it is not there."""
    folder = run.output.parent / FINETUNED / "adapter"
    if not (folder / CONFIG).is_file():
        log.info("%s has not run here: fine-tuning first, which takes a while ...", FINETUNED)
        folder.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: run.asked[name] for name in ("LIMIT", "BITS", "STEPS") if name in run.asked}
        before = replace(run, notebook=FINETUNED, output=folder.parent, manifest=None, asked=kept)
        aligned = instruct.aligned_model(before)
        data = instruct.instruction_set(before, aligned)
        instruct.tune(before, aligned, data, lora=True)
    model = AnyMAL.from_pretrained(folder, bits=run.asked.get("BITS"))
    if model.llm.bits >= 16:
        merge_lora(model.llm)
    return model


def caption_reports(run: Run, model: AnyMAL, items: HeldOut) -> dict[str, TaskReport]:
    """Captions of the held-out items, asked for as in training."""
    return {
        modality: evaluate_task(model, TASKS["captions"], bank.rows, seed=run.seed, bank=bank)
        for modality, (_, bank) in items.items()
    }


def aligned_model(run: Run, modality: str) -> AnyMAL:
    """The model as it was before fine-tuning, with one modality's adapter."""
    return instruct.aligned_model(run, (modality,))


def question_report(run: Run, model: AnyMAL) -> TaskReport:
    """Answers to held-out questions about pictures, and the same under every control."""
    name = model.profile.finetuning.questions["image"]
    rows = spread(limited(run, profile_manifest(name)).split("test"), _QUESTIONS)
    return evaluate_task(model, TASKS["questions"], rows, controls=CONTROLS, seed=run.seed)


def pair_report(run: Run, model: AnyMAL, items: HeldOut) -> AnswerReport:
    """Answers to questions about two held-out items, of one modality or of two."""
    media = Media({modality: bank for modality, (_, bank) in items.items()})
    rows = {modality: bank.rows for modality, bank in media.banks.items()}
    return answer_questions(model, media, item_pairs(rows, count=_PAIRS, seed=run.seed))


def studies(
    run: Run, manifest: Manifest, rows: Sequence[Row], systems: Mapping[str, Sequence[str]]
) -> tuple[Path, Path]:
    """Two blind studies of some rows' captions by `systems`: against the reference, and points.

    Both carry the ratings of the declared rule, which compares captions with known facts.
    """
    answers = {**systems, "reference": [row.text[0] for row in rows]}
    prompt = run.profile.modality(manifest.modality).instructions[0]
    items = rating.sample(rating.items_of_rows(rows, prompt, answers), _RATED, run.seed)
    folder = run.output / "ratings"
    pairs = rating.Study.pairs(items, against="reference", seed=run.seed).save(folder)
    points = rating.Study.rubric(items, seed=run.seed).save(folder)
    known = rating.known_of_rows(rows, manifest.fact_values)
    for study in (pairs, points):
        rating.rate_by_facts(study, known)
    return pairs, points


def beside_paper(
    captions: Mapping[str, TaskReport], questions: TaskReport, items: HeldOut
) -> list[Beside]:
    """Captions and answers beside the paper's rows, with the names of the data here."""
    data = {modality: manifest.card.name for modality, (manifest, _) in items.items()}
    return beside(captions, questions, {**data, "questions": "easy-vqa-questions"})


def by_item(rows: Sequence[Row]) -> dict[Item, Row]:
    """Rows by the item that a page of ratings shows."""
    return {Item(row.modality, row.id): row for row in rows}


def evaluation_metrics(
    captions: Mapping[str, TaskReport],
    questions: TaskReport,
    pairs: AnswerReport,
    grounding: Mapping[str, Grounding],
    naming: Mapping[str, NamingReport],
    compared: rating.Results,
    lines: Sequence[Beside],
    seed: int,
) -> dict[str, Any]:
    """The `metrics` part of metrics.json for notebook 07."""
    checked = claims()
    return {
        "tables": {
            "captions": {modality: task_metrics(found) for modality, found in captions.items()},
            "questions": task_metrics(questions),
            "beside_the_paper": lines,
        },
        "interleaved": {"agreement_accuracy": pairs.accuracy, "kinds": pairs.by_kind},
        **grounding_metrics(grounding),
        "retrieval_augmented": retrieval_metrics(naming),
        "ratings": compared.summary(seed),
        "paper": {
            "claims_checked": len(checked),
            "claims_that_fail": sum(not claim.holds for claim in checked),
        },
    }
