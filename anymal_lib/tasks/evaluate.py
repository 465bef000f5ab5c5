"""A task on rows of a manifest: prompts, greedy answers, scores, and the controls beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anymal_lib.bank import Bank, Skipped, profile_bank
from anymal_lib.controls import (
    CONTROLS,
    blank_tokens,
    modality_tokens,
    respond_once,
    ring,
)
from anymal_lib.errors import DataError
from anymal_lib.metrics.named import NEED_LIKELIHOODS, Answered, Score, score
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt, render
from anymal_lib.rows import Row
from anymal_lib.tasks.likelihoods import option_likelihoods
from anymal_lib.tasks.table import Task

_ITEM = object()  # an item's place in a prompt; its tokens are computed beforehand


@dataclass(frozen=True)
class TaskReport:
    """A task's answers and scores.

    Attributes:
        rows: that were answered, in order; a row that does not fit the task is left out.
        answered: control -> what was said of each row.
        scores: metric -> control -> score; "clean" is the items themselves.
        skipped: media that could not be read, by the first row that names them.
    """

    task: Task
    rows: list[Row]
    answered: dict[str, list[Answered]]
    scores: dict[str, dict[str, Score]]
    skipped: list[Skipped]

    @property
    def said(self) -> list[str]:
        """The answers with the items themselves."""
        return [item.said for item in self.answered["clean"]]


def evaluate_task(
    model: AnyMAL,
    task: Task,
    rows: Sequence[Row],
    *,
    controls: Sequence[str] = ("clean",),
    seed: int = 0,
    bank: Bank | None = None,
) -> TaskReport:
    """Ask, decode and score as the task says, with the items and under each control.

    Args:
        model: with an encoder and an adapter of the rows' modality.
        rows: of one modality, for example `manifest.split("test")`; media that several rows share
            are encoded once.
        controls: out of `controls.CONTROLS`; "clean" is always among them.
        seed: of the shuffled control and of intervals.
        bank: the rows' media, where they are encoded already.

    Raises:
        DataError: no row fits the task, the model does not read their modality, or too many media
            cannot be read.
    """
    asked = [row for row in rows if task.fits(row)]
    if not asked:
        raise DataError(
            f"task '{task.name}'",
            expected=f"rows with {_NEEDS[task.about]}",
            got=f"{len(rows)} rows without",
            do="Give another manifest or split, or another task.",
        )
    bank = _media(model, task, asked) if bank is None else bank
    place = {_medium(row): k for k, row in enumerate(bank.rows)}
    asked = [row for row in asked if _medium(row) in place]
    spans = _Spans(model, bank, [place[_medium(row)] for row in asked], seed)
    answered = {
        control: _answered(model, task, asked, spans.under(control))
        for control in dict.fromkeys(("clean", *controls))
    }
    scores = {
        metric: {control: score(metric, items, seed=seed) for control, items in answered.items()}
        for metric in task.metrics
    }
    return TaskReport(task, asked, answered, scores, bank.skipped)


_NEEDS = {
    "captions": "`text`",
    "answers": "a `question` and `answers`",
    "options": "a `question`, `answers` and up to 26 `options`",
}


def _medium(row: Row) -> tuple[str, float | None, float | None]:
    return str(row.path), row.start, row.end


def _media(model: AnyMAL, task: Task, rows: Sequence[Row]) -> Bank:
    """The distinct media of rows, through the frozen part of their encoder."""
    first = {_medium(row): row for row in reversed(rows)}
    modality = rows[0].modality
    if modality not in model.encoders:
        raise DataError(
            f"task '{task.name}'",
            expected=f"rows of a modality that the model reads: {sorted(model.encoders)}",
            got=f"'{modality}'",
            do="Give other rows, or load a model with this modality.",
        )
    encoder, media = model.encoders[modality], list(reversed(first.values()))
    return profile_bank(model.profile, encoder, media, f"{task.name}, {modality}")


class _Spans:
    """The modality tokens of every row, [(q, w)] or [] a row, as a control has them."""

    def __init__(self, model: AnyMAL, bank: Bank, places: Sequence[int], seed: int) -> None:
        self._model, self._places, self._modality = model, places, bank.rows[0].modality
        self._tokens = list(modality_tokens(model, self._modality, bank))
        self._partner = ring(len(bank), seed)

    def under(self, control: str) -> list[list[Tensor]]:
        """Spans of all rows; `ValueError` for a control that is not in `CONTROLS`."""
        if control not in CONTROLS:
            raise ValueError(control)
        if control == "removed":
            return [[] for _ in self._places]
        if control == "blank":
            blank = blank_tokens(self._model, self._modality)
            return [[blank] for _ in self._places]
        shuffled = control == "shuffled"
        return [[self._tokens[self._partner[k] if shuffled else k]] for k in self._places]


def _answered(
    model: AnyMAL, task: Task, rows: Sequence[Row], spans: Sequence[Sequence[Tensor]]
) -> list[Answered]:
    prompts = [_prompt(model, task, row, own) for row, own in zip(rows, spans, strict=True)]
    limit = task.limit(model.profile, rows[0].modality)
    said = respond_once(model, prompts, spans, limit)
    likelihoods: list[tuple[float, ...]] = [()] * len(rows)
    if NEED_LIKELIHOODS & set(task.metrics):
        options = [task.candidates(row) for row in rows]
        tokens = [span for own in spans for span in own]
        likelihoods = option_likelihoods(model, prompts, tokens, options)
    return [
        Answered(task.read(text), task.truth(row), row.options, values)
        for row, text, values in zip(rows, said, likelihoods, strict=True)
    ]


def _prompt(model: AnyMAL, task: Task, row: Row, span: Sequence[Any]) -> Prompt:
    system, user = task.parts(model.profile, row, [_ITEM] * len(span))
    return render(model.llm, user, system=system)
