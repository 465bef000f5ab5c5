"""The stages of an alignment notebook, one call each: data, encoder, adapter, evaluation.

A stage that an earlier notebook has not prepared is prepared here, says so, and is reused next
time.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anymal_lib.bank import Bank, profile_bank
from anymal_lib.contrastive import Retrieval, retrieval
from anymal_lib.controls import CONTROLS
from anymal_lib.encoder_cache import ready_encoder
from anymal_lib.encoders import Encoder
from anymal_lib.errors import ConfigError, DataError
from anymal_lib.evaluate import CaptionReport, chance, evaluate_captions
from anymal_lib.llm import PRECISIONS, FrozenLLM, load_llm
from anymal_lib.manifest import Manifest, Row, load_manifest
from anymal_lib.model import AnyMAL
from anymal_lib.runs import Run
from anymal_lib.saving import save
from anymal_lib.sources import profile_manifest
from anymal_lib.specs import Profile
from anymal_lib.tracking import tracked
from anymal_lib.train import StepReport, final_loss, train_adapter

log = logging.getLogger(__name__)


def open_manifest(run: Run, modality: str, *, fold: int | None = None) -> Manifest:
    """The run's data for `modality`: the user's MANIFEST, or the profile's.

    LIMIT keeps the first rows of each split. Raises `ConfigError` for a manifest of another
    modality.
    """
    if run.manifest is not None:
        manifest = load_manifest(run.manifest, seed=run.seed)
        if manifest.modality != modality:
            raise ConfigError(
                f"MANIFEST {run.manifest.name}",
                expected=f"a manifest of modality '{modality}' for notebook {run.notebook}",
                got=f"'{manifest.modality}'",
                do="Open the notebook of that modality.",
            )
    else:
        name = run.profile.modality(modality).manifest
        manifest = profile_manifest(name, fold=fold or _default_fold(run))
    return limited(run, manifest)


def limited(run: Run, manifest: Manifest) -> Manifest:
    """The manifest with LIMIT rows of each split, where the run has a LIMIT."""
    limit = run.asked.get("LIMIT")
    if limit is None:
        return manifest
    kept = [row for name in ("train", "val", "test") for row in spread(manifest.split(name), limit)]
    return replace(manifest, rows=tuple(kept), checksum=f"{manifest.checksum}/{limit}")


def _default_fold(run: Run) -> int:
    fold = run.asked.get("FOLD", 5)
    return 5 if fold == "all" else fold


def spread(rows: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` rows, evenly over the list: its beginning may hold one class only."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[k * len(rows) // limit] for k in range(limit)]


@dataclass(frozen=True)
class Sensed:
    """An aligned encoder with the data it was checked on."""

    manifest: Manifest
    encoder: Encoder
    train: Bank
    test: Bank
    losses: tuple[float, ...]  # empty when the encoder came from the cache or a hub
    seconds: float
    retrieval: Retrieval | None  # None for an encoder that is not aligned to text


def sense(run: Run, modality: str, manifest: Manifest) -> Sensed:
    """Encode the manifest's splits and align the encoder where the profile says so."""
    profile = run.for_modality(modality)
    banks: dict[str, Bank] = {}

    def train_bank(encoder: Encoder) -> Bank:
        if "train" not in banks:
            banks["train"] = bank(profile, encoder, manifest, "train")
        return banks["train"]

    ready = ready_encoder(profile, modality, manifest, run.seed, train_bank=train_bank)
    test = bank(profile, ready.encoder, manifest, "test" if manifest.split("test") else "val")
    return Sensed(
        manifest,
        ready.encoder,
        train_bank(ready.encoder),
        test,
        ready.losses,
        ready.seconds,
        retrieval(ready.encoder, test) if ready.encoder.text_aligned else None,
    )


def bank(
    profile: Profile,
    encoder: Encoder,
    manifest: Manifest,
    split: str,
    rows: Sequence[Row] | None = None,
) -> Bank:
    """A split of a manifest through the frozen part of an encoder; `rows` in place of all."""
    rows = manifest.split(split) if rows is None else rows
    return profile_bank(profile, encoder, rows, f"{manifest.card.name}/{split}")


@dataclass(frozen=True)
class Aligned:
    """A model whose adapter was trained, with its loss curve."""

    model: AnyMAL
    curve: list[StepReport]
    seconds: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return final_loss(self.curve)


def build_model(run: Run, modality: str, sensed: Sensed, *, bits: int | None = None) -> AnyMAL:
    """The run's LLM with the aligned encoder and a fresh adapter."""
    profile = run.for_modality(modality)
    model = AnyMAL(load_llm(profile.llm, bits=bits or profile.bits), profile)
    model.add(modality, sensed.encoder, run.seed)
    return model


def align(
    run: Run,
    modality: str,
    model: AnyMAL,
    sensed: Sensed,
    on_step: Callable[[StepReport], None] = lambda report: None,
    *,
    folder: str = ".",
) -> Aligned:
    """Train the adapter on captions; curve and adapter go below the run's output folder."""
    place = run.output / folder
    started = time.perf_counter()
    spec = model.spec(modality).align
    told = tracked(run, folder, model.spec(modality), on_step)
    curve = train_adapter(
        model, modality, sensed.train, spec, seed=run.seed, folder=place, on_step=told
    )
    shutil.rmtree(place / "adapter", ignore_errors=True)
    save(model, place / "adapter")
    return Aligned(model, curve, time.perf_counter() - started)


