"""One run of the grid: trained and scored once, then read from its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anymal_lib import stages
from anymal_lib.ablation.grid import Setting
from anymal_lib.ablation.truncated import depth, load_truncated, truncated_identity
from anymal_lib.bank import Bank
from anymal_lib.controls import Probe
from anymal_lib.encoder_cache import ready_encoder
from anymal_lib.encoders import Encoder
from anymal_lib.evaluate import exact_captions
from anymal_lib.grounding.stages import held_out
from anymal_lib.llm import FrozenLLM, load_llm
from anymal_lib.model import AnyMAL
from anymal_lib.runs import Run, write_text
from anymal_lib.specs import Profile, to_plain
from anymal_lib.train import train_adapter

MODALITY = "image"  # the paper's
ITEMS = 64  # held-out items that every run is scored on: one batch
RESULT = "result.json"
# Raise it when training or scoring changes: runs that are kept are then stale.
VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """A run and what it reached.

    `losses` and `seconds` (since the first step began) are of every step. `held_out_loss` is the
    loss of captions of held-out items, in nats per token; `exact_match` the share of these items
    whose greedy caption has every fact right.
    """

    setting: Setting
    seed: int
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    held_out_loss: float
    exact_match: float

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))

    def along(self, axis: str) -> np.ndarray:
        """How far the run was after each step: "steps", "samples" or "seconds"."""
        if axis == "seconds":
            return np.array(self.seconds)
        steps = np.arange(1, len(self.losses) + 1)
        return steps * self.setting.batch if axis == "samples" else steps

    @classmethod
    def from_plain(cls, found: Mapping[str, Any]) -> Outcome:
        """The inverse of `asdict`, from JSON."""
        lists = {name: tuple(found[name]) for name in ("losses", "seconds")}
        return cls(**{**found, **lists, "setting": Setting(**found["setting"])})


class Shared:
    """What all runs of a notebook share; features are encoded when a run first needs them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.manifest = stages.open_manifest(run, MODALITY)
        self.llm = load_llm(run.profile.llm, bits=run.profile.bits)
        self._llms: dict[int, FrozenLLM] = {depth(self.llm): self.llm}
        self._train: Bank | None = None
        self.encoder = ready_encoder(
            run.profile, MODALITY, self.manifest, run.seed, train_bank=self._train_bank
        ).encoder

    @property
    def train(self) -> Bank:
        """The training split."""
        return self._train_bank(self.encoder)

    def _train_bank(self, encoder: Encoder) -> Bank:
        if self._train is None:  # the encoder's own alignment has read the same rows
            self._train = stages.bank(self.run.profile, encoder, self.manifest, "train")
        return self._train

    @cached_property
    def held_out(self) -> Bank:
        """Held-out items that the notebook's seed draws: the same for all runs.

        A likelihood is of an item's first caption. Here the items begin with different ones of
        theirs, in turn, so that all phrasings count, as in training.
        """
        model = AnyMAL(self.llm, self.run.profile)
        model.add(MODALITY, self.encoder)
        bank = held_out(self.run, model, MODALITY, ITEMS)[1]
        bank.require_captions()
        turned = [
            replace(row, text=row.text[k % len(row.text) :] + row.text[: k % len(row.text)])
            for k, row in enumerate(bank.rows)
        ]
        return replace(bank, rows=turned)

    def profile(self, setting: Setting) -> Profile:
        """The profile of a setting's runs.

        Layers are compiled where the profile says so, in all runs or in none: decided run by run, a
        longer one would also be a faster one.
        """
        found = replace(self.run, asked=setting.asked()).for_modality(MODALITY)
        return replace(found, step=replace(found.step, compile=bool(found.step.compile)))

    def model(self, setting: Setting, seed: int) -> AnyMAL:
        """A setting's LLM with a fresh adapter."""
        layers = setting.llm_layers
        if layers not in self._llms:
            self._llms[layers] = load_truncated(
                self.run.profile.llm, layers, bits=self.run.profile.bits
            )
        model = AnyMAL(self._llms[layers], self.profile(setting))
        model.add(MODALITY, self.encoder, seed)
        return model

    def identity(self, setting: Setting, seed: int) -> dict[str, Any]:
        """Everything that a run's outcome depends on, as JSON."""
        profile = self.profile(setting)
        whole = self.llm.identity
        return {
            "version": VERSION,
            "setting": asdict(setting),
            "seed": seed,
            MODALITY: to_plain(profile.modality(MODALITY)),
            "llm": asdict(truncated_identity(whole, setting.llm_layers, depth(self.llm))),
            "bits": self.llm.bits,
            "system": profile.system,
            "step": to_plain(profile.step),
            "encoder": self.encoder.checksum(),
            "data": self.manifest.checksum,
            "held_out": {"seed": self.run.seed, "items": ITEMS},
        }

    def folder(self, setting: Setting, seed: int) -> Path:
        """Where a run is kept: named by all that its outcome depends on."""
        text = json.dumps(self.identity(setting, seed), sort_keys=True)
        return self.run.output / "runs" / hashlib.sha256(text.encode()).hexdigest()[:16]


def outcome(shared: Shared, setting: Setting, seed: int) -> Outcome:
    """What a run reached; it is trained and scored first where its folder does not say so."""
    folder = shared.folder(setting, seed)
    result = folder / RESULT
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        identity = shared.identity(setting, seed)
        write_text(folder / "config.json", json.dumps(identity, indent=1) + "\n")
        found = asdict(_trained_and_scored(shared, setting, seed, folder))
        write_text(result, json.dumps(found) + "\n")
    return Outcome.from_plain(json.loads(result.read_text()))


def _trained_and_scored(shared: Shared, setting: Setting, seed: int, folder: Path) -> Outcome:
    model = shared.model(setting, seed)
    spec = model.spec(MODALITY).align
    curve = train_adapter(model, MODALITY, shared.train, spec, seed=seed, folder=folder)
    items = shared.held_out
    likelihoods = Probe(model, MODALITY, items).log_likelihoods()
    return Outcome(
        setting,
        seed,
        tuple(round(point.loss, 5) for point in curve),
        tuple(point.seconds for point in curve),
        round(-float(likelihoods.mean()), 5),
        exact_captions(model, MODALITY, items, shared.manifest.fact_values),
    )
