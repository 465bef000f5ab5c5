"""The audio encoder: LAION-CLAP's published towers, or a small one of that kind trained here.

Sounds enter as CLAP's do: one channel at its rate, rounded to 16 bits; short ones repeated as
often as they fit, then padded; long ones cropped (in the middle, where CLAP draws a place), or
given whole and in three chunks to the towers that fuse these.

Shape letters: b batch, s samples, t spectra, m mel bins, n frames, d tower width, e embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.assets import fetch
from anymal_lib.encoders.base import Encoder, Features, packed, unpacked
from anymal_lib.encoders.clap_checkpoint import read_checkpoint
from anymal_lib.encoders.clap_fusion import fused_spectrogram
from anymal_lib.encoders.htsat import Htsat
from anymal_lib.encoders.text import TextTower, sentence_tower
from anymal_lib.errors import ConfigError, InputError
from anymal_lib.inputs import Audio
from anymal_lib.machine import fast_bf16
from anymal_lib.specs import AudioEncoderSpec

MIN_SECONDS = 0.1

# Fourier and mel matrices, megabytes that follow from the spec.
_CONSTANT = ("tower.tower.spectrogram_extractor.", "tower.tower.logmel_extractor.")

# Augmentation (ours): how loud, and when in the clip; a little noise.
_GAIN_DB, _SHIFT_S, _NOISE_DB = 3.0, 0.12, 2.0


class ClapAudioEncoder(Encoder):
    """One channel of sound -> frames of the tower and an embedding beside CLAP's texts.

    With `learns` the spectrogram is the frozen part and the tower is trained by InfoNCE; without,
    all of it is frozen.
    """

    modality = "audio"

    def __init__(
        self,
        spec: AudioEncoderSpec,
        tower: Htsat,
        projection: nn.Module,
        text: TextTower,
        text_width: int,
        *,
        learns: bool,
    ) -> None:
        super().__init__()
        self.spec, self.text, self.learns, self.augments = spec, text, learns, learns
        self.tower, self.projection = tower, projection
        self.sequence_width, self.pooled_width = tower.width, text_width
        self.requires_grad_(learns)
        self.tower.tower.spectrogram_extractor.requires_grad_(False)
        self.tower.tower.logmel_extractor.requires_grad_(False)

    def prepare(self, item: Audio) -> Tensor:
        """One sound -> (s,), or its fused spectrogram (4, t, m) for a tower with fusion.

        `InputError` below `MIN_SECONDS`.
        """
        sound = item.load()
        seconds = len(sound.samples) / sound.rate
        if seconds < MIN_SECONDS:
            raise InputError(
                str(item.source) if isinstance(item.source, str | Path) else "audio array",
                expected=f"at least {MIN_SECONDS} s of sound",
                got=f"{seconds:.3f} s",
                do="Give a longer sound, or widen start and end.",
            )
        samples = _sixteen_bits(sound.resampled(self.spec.rate).samples)
        length = round(self.spec.seconds * self.spec.rate)
        if self.tower.fusion:
            return fused_spectrogram(self.spec, _repeated(samples, length), length)
        first = max(0, (len(samples) - length) // 2)
        return torch.from_numpy(_repeated(samples[first : first + length], length))

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """Sounds (b, s), or fused spectrograms (b, 4, t, m) -> what never changes of them.

        Spectrograms (b, 1, t, m) where the tower learns, else embedding and frames side by side,
        (b, 1 + n, max(d, e)).
        """
        spectrogram = batch if self.tower.fusion else self.tower.spectrogram(batch)
        spectrogram = spectrogram.clamp_min(self.spec.floor)
        if self.learns:
            return spectrogram
        return packed(*self._sense(spectrogram))

    def aligned(self, intermediate: Tensor) -> Features:
        """What `frozen` gave -> frames (b, n, d) and the embedding (b, e)."""
        if not self.learns:
            return unpacked(intermediate, self.sequence_width, self.pooled_width)
        frames, pooled = self._sense(intermediate)
        return Features(frames, F.normalize(pooled, dim=-1))

    def _sense(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, t, m) -> frames (b, n, d) and the projected mean (b, e)."""
        longer = None
        if self.tower.fusion:  # chunks that equal the whole are those of a short sound
            longer = (spectrogram[:, :1] != spectrogram[:, 1:]).flatten(1).any(1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bf16()):
            frames, mean = self.tower(spectrogram, longer)
            pooled = self.projection(mean)
        return frames.float(), pooled.float()

    def augment(self, intermediate: Tensor, generator: torch.Generator) -> Tensor:
        """Random loudness, place in time and noise: (b, 1, t, m) -> the same shape."""
        b = len(intermediate)
        gain = torch.randn(b, 1, 1, 1, generator=generator) * _GAIN_DB
        noise = torch.randn(intermediate.shape, generator=generator) * _NOISE_DB
        most = round(_SHIFT_S * self.spec.rate / self.spec.hop)
        shift = torch.randint(-most, most + 1, (b, 1), generator=generator)
        t = intermediate.shape[2]
        index = (torch.arange(t) - shift) % t  # (b, t)
        moved = intermediate[torch.arange(b)[:, None], 0, index][:, None]
        return (moved + gain + noise).clamp_min(self.spec.floor)

    def trained_state(self) -> dict[str, Tensor]:
        """The tower and its projection where they were trained here."""
        if not self.learns:
            return {}
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if tensor.is_floating_point() and not name.startswith(_CONSTANT)
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put the weights back; constants and counters, which nothing reads, stay as they are."""
        missing, unknown = self.load_state_dict(state, strict=False)
        wanted = set(missing) & set(self.trained_state())
        if wanted or unknown:
            raise RuntimeError(f"audio encoder: missing {sorted(wanted)}, unknown {unknown}")


def _sixteen_bits(samples: np.ndarray) -> np.ndarray:
    """Sound as 16-bit whole numbers give it back: CLAP was trained on such."""
    whole = (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    return (whole / 32767.0).astype(np.float32)


def _repeated(samples: np.ndarray, length: int) -> np.ndarray:
    """Repeat as often as fits into `length` whole, then pad with silence; longer stays."""
    if len(samples) >= length:
        return samples
    whole = np.tile(samples, length // len(samples))
    return np.pad(whole, (0, length - len(whole)))


def build(spec: AudioEncoderSpec) -> ClapAudioEncoder:
    """The encoder that `spec` describes: published, or untrained with its frozen text tower."""
    if spec.checkpoint is not None:
        return ClapAudioEncoder(*read_checkpoint(spec), learns=False)
    if spec.text_asset is None:
        raise ConfigError(
            "audio encoder",
            expected="a CLAP checkpoint, or a text tower to align a small tower to",
            got="neither",
            do="Name one in the profile.",
        )
    text, width = sentence_tower(fetch(spec.text_asset))
    tower = Htsat(spec)
    projection = nn.Sequential(nn.Linear(tower.width, width), nn.ReLU(), nn.Linear(width, width))
    return ClapAudioEncoder(spec, tower, projection, text, width, learns=True)
