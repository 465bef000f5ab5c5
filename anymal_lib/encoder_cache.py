"""Encoders that the kit aligns itself: trained once for a data set, then read from the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anymal_lib.assets import cache_dir
from anymal_lib.bank import Bank, profile_bank
from anymal_lib.contrastive import align_encoder
from anymal_lib.encoders import Encoder
from anymal_lib.machine import default_device
from anymal_lib.manifest import Manifest
from anymal_lib.modalities import MODALITIES
from anymal_lib.progress import Progress
from anymal_lib.specs import Profile, to_plain

log = logging.getLogger(__name__)

# Raise it when an encoder, its augmentation or its training changes: cached ones are then stale.
VERSION = 5


@dataclass(frozen=True)
class ReadyEncoder:
    """An aligned, frozen encoder; losses and seconds where it was trained just now."""

    encoder: Encoder
    losses: tuple[float, ...] = ()
    seconds: float = 0.0


def ready_encoder(
    profile: Profile,
    modality: str,
    manifest: Manifest,
    seed: int,
    *,
    train_bank: Callable[[Encoder], Bank] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> ReadyEncoder:
    """The profile's encoder for `modality`, aligned on the training split of `manifest`.

    Pretrained encoders come as they are. Others are trained here unless the cache holds the same
    spec, data and seed. `train_bank` hands over rows that the caller has encoded anyway.
    """
    spec: Any = profile.modality(modality).encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = MODALITIES[modality].build_encoder(spec)
    encoder.to(default_device())
    if not encoder.trained_state():
        return ReadyEncoder(encoder.eval().requires_grad_(False))
    key = json.dumps([VERSION, to_plain(spec), manifest.checksum, seed], sort_keys=True)
    name = f"{modality}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    path = cache_dir() / "encoders" / name
    if path.is_file() and _restored(encoder, path):
        return ReadyEncoder(encoder.eval().requires_grad_(False))
    log.info("Aligning the %s encoder to text on '%s' ...", modality, manifest.card.name)
    if train_bank is not None:
        bank = train_bank(encoder)
    else:
        title = f"{manifest.card.name}/train"
        bank = profile_bank(profile, encoder, manifest.split("train"), title)
    started = time.perf_counter()
    progress = Progress(f"{modality} encoder", spec.align.steps, "steps")

    def told(step: int, loss: float) -> None:
        progress(step, note=f"loss {loss:.3f}")
        on_step(step, loss)

    with progress, torch.random.fork_rng(devices=[]):
        losses = align_encoder(encoder, bank, spec.align, seed, told)
    seconds = time.perf_counter() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    save_file({k: v.contiguous() for k, v in encoder.trained_state().items()}, partial)
    os.replace(partial, path)
    return ReadyEncoder(encoder, tuple(losses), seconds)


def _restored(encoder: Encoder, path: Path) -> bool:
    """Read a cached encoder; a damaged file is told of and trained anew."""
    try:
        encoder.load_trained_state(load_file(path))
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        log.warning("The cached encoder %s is damaged (%s).", path.name, error)
        return False
    return True
