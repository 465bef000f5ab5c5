"""The instruction set: what fine-tuning learns from, and what it is scored on.

Questions of every modality, read or made of facts, and what is made of them and beside them: the
parts of the mixture.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from anymal_lib import stages
from anymal_lib.bank import Bank
from anymal_lib.instruct.comparisons import NEGATED, SOURCE, comparisons
from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.instruct.general import general
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.mixture import dialogues
from anymal_lib.instruct.pairs import item_pairs
from anymal_lib.instruct.questions import from_facts, written
from anymal_lib.instruct.told import told
from anymal_lib.manifest import Manifest, load_manifest
from anymal_lib.model import AnyMAL
from anymal_lib.rows import Row
from anymal_lib.runs import Run
from anymal_lib.sources import profile_manifest

TURNS = 3  # questions of a conversation
_DIALOGUES = 4000  # conversations to draw from
_PAIRS = {"train": 8000, "test": 700}
_COMPARISONS, _TOLD, _GENERAL = 20_000, 2400, 3200  # to draw from


@dataclass(frozen=True)
class InstructionSet:
    """Examples to learn from, by part of the mixture, and to be scored on, by modality."""

    manifests: dict[str, Manifest]
    train: dict[str, list[Example]]
    test: dict[str, list[Example]]
    pairs: list[Example]  # of held-out items that agree or conflict
    train_media: Media
    test_media: Media

    def counts(self) -> dict[str, dict[str, int]]:
        """How many examples there are of each part."""
        held_out = {**self.test, "pairs": self.pairs}
        names = [*self.train, *(name for name in held_out if name not in self.train)]
        return {
            name: {"train": len(self.train.get(name, ())), "test": len(held_out.get(name, ()))}
            for name in names
        }


def instruction_set(run: Run, model: AnyMAL) -> InstructionSet:
    """Questions of all modalities, made or read, their items encoded.

    MANIFEST takes the place of the profile's questions for its modality; LIMIT keeps so many rows
    of each split.
    """
    manifests = {}
    for modality, name in model.profile.finetuning.questions.items():
        manifests[modality] = stages.limited(run, profile_manifest(name))
    if run.manifest is not None:
        own = load_manifest(run.manifest, seed=run.seed)
        manifests[own.modality] = stages.limited(run, own)
    train, test, banks = {}, {}, {"train": {}, "test": {}}
    for modality, manifest in manifests.items():
        for split, examples in (("train", train), ("test", test)):
            examples[modality], rows = questions_of(manifest, split, run.seed)
            encoder = model.encoders[modality]
            banks[split][modality] = stages.bank(model.profile, encoder, manifest, split, rows)
    media = {split: Media(found) for split, found in banks.items()}
    train = {name: media["train"].of(examples) for name, examples in train.items()}
    test = {name: media["test"].of(examples) for name, examples in test.items()}
    asked = [e for examples in train.values() for e in examples]
    negated = [e for e in asked if e.kind.startswith("negated")]
    recipe = model.profile.finetuning
    values = {v for m in manifests.values() for found in m.fact_values.values() for v in found}
    plain = {
        m: [e for e in found if not e.kind.startswith("negated")] for m, found in train.items()
    }
    return InstructionSet(
        manifests,
        {
            **plain,
            "negated": negated,
            "dialogues": dialogues(asked, turns=TURNS, count=_DIALOGUES, seed=run.seed),
            "pairs": _pairs(run, banks["train"], "train"),
            "captions": _captions(model, banks["train"], run.seed),
            **{
                name: comparisons(
                    model.llm,
                    count=_COMPARISONS if recipe.comparisons else 0,
                    seed=run.seed,
                    without=values,
                    negated=name == NEGATED,
                )
                for name in (SOURCE, NEGATED)
            },
            "told": media["train"].of(
                told(model.llm, manifests, count=at_most(run, _TOLD), seed=run.seed)
                if recipe.weights.get("told")  # not every tokenizer has short names
                else []
            ),
            "general": general(
                media["train"].rows,
                count=at_most(run, _GENERAL) if recipe.weights.get("general") else 0,
                seed=run.seed,
            ),
        },
        test,
        _pairs(run, banks["test"], "test"),
        media["train"],
        media["test"],
    )


def questions_of(manifest: Manifest, split: str, seed: int) -> tuple[list[Example], list[Row]]:
    """Questions about a split, read or made of its facts, and the rows that they are about."""
    rows = manifest.split(split)
    if any(row.question for row in rows):
        return written(manifest, split)
    # Whether a word fits is harder to learn than what the word is: it is asked twice as often.
    both, values = split == "train", manifest.fact_values
    asked = from_facts(rows, manifest.modality, seed=seed, fact_values=values, both=both)
    return asked, rows


def _pairs(run: Run, banks: dict[str, Bank], split: str) -> list[Example]:
    rows = {modality: bank.rows for modality, bank in banks.items()}
    # Whether two items agree is harder to learn than which of them shows a value.
    agreements = 2 if split == "train" else 1
    count = at_most(run, _PAIRS[split])
    return item_pairs(rows, count=count, seed=run.seed, agreements=agreements)


def at_most(run: Run, count: int) -> int:
    """A number of examples that LIMIT bounds too."""
    return min(count, run.asked.get("LIMIT", count))


def _captions(model: AnyMAL, banks: Mapping[str, Bank], seed: int) -> list[Example]:
    """Captioned items under instructions and with phrasings that the seed draws.

    As many of each modality: every item of the one with most, those of the others again and again.
    """
    captioned = {name: [row for row in bank.rows if row.text] for name, bank in banks.items()}
    count = max(map(len, captioned.values()), default=0)
    examples = []
    for modality, rows in captioned.items():
        for k in range(count if rows else 0):
            row, draw = rows[k % len(rows)], random.Random(f"{seed}/{modality}/{k}")
            said = draw.choice(model.spec(modality).instructions)
            turn = Turn((f"{said} ", Item(modality, row.id)), draw.choice(row.text))
            examples.append(Example((turn,), "caption", "captions"))
    return examples
