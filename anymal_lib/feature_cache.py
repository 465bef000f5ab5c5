"""Intermediate features on disk: what one notebook has encoded, the next one reads.

A set of files is kept as a whole, where all of them could be read, and they and their features are
small. Files are known by their content: the same pictures in another folder are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anymal_lib.assets import cache_dir, sha256_of
from anymal_lib.checksums import weights_checksum
from anymal_lib.encoders import Encoder
from anymal_lib.rows import Row
from anymal_lib.specs import to_plain

log = logging.getLogger(__name__)

# Raise it when the frozen part of an encoder or what comes before it changes.
VERSION = 1
_LARGEST = 2**30  # bytes of a set's features
_READ = 2**32  # bytes of its files, which are read once more for their checksums


class KeptFeatures:
    """The features of some rows, if an encoder of this `spec` has read their files before.

    A row without a file of its own, such as one out of a stream, is not kept.
    """

    def __init__(self, encoder: Encoder, spec: Any, rows: Sequence[Row], batch: int) -> None:
        pieces = _pieces(rows)
        self._order = {piece: place for place, piece in enumerate(sorted(set(pieces)))}
        self._places = [self._order[piece] for piece in pieces]
        key = json.dumps([VERSION, _identity(encoder, spec), batch, list(self._order)])
        name = f"{encoder.modality}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        self._path = cache_dir() / "features" / name

    def read(self) -> list[Tensor] | None:
        """One (…) tensor per row, to the bit what was encoded; None where they are not kept."""
        if not self._places or not self._path.is_file():
            return None
        try:
            kept = load_file(self._path)["features"]  # (files, …)
            return [kept[place] for place in self._places]
        except (SafetensorError, KeyError, IndexError, OSError) as error:
            log.warning("The kept features %s are damaged (%s).", self._path.name, error)
            return None

    def write(self, tensors: Sequence[Tensor]) -> None:
        """Keep one tensor per row, where they are of one shape and not too large.

        What cannot be written is told of; no run needs it.
        """
        alike = len({tensor.shape for tensor in tensors}) == 1
        if not self._places or not alike or tensors[0].nbytes * len(self._order) > _LARGEST:
            return
        by_place = dict(zip(self._places, tensors, strict=True))
        features = torch.stack([by_place[place] for place in range(len(by_place))])
        partial = self._path.with_name(f"{self._path.name}.partial-{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"features": features}, partial)
            os.replace(partial, self._path)
        except (SafetensorError, OSError) as error:
            log.warning("The features %s cannot be kept (%s).", self._path.name, error)
            partial.unlink(missing_ok=True)


def _pieces(rows: Sequence[Row]) -> list[str]:
    """What tells each row's piece of a file from any other; [] where some have no such file."""
    paths = {row.path for row in rows if row.content is None and isinstance(row.path, Path)}
    if any(row.content is not None or row.path not in paths for row in rows):
        return []
    try:
        if sum(path.stat().st_size for path in paths) > _READ:
            return []
        checksums = {path: sha256_of(path) for path in paths}
    except OSError:  # whoever reads it will say so
        return []
    return [
        json.dumps(
            [checksums[row.path], row.path.suffix, row.start, row.end, row.rate, row.gyro_unit]
        )
        for row in rows
    ]


def _identity(encoder: Encoder, spec: Any) -> list[Any]:
    """What intermediate features depend on beside the files: not on what alignment trains."""
    trained = {tensor.data_ptr() for tensor in encoder.trained_state().values()}
    frozen = {k: t for k, t in encoder.state_dict().items() if t.data_ptr() not in trained}
    return [_without_training(to_plain(spec)), weights_checksum(frozen), encoder.device.type]


def _without_training(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    return {key: _without_training(value) for key, value in plain.items() if key != "align"}
