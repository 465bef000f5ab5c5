from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from anymal_lib.assets import fetch
from anymal_lib.config import MINILM_L6
from anymal_lib.encoders import Features, LearnedEncoder
from anymal_lib.encoders.text import sentence_tower
from anymal_lib.errors import InputError
from anymal_lib.modalities import Modality, register
from anymal_lib.specs import TrainSpec


@dataclass(frozen=True)
class Depth:
    source: object  # a .npy file of metres (h, w), or such an array


@dataclass(frozen=True)
class DepthSpec:
    align: TrainSpec


class DepthEncoder(LearnedEncoder):
    modality, sequence_width = "depth", 32

    def __init__(self, spec: DepthSpec) -> None:
        super().__init__()
        self.text, self.pooled_width = sentence_tower(fetch(MINILM_L6))
        self.patches = nn.Sequential(nn.Conv2d(1, 32, 8, stride=8), nn.GELU())
        self.head = nn.Linear(64 * 32, self.pooled_width)

    def prepare(self, item: Depth) -> Tensor:
        try:
            metres = item.source if isinstance(item.source, np.ndarray) else np.load(item.source)
            return interpolate(Tensor(metres)[None, None], (64, 64))[0]
        except (OSError, EOFError, TypeError, ValueError) as error:
            why = {"expected": "metres (h, w)", "got": str(error), "do": "Write it with np.save."}
            raise InputError(str(item.source), **why) from error

    def aligned(self, batch: Tensor) -> Features:
        sequence = self.patches(batch).flatten(2).transpose(1, 2)
        return Features(sequence, normalize(self.head(sequence.flatten(1)), dim=-1))


wall = Depth(np.full((64, 64), 2.0))
depth = Modality(
    Depth, lambda row: Depth(row.path), lambda: wall, "a wall", DepthSpec, DepthEncoder
)
register("depth", depth)
