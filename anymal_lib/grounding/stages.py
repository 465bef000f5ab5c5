"""The grounding report of a notebook's run: held-out items of each modality, then the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from anymal_lib import stages
from anymal_lib.bank import Bank
from anymal_lib.grounding.report import Grounding, ground
from anymal_lib.manifest import Manifest, load_manifest
from anymal_lib.model import AnyMAL
from anymal_lib.progress import track
from anymal_lib.runs import Run
from anymal_lib.seeds import generator_for

HeldOut = dict[str, tuple[Manifest, Bank]]  # by modality

ITEMS = 300  # of each modality: an interval of at most 0.06 on either side of a share


def ground_all(
    model: AnyMAL,
    items: HeldOut,
    *,
    said: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[str, Grounding]:
    """The report of every modality of which there are held-out items; raises as `ground`.

    `said` (by modality) are captions of these items that the model has said before.
    """
    said = said or {}
    each = track(items.items(), "grounding", total=len(items), unit="modalities")
    return {
        modality: ground(
            model, modality, bank, manifest.fact_values, said=said.get(modality, ()), seed=seed
        )
        for modality, (manifest, bank) in each
    }


def held_out_items(run: Run, model: AnyMAL, items: int = ITEMS) -> HeldOut:
    """At most `items` held-out items of every modality of the model, encoded.

    The run's MANIFEST takes the place of the profile's data for its modality.
    """
    return {modality: held_out(run, model, modality, items) for modality in model.adapters}


def held_out(run: Run, model: AnyMAL, modality: str, items: int) -> tuple[Manifest, Bank]:
    """The manifest of a modality, and `items` of its test rows (or val) that the seed draws."""
    own = run.manifest and load_manifest(run.manifest, seed=run.seed).modality == modality
    manifest = stages.open_manifest(run if own else replace(run, manifest=None), modality)
    split = "test" if manifest.split("test") else "val"
    rows = manifest.split(split)
    order = torch.randperm(len(rows), generator=generator_for(run.seed, "held-out items", 0))
    chosen = [rows[k] for k in sorted(order[:items].tolist())]
    encoder = model.encoders[modality]
    return manifest, stages.bank(model.profile, encoder, manifest, split, chosen)
