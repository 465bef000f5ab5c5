"""The stages of notebook 06 before the mixture: tokens become words, and LoRA compares words.

What a question names is found among the words that an item's tokens are. The mixture alone teaches
that late, if at all (ours).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from anymal_lib.instruct.answers import AnswerReport, answer_questions
from anymal_lib.instruct.comparisons import NEGATED
from anymal_lib.instruct.comparisons import SOURCE as COMPARISONS
from anymal_lib.instruct.finetune import finetune
from anymal_lib.instruct.sets import InstructionSet
from anymal_lib.instruct.stages import Tuned, sample
from anymal_lib.instruct.words import Worded, fit_to_words, nearest_words, phrases_of
from anymal_lib.lora import merged_lora
from anymal_lib.model import AnyMAL
from anymal_lib.runs import Run
from anymal_lib.tracking import tracked
from anymal_lib.train import StepReport

log = logging.getLogger(__name__)


def as_words(run: Run, model: AnyMAL, data: InstructionSet) -> dict[str, Worded]:
    """Fit the aligned adapters to the words for what is known of their items.

    Modalities of which nothing is known, and all where the profile has no recipe, stay aligned.
    """
    found: dict[str, Worded] = {}
    spec = model.profile.finetuning.words
    for modality, bank in data.train_media.banks.items() if spec else ():
        phrases = phrases_of(bank, data.train[modality])
        if not phrases:
            log.info("nothing is known of %s items: their adapter stays as aligned", modality)
            continue
        held_out, values = data.test_media.banks[modality], data.manifests[modality].fact_values
        before = nearest_words(model, modality, held_out, values)
        started = time.perf_counter()
        place = run.output / "words" / modality
        fit_to_words(model, modality, bank, phrases, spec, seed=run.seed, folder=place)
        seconds = time.perf_counter() - started
        after = nearest_words(model, modality, held_out, values)
        found[modality] = Worded(before, after, seconds)
    return found


def compare_words(
    run: Run,
    model: AnyMAL,
    data: InstructionSet,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> dict[str, Tuned]:
    """Teach LoRA to compare words, on text alone; empty where the profile has no recipe for it."""
    spec = model.profile.finetuning.comparisons
    parts = {name: data.train[name] for name in (COMPARISONS, NEGATED)}
    if spec is None or not any(parts.values()):
        return {}
    started = time.perf_counter()
    curve = finetune(
        model,
        data.train_media,
        parts,
        spec,
        lora=True,
        seed=run.seed,
        folder=run.output / COMPARISONS,
        enough=model.profile.finetuning.compared,
        on_step=tracked(run, COMPARISONS, model.profile.finetuning, on_step),
    )
    return {COMPARISONS: Tuned(curve, time.perf_counter() - started)}


def yes_no(run: Run, model: AnyMAL, data: InstructionSet) -> dict[str, AnswerReport]:
    """Yes/no questions about held-out items of each modality, a sample of them.

    Asked after `compare_words`; none where the profile has no recipe for that.
    """
    if model.profile.finetuning.comparisons is None:
        return {}
    asked = {
        modality: sample(run, [e for e in examples if e.answer in ("yes", "no")])
        for modality, examples in data.test.items()
    }
    with merged_lora(model.llm):
        return {
            modality: answer_questions(model, data.test_media, examples, seed=run.seed)
            for modality, examples in asked.items()
            if examples
        }
