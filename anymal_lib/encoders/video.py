"""Video encoders: an image encoder on some frames of a clip, or a video model from the hub.

Shape letters: b batch, f frames, n patches of a frame, d encoder width, e embedding width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.encoders import image as image_encoders
from anymal_lib.encoders import internvideo
from anymal_lib.encoders.base import Encoder, Features
from anymal_lib.errors import ConfigError
from anymal_lib.inputs import Image, Video
from anymal_lib.specs import VideoEncoderSpec


class FramesEncoder(Encoder):
    """An image encoder on f frames of a clip (paper, section 4: four frames).

    The sequence holds the patches frame by frame; `grid` tells the adapter where each belongs.
    The embedding is the mean over the frames, which knows what is there, not where it goes.
    """

    modality = "video"

    def __init__(self, image: Encoder, frames: int) -> None:
        super().__init__()
        self.image, self.frames, self.text = image, frames, image.text
        self.sequence_width, self.pooled_width = image.sequence_width, image.pooled_width
        self.text_aligned = image.text_aligned
        grey = Image(np.full((64, 64, 3), 128, dtype=np.uint8))
        blank = image.frozen(image.prepare(grey)[None])
        patches = image.aligned(blank).sequence.shape[1]
        side = math.isqrt(patches)  # images enter as squares; a trunk may still give a list
        self.grid = (frames, side, side) if side * side == patches else (frames, 1, patches)

    def prepare(self, item: Video) -> Tensor:
        """One clip -> normalised pixels of its frames, (f, 3, size, size)."""
        return torch.stack([self.image.prepare(Image(frame)) for frame in item.frames(self.frames)])

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """(b, f, 3, size, size) -> what the image encoder's frozen part says of each frame."""
        return self.image.frozen(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])

    def aligned(self, intermediate: Tensor) -> Features:
        """(b, f, ...) -> patches of all frames (b, f * n, d) and the embedding (b, e)."""
        features = self.image.aligned(intermediate.flatten(0, 1))
        b, f = intermediate.shape[:2]
        sequence = features.sequence.unflatten(0, (b, f)).flatten(1, 2)
        pooled = features.pooled.unflatten(0, (b, f)).mean(1)
        return Features(sequence, F.normalize(pooled, dim=-1))

    def trained_state(self) -> dict[str, Tensor]:
        """The image encoder's alignment head, where it has one."""
        return self.image.trained_state()

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put the head back."""
        self.image.load_trained_state(state)


def build(spec: VideoEncoderSpec) -> Encoder:
    """The encoder that `spec` describes."""
    if spec.hub is not None:
        return internvideo.load(spec.hub, spec.frames)
    if spec.image is None:
        raise ConfigError(
            "video encoder",
            expected="an image encoder for its frames, or a video model of the hub",
            got="neither",
            do="Name one of them in the profile.",
        )
    return FramesEncoder(image_encoders.build(spec.image), spec.frames)
