"""Tables of instruction data, as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from anymal_lib.instruct.answers import AnswerReport
from anymal_lib.instruct.examples import TEXT, Example, Item, Turn
from anymal_lib.instruct.filter import REASONS as REASONS_TO_DROP
from anymal_lib.instruct.filter import Judged, counts
from anymal_lib.instruct.sets import InstructionSet
from anymal_lib.instruct.stages import Scores
from anymal_lib.instruct.synthetic import Yield
from anymal_lib.instruct.verdicts import REASONS
from anymal_lib.instruct.words import Worded


def yield_counts(yields: Mapping[str, Yield]) -> pd.DataFrame:
    """What came of asking writers: items, pairs, drops by reason, kept; one column a set."""
    return pd.DataFrame(
        {
            name: {
                "writer": found.writer,
                "items asked": found.asked,
                "texts without a pair": len(found.without_pair),
                "pairs written": len(found.pairs),
                **{f"dropped: {reason}": found.dropped[reason] for reason in REASONS},
                "pairs kept": found.kept,
                "kept of written": f"{found.kept / max(1, len(found.pairs)):.0%}",
            }
            for name, found in yields.items()
        }
    )


def yield_pairs(found: Yield, each: int = 3) -> pd.DataFrame:
    """Pairs with what became of them, at most `each` of a kind; texts without a pair at the end."""
    lines = []
    for reason in (None, *REASONS):
        like = [pair for pair in found.pairs if pair.reason == reason]
        for pair in like[:each]:
            verdict = f"dropped: {reason}" if reason else "kept"
            lines.append((pair.item.id, pair.question, pair.answer, verdict))
    for item, text in found.without_pair[:each]:
        lines.append((item.id, text[:200], "", "no pair in this text"))
    return pd.DataFrame(lines, columns=["item", "question", "answer", "verdict"])


def set_counts(data: InstructionSet) -> pd.DataFrame:
    """Examples of each part of the mixture, and held-out ones."""
    return pd.DataFrame(data.counts()).T


def example_lines(examples: Sequence[Example], each: int = 1) -> pd.DataFrame:
    """At most `each` example of every kind: what is asked about which items, and the answer."""
    shown: dict[str, int] = {}
    lines = []
    for example in examples:
        shown[example.kind] = shown.get(example.kind, 0) + 1
        if shown[example.kind] <= each:
            asked = " | ".join(_said(turn) for turn in example.turns)
            answer = " | ".join(turn.answer for turn in example.turns)
            lines.append((example.kind, asked, answer))
    return pd.DataFrame(lines, columns=["kind", "the user says", "the answer"])


def _said(turn: Turn) -> str:
    return "".join(p if isinstance(p, str) else _shown(p) for p in turn.parts).strip()


def _shown(item: Item) -> str:
    return item.id.strip() if item.modality == TEXT else f"<{item.modality}>"


def stage_scores(by_stage: Mapping[str, Scores]) -> pd.DataFrame:
    """Every stage of fine-tuning beside the others: questions, pairs, captions, plain text."""
    table = {}
    for name, found in by_stage.items():
        column = {f"questions about {found.vqa_about}": found.vqa.accuracy}
        column |= {f"... {kind}": value for kind, value in found.vqa.by_kind.items()}
        column |= {f"questions about {m}": r.accuracy for m, r in found.questions.items()}
        column |= {"pairs that agree or conflict": found.pairs.accuracy}
        column |= {f"captions of {m}": value for m, value in found.captions.items()}
        column |= {"perplexity of plain text": found.perplexity}
        table[name] = column
    return pd.DataFrame(table).round(3)


def word_scores(fits: Mapping[str, Worded]) -> pd.DataFrame:
    """How often a token's nearest word is the right value, before and after `as_words`."""
    lines = [
        (modality, fact, round(fit.before[fact], 3), round(share, 3))
        for modality, fit in fits.items()
        for fact, share in fit.after.items()
    ]
    names = ["modality", "fact", "nearest word right: aligned", "fitted to words"]
    return pd.DataFrame(lines, columns=names)


def kind_scores(reports: Mapping[str, AnswerReport]) -> pd.DataFrame:
    """Accuracy of each kind of question, and how many of them there were."""
    lines = [
        (name, kind, count, round(report.by_kind[kind], 3))
        for name, report in reports.items()
        for kind, count in report.kinds.items()
    ]
    return pd.DataFrame(lines, columns=["about", "kind", "questions", "exact answer"])


def control_scores(reports: Mapping[str, AnswerReport]) -> pd.DataFrame:
    """Exact answers with the items, under each control, and the best answer that needs none."""
    table = {}
    for name, report in reports.items():
        found = {control: round(score.value, 3) for control, score in report.controls.items()}
        table[name] = {**found, "best blind answer": round(report.blind, 3)}
    return pd.DataFrame(table).T


def filter_counts(sets: Mapping[str, Sequence[Judged]]) -> pd.DataFrame:
    """What the filter was given, what it dropped and why, and what is left."""
    return pd.DataFrame({name: counts(judged) for name, judged in sets.items()})


def filter_lines(judged: Sequence[Judged], each: int = 3) -> pd.DataFrame:
    """Examples of what the filter dropped and kept, with the probabilities that it went by."""
    lines = []
    for reason in (*REASONS_TO_DROP, None):
        for found in [j for j in judged if j.reason == reason][:each]:
            lines.append(
                (
                    found.example.question,
                    found.example.answer,
                    round(found.sensed, 3),
                    "" if found.others is None else round(found.others, 3),
                    round(found.blind, 3),
                    reason or "kept",
                )
            )
    names = ["question", "answer", "p with the item", "p with another", "p without", "verdict"]
    return pd.DataFrame(lines, columns=names)
