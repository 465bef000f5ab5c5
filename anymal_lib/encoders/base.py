"""What every encoder offers, whatever it senses.

Shape letters: b batch, n encoder tokens, d encoder width, e width of the text-aligned embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.checksums import weights_checksum
from anymal_lib.encoders.text import TextTower
from anymal_lib.errors import ConfigError


@dataclass(frozen=True)
class Features:
    """What an encoder says of a batch.

    sequence (b, n, d); pooled (b, e) of unit length and aligned to text; mask (b, n), True where
    a position of the sequence is real, or None when all are.
    """

    sequence: Tensor
    pooled: Tensor
    mask: Tensor | None = None

    def take(self, index: Tensor) -> Features:
        """The features of some items: index (k,) -> batch of k."""
        mask = None if self.mask is None else self.mask[index]
        return Features(self.sequence[index], self.pooled[index], mask)

    @staticmethod
    def stack(parts: Sequence[Features]) -> Features:
        """Join batches; sequences of different length are padded and masked."""
        longest = max(part.sequence.shape[1] for part in parts)
        if all(part.sequence.shape[1] == longest and part.mask is None for part in parts):
            return Features(
                torch.cat([part.sequence for part in parts]),
                torch.cat([part.pooled for part in parts]),
            )
        sequences, masks = [], []
        for part in parts:
            missing = longest - part.sequence.shape[1]
            mask = part.mask
            if mask is None:
                mask = part.sequence.new_ones(part.sequence.shape[:2], dtype=torch.bool)
            sequences.append(F.pad(part.sequence, (0, 0, 0, missing)))
            masks.append(F.pad(mask, (0, missing), value=False))
        pooled = torch.cat([part.pooled for part in parts])
        return Features(torch.cat(sequences), pooled, torch.cat(masks))


def packed(sequence: Tensor, pooled: Tensor) -> Tensor:
    """(b, n, d) and (b, e) side by side in one tensor, (b, 1 + n, max(d, e)); padded with zeros.

    What a pretrained encoder says is kept as one tensor per item.
    """
    width = max(sequence.shape[-1], pooled.shape[-1])
    pooled = F.pad(pooled, (0, width - pooled.shape[-1]))
    sequence = F.pad(sequence, (0, width - sequence.shape[-1]))
    return torch.cat([pooled[:, None], sequence], dim=1)


def unpacked(both: Tensor, sequence_width: int, pooled_width: int) -> Features:
    """The inverse of `packed`, in fp32, the embedding at unit length."""
    both = both.float()
    pooled = F.normalize(both[:, 0, :pooled_width], dim=-1)
    return Features(both[:, 1:, :sequence_width], pooled)


class Encoder(nn.Module):
    """A modality encoder whose pooled embedding lives in a text tower's space.

    The forward pass has two parts, so that alignment and the adapters can keep the first in
    memory: `frozen` never changes, `aligned` holds what contrastive alignment trains here (none
    for encoders that arrive aligned). After alignment all of it is frozen.
    """

    modality: str
    text: TextTower | None  # frozen
    sequence_width: int  # d
    pooled_width: int  # e
    text_aligned: bool = True
    augments: bool = False  # whether `augment` does anything
    grid: tuple[int, int, int] | None = None  # frames, rows, columns of a clip's sequence

    @abstractmethod
    def prepare(self, item: Any) -> Tensor:
        """One raw input -> the tensor that `frozen` takes, without the batch dimension."""

    @abstractmethod
    def frozen(self, batch: Tensor) -> Tensor:
        """Prepared inputs (b, ...) -> intermediate features (b, ...), without gradient."""

    @abstractmethod
    def aligned(self, intermediate: Tensor) -> Features:
        """Intermediate features -> what adapters and retrieval use."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (len(texts), e), unit length; `ConfigError` without a text tower."""
        return self._tower()(texts)

    def text_checksum(self) -> str:
        """SHA-256 of the text tower's weights: encoders with the same one share their texts.

        Raises `ConfigError` without a text tower.
        """
        return self._tower().checksum

    def _tower(self) -> TextTower:
        if self.text is None:
            raise ConfigError(
                f"{self.modality} encoder",
                expected="an encoder that is aligned to text",
                got="one without a text tower",
                do="Use another encoder for retrieval; this one is a control.",
            )
        return self.text

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        held = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    def augment(self, intermediate: Tensor, generator: torch.Generator) -> Tensor:
        """A random variant of training inputs, on the CPU; the identity where there is none."""
        return intermediate

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that were trained here and belong into a saved model."""
        return {}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `trained_state` gave."""

    def checksum(self) -> str:
        """SHA-256 of what was trained here; a pretrained encoder is named by its spec instead."""
        return weights_checksum(self.trained_state())

    def forward(self, batch: Tensor) -> Features:
        """Prepared inputs (b, ...) -> Features."""
        return self.aligned(self.frozen(batch))


class LearnedEncoder(Encoder):
    """An encoder that is trained here as a whole: its frozen part does nothing."""

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """Prepared inputs (b, ...) as they are."""
        return batch

    def trained_state(self) -> dict[str, Tensor]:
        """All weights."""
        return self.state_dict()

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put the weights back."""
        self.load_state_dict(state)
