"""The stages of notebook 09, one call each: model, samples, page, and questions without clicks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anymal_lib.demo.page import DemoPage
from anymal_lib.demo.samples import Sample, held_out_samples
from anymal_lib.demo.session import Answered, DemoItem, Session
from anymal_lib.evaluation.stages import FINETUNED
from anymal_lib.instruct.answers import is_right
from anymal_lib.instruct.pairs import item_pairs
from anymal_lib.instruct.stages import aligned_model
from anymal_lib.lora import merge_lora
from anymal_lib.manifest import Manifest
from anymal_lib.model import AnyMAL
from anymal_lib.runs import Run, from_root
from anymal_lib.saving import CONFIG, load

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Samples = dict[str, tuple[Manifest, list[Sample]]]  # by modality


def open_session(run: Run, on_progress: Progress = lambda done, total: None) -> Session:
    """The model of ADAPTER, else the one that 06 fine-tuned, else the aligned one, to be asked.

    What 02 to 05 have not aligned yet is aligned first. `on_progress` is told how many parts are
    loaded, of how many. Raises `AssetError` where ADAPTER is no saved model.
    """
    finetuned = run.output.parent / FINETUNED / "adapter"
    if "ADAPTER" in run.asked:
        own = from_root(run.asked["ADAPTER"])
        return Session(_saved(run, own if own.is_dir() else run.asked["ADAPTER"], on_progress))
    if (finetuned / CONFIG).is_file():
        return Session(_saved(run, finetuned, on_progress))
    log.info("%s has not run here: the model describes, and answers no questions.", FINETUNED)
    return Session(aligned_model(run, on_progress=on_progress))


def _saved(run: Run, place: Any, on_progress: Progress) -> AnyMAL:
    model = load(place, bits=run.asked.get("BITS"), on_progress=on_progress)
    if model.llm.bits >= 16:
        merge_lora(model.llm)
    return model


def samples_of(run: Run, session: Session) -> Samples:
    """Held-out items of every modality that the session's model has."""
    return {name: held_out_samples(run, name) for name in session.modalities}


def page(session: Session, samples: Samples) -> DemoPage:
    """The page, with these samples to pick from."""
    return DemoPage(session, {name: found for name, (_, found) in samples.items()})


@dataclass(frozen=True)
class Trial:
    """An answer about samples, and whether it is what the data say.

    `kind` is "description", "question" or "two items".
    """

    kind: str
    answered: Answered
    right: bool


def try_out(run: Run, session: Session, samples: Samples) -> list[Trial]:
    """What the page does, without clicks: the first sample of every modality, and two together.

    Each first one is described, and asked the first of its questions. The question about two is one
    that neither of them answers alone; there is none where the data state no facts.
    """
    trials = []
    for name, (_, found) in samples.items():
        for sample in found[:1]:
            item = _taken(session, sample)
            asked = [("description", session.model.spec(name).instructions[0])]
            asked += [("question", question) for question, _ in sample.questions[:1]]
            for kind, question in asked:
                answered = session.ask(question, [item])
                right = sample.is_right(question, answered.answer)
                trials.append(Trial(kind, answered, right))
    rows = {name: [sample.row for sample in found] for name, (_, found) in samples.items()}
    by_id = {(s.row.modality, s.row.id): s for _, found in samples.values() for s in found}
    for pair in item_pairs(rows, count=1, seed=run.seed):
        items = [_taken(session, by_id[item.modality, item.id]) for item in pair.items]
        answered = session.ask(pair.question, items)
        trials.append(Trial("two items", answered, is_right(pair, answered.answer)))
    return trials


def _taken(session: Session, sample: Sample) -> DemoItem:
    return session.take(sample.name, sample.open(), sample.truth)


def demo_metrics(trials: Sequence[Trial]) -> dict[str, Any]:
    """The `metrics` part of metrics.json for notebook 09; seconds are those of the slowest."""
    asked = [trial.answered for trial in trials]
    return {
        "answers": [
            {
                "question": trial.answered.question,
                "items": [item.label for item in trial.answered.items],
                "answer": trial.answered.answer,
                "right": trial.right,
                "meter": [weight.rests for weight in trial.answered.weights],
            }
            for trial in trials
        ],
        "right": sum(trial.right for trial in trials) / len(trials),
        "meter": {
            trial.answered.items[0].modality: trial.answered.weights[0].rests
            for trial in trials
            if trial.kind == "description"
        },
        "seconds_to_first_word": max(found.first_word for found in asked),
        "seconds_to_answer": max(found.seconds for found in asked),
    }
