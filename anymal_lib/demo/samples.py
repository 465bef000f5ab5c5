"""Held-out items to pick from, with questions whose answers the data know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anymal_lib.instruct.sets import questions_of
from anymal_lib.manifest import Manifest, load_manifest
from anymal_lib.metrics.facts import facts_right, is_reference, words
from anymal_lib.modalities import open_row
from anymal_lib.rows import Row
from anymal_lib.runs import Run
from anymal_lib.seeds import generator_for
from anymal_lib.sources import profile_manifest
from anymal_lib.stages import limited

COUNT = 12  # of each modality


@dataclass(frozen=True, eq=False)
class Sample:
    """A held-out item.

    Attributes:
        name: does not give away what is in it, as the ids of some data do.
        questions: about it, with their answers.
        fact_values: fact -> all its values.
    """

    name: str
    row: Row
    questions: tuple[tuple[str, str], ...]
    fact_values: Mapping[str, Sequence[str]]

    @property
    def truth(self) -> str:
        """What the data say about it; "" where they only have questions."""
        return next(iter(self.row.text), "")

    def open(self) -> Any:
        """The raw input, not read yet."""
        return open_row(self.row)

    def is_right(self, question: str, answer: str) -> bool:
        """Is an answer right? To anything but the sample's own questions, a caption is."""
        if question in dict(self.questions):
            return words(answer) == words(dict(self.questions)[question])
        if self.row.facts:
            return all(facts_right(answer, self.row.facts, self.fact_values).values())
        return is_reference(answer, self.row.text)


def held_out_samples(run: Run, modality: str, count: int = COUNT) -> tuple[Manifest, list[Sample]]:
    """The data of a modality, and some of its test items (or val) that the seed draws.

    The run's MANIFEST takes the place of the profile's data for its modality.
    """
    manifest = limited(run, _manifest(run, modality))
    split = "test" if manifest.split("test") else "val"
    examples, rows = questions_of(manifest, split, run.seed)
    order = torch.randperm(len(rows), generator=generator_for(run.seed, "demo samples", 0))
    chosen = [rows[k] for k in order[:count].tolist()]
    asked = {row.id: [] for row in chosen}
    for example in examples:
        if (name := example.items[0].id) in asked:
            asked[name].append((example.question, example.answer))
    return manifest, [
        Sample(f"sample {k}", row, tuple(asked[row.id]), manifest.fact_values)
        for k, row in enumerate(chosen, start=1)
    ]


def _manifest(run: Run, modality: str) -> Manifest:
    if run.manifest is not None:
        own = load_manifest(run.manifest, seed=run.seed)
        if own.modality == modality:
            return own
    recipe = run.profile.finetune
    asked = recipe.questions if recipe else {}
    return profile_manifest(asked.get(modality, run.profile.modality(modality).manifest))
