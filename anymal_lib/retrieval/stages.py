"""The retrieval test of notebook 07, one call a modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anymal_lib import stages
from anymal_lib.model import AnyMAL
from anymal_lib.retrieval.corpus import Corpus
from anymal_lib.retrieval.naming import NamingReport, ask_names, named_things
from anymal_lib.runs import Run

ITEMS = 200  # held-out items that are asked about


def name_things(run: Run, model: AnyMAL, modality: str, *, k: int = 1) -> NamingReport:
    """Give everything in the run's data a name, and ask the model what held-out items are called.

    The corpus is saved in the run's output folder and read from there.
    """
    manifest = stages.open_manifest(run, modality)
    split = "test" if manifest.split("test") else "val"
    rows = stages.spread(manifest.split(split), ITEMS)
    encoder = model.encoders[modality]
    bank = stages.bank(model.profile, encoder, manifest, split, rows)
    bank.require_captions()
    entries, titles = named_things(model.llm, manifest, seed=run.seed)
    folder = run.output / "corpus" / modality
    Corpus.build(entries, encoder).save(folder)
    corpus = Corpus.load(folder, encoder)
    return ask_names(model, modality, bank, corpus, titles, k=k, seed=run.seed)


def retrieval_metrics(reports: Mapping[str, NamingReport]) -> dict[str, Any]:
    """`retrieval_augmented` of metrics.json: the first modality's scores, and those of each."""
    each = {
        modality: {
            **{condition: asked.score.value for condition, asked in report.asked.items()},
            "misled": report.misled,
            "recall_at_1": report.recall_at_1,
            "recall_at_k": report.recall_at_k,
            "corpus": report.corpus,
            "k": report.k,
            "n": len(report.rows),
        }
        for modality, report in reports.items()
    }
    first = next(iter(each.values()))
    return {**first, "by_modality": each}
