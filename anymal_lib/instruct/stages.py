"""The stages of notebook 06, one call each: aligned model, data, fine-tuning, what it can and cost.

A modality that its own notebook has not aligned yet is aligned here, says so, and is reused.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from anymal_lib import stages
from anymal_lib.controls import CONTROLS
from anymal_lib.evaluate import exact_captions
from anymal_lib.instruct.answers import AnswerReport, answer_questions
from anymal_lib.instruct.examples import Example
from anymal_lib.instruct.filter import Judged, counts, judge
from anymal_lib.instruct.finetune import finetune
from anymal_lib.instruct.mixture import dialogues, item_first
from anymal_lib.instruct.perplexity import perplexity
from anymal_lib.instruct.plain_text import plain_text
from anymal_lib.instruct.planted import planted
from anymal_lib.instruct.sets import TURNS, InstructionSet, at_most
from anymal_lib.instruct.sets import instruction_set as instruction_set  # the notebook's next stage
from anymal_lib.instruct.synthetic import Yield, synthesize
from anymal_lib.instruct.words import Worded
from anymal_lib.instruct.writers import EndpointWriter, LocalWriter, Writer
from anymal_lib.llm import load_llm
from anymal_lib.lora import merged_lora
from anymal_lib.model import AnyMAL
from anymal_lib.progress import Progress
from anymal_lib.runs import Run
from anymal_lib.saving import CONFIG, attach, save
from anymal_lib.seeds import generator_for
from anymal_lib.tracking import tracked
from anymal_lib.train import StepReport, final_loss

log = logging.getLogger(__name__)

NOTEBOOKS = {
    "image": "02_align_image",
    "imu": "03_align_imu",
    "audio": "04_align_audio",
    "video": "05_align_video",
}
_SAMPLE = 200  # questions, and items to caption, of each modality on which stages are compared
_ITEMS = 32  # that a writer is asked about
_PLANTED = 200
_KEY = "ANYMAL_WRITER_KEY"  # the environment variable of an endpoint's key


def aligned_model(
    run: Run,
    modalities: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> AnyMAL:
    """The LLM with the adapters that notebooks 02 to 05 aligned on captions.

    `modalities` None means all that the profile has questions about. `on_progress` is told how
    many parts are ready, of how many.
    """
    profile = run.for_finetuning()
    modalities = tuple(modalities or profile.finetuning.questions)
    total = 1 + len(modalities)
    on_progress(0, total)
    model = AnyMAL(load_llm(profile.llm, bits=profile.bits), profile)
    for done, modality in enumerate(modalities, start=1):
        on_progress(done, total)
        notebook = NOTEBOOKS[modality]
        folder = run.output.parent / notebook / "adapter"
        if not (folder / CONFIG).is_file():
            log.info("%s has not run here: aligning its adapter first ...", notebook)
            kept = {name: run.asked[name] for name in ("LIMIT", "BITS") if name in run.asked}
            before = replace(
                run, notebook=notebook, output=folder.parent, manifest=None, asked=kept
            )
            sensed = stages.sense(before, modality, stages.open_manifest(before, modality))
            stages.align(before, modality, stages.build_model(before, modality, sensed), sensed)
        attach(model, folder, modality)
    on_progress(total, total)
    return model


@dataclass(frozen=True)
class Tuned:
    """One stage of fine-tuning: its loss curve and how long it took."""

    curve: list[StepReport]
    seconds: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return final_loss(self.curve)


def tune(
    run: Run,
    model: AnyMAL,
    data: InstructionSet,
    *,
    lora: bool,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Tuned:
    """Fine-tune the adapters, with `lora` the LLM's LoRA too.

    Curve and model go below the run's output folder.
    """
    recipe = model.profile.finetuning
    spec = recipe.lora_train if lora else recipe.projection
    place = run.output if lora else run.output / "projection"
    started = time.perf_counter()
    curve = finetune(
        model,
        data.train_media,
        data.train,
        spec,
        lora=lora,
        seed=run.seed,
        folder=place,
        on_step=tracked(run, "." if lora else "projection", recipe, on_step),
    )
    shutil.rmtree(place / "adapter", ignore_errors=True)
    save(model, place / "adapter")
    return Tuned(curve, time.perf_counter() - started)


@dataclass(frozen=True)
class Scores:
    """What a model answers and says at one stage."""

    vqa_about: str  # "image" where there are questions about pictures
    vqa: AnswerReport
    questions: dict[str, AnswerReport]  # about the other modalities
    pairs: AnswerReport
    captions: dict[str, float]  # modality -> exact captions, of a sample of held-out items
    perplexity: float  # on plain text


def scores(run: Run, model: AnyMAL, data: InstructionSet, *, whole: bool) -> Scores:
    """Answer held-out questions, caption a sample of held-out items, read plain text.

    With `whole` every question is asked and under every control; without, a sample of them.
    """
    with merged_lora(model.llm):
        return _scores(run, model, data, whole)


def _scores(run: Run, model: AnyMAL, data: InstructionSet, whole: bool) -> Scores:
    controls = CONTROLS if whole else ("clean",)
    found = {
        modality: answer_questions(
            model,
            data.test_media,
            examples if whole else sample(run, examples),
            controls=controls,
            seed=run.seed,
        )
        for modality, examples in data.test.items()
    }
    pairs = data.pairs if whole else sample(run, data.pairs)
    said = {
        modality: exact_captions(
            model,
            modality,
            bank.some(stages.spread(range(len(bank)), _SAMPLE)),
            data.manifests[modality].fact_values,
        )
        for modality, bank in data.test_media.banks.items()
        if all(row.text for row in bank.rows)
    }
    first = "image" if "image" in found else next(iter(found))
    return Scores(
        first,
        found.pop(first),
        found,
        answer_questions(model, data.test_media, pairs, seed=run.seed),
        said,
        perplexity(model.llm, plain_text()),
    )


def other_orders(run: Run, model: AnyMAL, data: InstructionSet) -> dict[str, AnswerReport]:
    """The same questions otherwise: the last of several in a conversation, and after their item."""
    asked = [e for found in data.test.values() for e in found]
    some = sample(run, asked)
    sets = {
        "several turns": dialogues(asked, turns=TURNS, count=len(some), seed=run.seed),
        "item first": [item_first(example) for example in some],
    }
    with merged_lora(model.llm):
        return {
            name: answer_questions(model, data.test_media, examples, seed=run.seed)
            for name, examples in sets.items()
            if examples
        }


def sample(run: Run, examples: Sequence[Example]) -> list[Example]:
    """The questions on which stages before the last are compared: `_SAMPLE` or LIMIT at most."""
    order = torch.randperm(len(examples), generator=generator_for(run.seed, "sample", 0))
    return [examples[k] for k in order[: at_most(run, _SAMPLE)].tolist()]


def ask_writer(run: Run, model: AnyMAL, data: InstructionSet) -> dict[str, Yield]:
    """Synthetic pairs about some training items of each modality, by modality.

    The writer is the run's own LLM without LoRA, or what WRITER_URL and WRITER_MODEL name. What it
    wrote is kept in the output folder and not asked for again.
    """
    writer: Writer
    if "WRITER_URL" in run.asked:
        name = run.asked.get("WRITER_MODEL", "default")
        writer = EndpointWriter(run.asked["WRITER_URL"], name, key_variable=_KEY)
    else:
        writer = LocalWriter(model.llm, batch=_ITEMS, max_new_tokens=96)
    count = max(1, run.asked.get("ITEMS", _ITEMS) // len(data.manifests))
    rows = {m: stages.spread(bank.rows, count) for m, bank in data.train_media.banks.items()}
    write = partial(synthesize, writer=writer, seed=run.seed, file=run.output / "synthetic.jsonl")
    # Written in batches across modalities: a step of decoding takes hardly longer for more texts.
    # Then each modality's texts are read back and judged by the values of its own facts.
    write(chain.from_iterable(rows.values()), on_progress=Progress("items asked"))
    return {m: write(own, fact_values=data.manifests[m].fact_values) for m, own in rows.items()}


def judge_all(
    run: Run, model: AnyMAL, data: InstructionSet, yields: Mapping[str, Yield]
) -> dict[str, list[Judged]]:
    """The filter on synthetic pairs, on written ones, and on planted ones that it should find.

    "planted: text answers" are to be dropped, "planted: grounded" are held-out questions and are
    to be kept; 200 each where there are so many.
    """
    synthetic = [e for found in yields.values() for e in found.examples]
    items = sorted({i for e in data.pairs for i in e.items}, key=str)
    text_answers = planted(items, seed=run.seed)
    draw, count = random.Random(f"planted {run.seed}"), at_most(run, _PLANTED)
    grounded = [
        e
        for found in data.test.values()
        for e in draw.sample(found, min(len(found), count // len(data.test)))
    ]
    asked = [e for name in data.test for e in data.train[name]]
    sets = {
        "synthetic": (synthetic, data.train_media),
        "written": (draw.sample(asked, min(len(asked), count)), data.train_media),
        "planted: text answers": (
            draw.sample(text_answers, min(len(text_answers), count)),
            data.test_media,
        ),
        "planted: grounded": (grounded, data.test_media),
    }
    values = {name: manifest.fact_values for name, manifest in data.manifests.items()}
    with merged_lora(model.llm):
        return {
            name: judge(model, media, examples, values, seed=run.seed)
            for name, (examples, media) in sets.items()
            if examples
        }


def reports_of(found: Scores, *, pairs: bool = True) -> dict[str, AnswerReport]:
    """The questions of one stage, by what they are about; `pairs` are those about two items."""
    single = {found.vqa_about: found.vqa, **found.questions}
    return {**single, "two items": found.pairs} if pairs else single


def bars(by_stage: Mapping[str, Scores]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """For `figures.stage_bars`: scores by stage, and the best blind answers."""
    blind = {what: report.blind for what, report in reports_of(by_stage["lora"]).items()}
    return {
        name: {what: report.accuracy for what, report in reports_of(found).items()}
        for name, found in by_stage.items()
    }, blind


def finetuning_metrics(
    by_stage: Mapping[str, Scores],
    judged: Mapping[str, Sequence[Judged]],
    yields: Mapping[str, Yield],
    tuned: Mapping[str, Tuned],
    orders: Mapping[str, AnswerReport],
    fits: Mapping[str, Worded],
    compared: Mapping[str, AnswerReport],
) -> dict[str, Any]:
    """The `metrics` part of metrics.json for notebook 06; stages aligned, projection, lora."""
    last, first = by_stage["lora"], by_stage["aligned"]

    def dropped(name: str) -> float:
        return float(np.mean([found.reason is not None for found in judged[name]]))

    candidates = [found for name in ("synthetic", "written") for found in judged.get(name, ())]
    return {
        "vqa_accuracy": last.vqa.accuracy,
        "vqa_kinds": last.vqa.by_kind,
        "by_stage": {name: found.vqa.accuracy for name, found in by_stage.items()},
        "questions_by_stage": bars(by_stage)[0],
        "grounding": last.vqa.controls,
        "blind": last.vqa.blind,
        "questions": {name: found.accuracy for name, found in last.questions.items()},
        "questions_kinds": {name: found.by_kind for name, found in last.questions.items()},
        "questions_grounding": {name: found.controls for name, found in last.questions.items()},
        "interleaved": {
            "agreement_accuracy": last.pairs.accuracy,
            "kinds": last.pairs.by_kind,
            "orders": {name: found.accuracy for name, found in orders.items()},
        },
        "words": {name: asdict(fit) for name, fit in fits.items()},
        "after_comparisons": {name: found.by_kind for name, found in compared.items()},
        "filter": {
            "planted_text_answerable_dropped": dropped("planted: text answers"),
            "planted_grounded_dropped": dropped("planted: grounded"),
            "before": len(candidates),
            "after": sum(found.reason is None for found in candidates),
            "sets": {name: counts(found) for name, found in judged.items()},
        },
        "synthetic": {
            name: {"asked": found.asked, "written": len(found.pairs), "kept": found.kept}
            for name, found in yields.items()
        },
        "captions": {"before": first.captions, "after": last.captions},
        "text_perplexity": {"before": first.perplexity, "after": last.perplexity},
        "final_loss": {name: found.final_loss for name, found in tuned.items()},
        "train_seconds": {name: found.seconds for name, found in tuned.items()},
    }