def evaluate(
    run: Run,
    modality: str,
    model: AnyMAL,
    sensed: Sensed,
    controls: tuple[str, ...] = CONTROLS,
) -> CaptionReport:
    """Greedy captions of the held-out items, with the grounding controls."""
    facts = sensed.manifest.fact_values
    return evaluate_captions(model, modality, sensed.test, facts, seed=run.seed, controls=controls)


def evaluate_elsewhere(
    run: Run, modality: str, model: AnyMAL, sensed: Sensed, source: str
) -> CaptionReport:
    """Captions of another source's test split: the same facts, recorded otherwise."""
    manifest = limited(run, profile_manifest(source))
    test = bank(run.for_modality(modality), sensed.encoder, manifest, "test")
    facts = sensed.manifest.fact_values
    return evaluate_captions(model, modality, test, facts, seed=run.seed, controls=("clean",))


def caption_metrics(report: CaptionReport) -> dict[str, Any]:
    """The scores of a report that metrics.json holds of any set of captions."""
    return {
        "exact_match": report.exact_match.value,
        "attributes": report.attributes,
        "attribute_accuracy": report.attribute_accuracy,
        "cider_d": report.cider_d,
        "rouge_l": report.rouge_l,
    }


def alignment_metrics(sensed: Sensed, aligned: Aligned, report: CaptionReport) -> dict[str, Any]:
    """The `metrics` part of metrics.json for notebooks 02 to 05."""
    found = sensed.retrieval
    return {
        **caption_metrics(report),
        "retrieval": {
            "recall_at_1": found.recall_at_1 if found else None,
            "recall_at_5": found.recall_at_5 if found else None,
            "zero_shot": found.zero_shot if found else None,
            "gallery": found.captions if found else None,
        },
        "grounding": report.grounding,
        "grounding_score": report.grounding_score,
        "chance": chance(sensed.test),
        "final_loss": aligned.final_loss,
        "train_seconds": aligned.seconds,
        "encoder_seconds": sensed.seconds,
        "samples": {"train": sensed.train.report(), "test": sensed.test.report()},
    }


@dataclass(frozen=True)
class Comparison:
    """One precision of the frozen LLM during training."""

    precision: str
    final_loss: float
    exact_match: float  # with the LLM it was trained on
    swapped: float  # with the full-precision LLM in its place at inference, as in the paper
    seconds: float


def compare_precisions(
    run: Run, modality: str, sensed: Sensed, aligned: Aligned, report: CaptionReport
) -> tuple[list[Comparison], dict[str, list[StepReport]]]:
    """Train the same adapter, same seed, on nf4 and int8; loss and accuracy beside the run's own.

    Returns the rows of the table and the loss curves.
    """
    own = aligned.model.llm
    first = PRECISIONS[own.bits]
    value = report.exact_match.value
    table = [Comparison(first, aligned.final_loss, value, value, aligned.seconds)]
    curves = {first: aligned.curve}
    for bits in (8, 4):
        if bits == own.bits:
            continue
        model = build_model(run, modality, sensed, bits=bits)
        trained = align(run, modality, model, sensed, folder=PRECISIONS[bits])
        exact = evaluate(run, modality, model, sensed, controls=("clean",)).exact_match.value
        swapped = evaluate(run, modality, with_llm(model, own), sensed, controls=("clean",))
        table.append(
            Comparison(
                PRECISIONS[bits],
                trained.final_loss,
                exact,
                swapped.exact_match.value,
                trained.seconds,
            )
        )
        curves[PRECISIONS[bits]] = trained.curve
    return table, curves


def with_llm(model: AnyMAL, llm: FrozenLLM) -> AnyMAL:
    """The same encoders and adapters before another precision of the LLM."""
    other = AnyMAL(llm, model.profile)
    other.encoders, other.adapters = model.encoders, model.adapters
    return other


def all_folds(run: Run, modality: str, done: CaptionReport) -> dict[str, Any]:
    """All five folds of two people each, fold 5 being the run's own; mean exercise accuracy.

    Raises `DataError` for a user's own manifest, which has no folds.
    """
    if run.manifest is not None:
        raise DataError(
            "FOLD",
            expected="the profile's own data, which holds out people by fold",
            got=f"MANIFEST {run.manifest.name}",
            do="Set FOLD to None.",
        )
    folds = {"5": done.attributes}
    for fold in range(1, 5):
        manifest = open_manifest(run, modality, fold=fold)
        sensed = sense(run, modality, manifest)
        model = build_model(run, modality, sensed)
        align(run, modality, model, sensed, folder=f"fold-{fold}")
        folds[str(fold)] = evaluate(run, modality, model, sensed, controls=("clean",)).attributes
        log.info("fold %d: %s", fold, folds[str(fold)])
    names = done.attributes
    return {
        "folds": dict(sorted(folds.items())),
        "mean": {name: sum(f[name] for f in folds.values()) / len(folds) for name in names},
    }
