"""HTSAT, the audio tower of LAION-CLAP (arXiv 2211.06687), from laion-clap's own architecture file.

Shape letters: b batch, s samples, t spectra (time), m mel bins, c channels, d width.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from anymal_lib.errors import AssetError
from anymal_lib.positions import smooth_curve
from anymal_lib.specs import AudioEncoderSpec

_PRIVATE = "anymal_lib_clap_modules"
_POSITION_SCALE = 0.3  # of positions beside the patches they are added to (ours)


def _architecture() -> Any:
    """laion-clap's `htsat` module.

    `import laion_clap` calls a model hub and hangs where there is none, so its files are imported
    as a package of another name, past its own `__init__`.
    """
    if _PRIVATE not in sys.modules:
        found = importlib.util.find_spec("laion_clap")
        if found is None or found.origin is None:
            raise AssetError(
                "laion-clap",
                expected="the package, for the architecture of the audio tower",
                got="no such package",
                do="Install it: pip install laion-clap.",
            )
        package = types.ModuleType(_PRIVATE)
        package.__path__ = [str(Path(found.origin).parent / "clap_module")]
        sys.modules[_PRIVATE] = package
    return importlib.import_module(f"{_PRIVATE}.htsat")


class Htsat(nn.Module):
    """The audio tower in its two halves: sound to log-mel spectrogram, and that to features.

    With `fusion` it is the variant for long sounds, whose spectrograms have four channels: all of
    the sound, shrunk, and a chunk of each third of it.
    """

    def __init__(self, spec: AudioEncoderSpec, fusion: bool = False) -> None:
        super().__init__()
        self.fusion = fusion
        sizes = SimpleNamespace(
            sample_rate=spec.rate,
            window_size=spec.window,
            hop_size=spec.hop,
            mel_bins=spec.mel_bins,
            fmin=spec.mel_range[0],
            fmax=spec.mel_range[1],
        )
        with warnings.catch_warnings():  # it wants a grid as torch makes it by default
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
            self.tower = _architecture().HTSAT_Swin_Transformer(
                spec_size=spec.spectrogram,
                # Published checkpoints have a classifier of AudioSet's classes, which nobody reads.
                num_classes=527 if spec.checkpoint else 1,
                embed_dim=spec.width,
                depths=list(spec.depths),
                num_heads=list(spec.heads),
                ape=spec.positions,
                config=sizes,
                enable_fusion=fusion,
                fusion_type="aff_2d" if fusion else "None",
            )
        if spec.positions:
            self.tower.absolute_pos_embed.data.copy_(_folded_positions(self.tower)[None])
        self.width: int = self.tower.num_features
        # A frame of the last stage stands for this many after laion-clap's repetition.
        self._repeated = 8 * self.tower.patch_stride[1]

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """(b, s) -> log-mel spectrogram in dB, (b, 1, t, m)."""
        return self.tower.logmel_extractor(self.tower.spectrogram_extractor(waveform))

    def forward(self, spectrogram: Tensor, longer: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(b, c, t, m) -> the frames of the last stage (b, n, d) and their mean (b, d).

        `longer` (b,), for fusion: True where the chunks differ from the whole.
        """
        tower = self.tower
        normed = tower.bn0(spectrogram.transpose(1, 3)).transpose(1, 3)
        square = tower.reshape_wav2img(normed)
        index = [] if longer is None else longer.nonzero().flatten()
        for stage in tower.layers:  # "in evaluation" a stage averages attention maps for display
            stage.training = True
        out = tower.forward_features(square, longer_idx=index)
        return out["fine_grained_embedding"][:, :: self._repeated], out["embedding"]


def _folded_positions(tower: Any) -> Tensor:
    """Smooth positions in pitch and time for the patches of a folded spectrogram: (patches, d).

    HTSAT cuts a spectrogram along time and lays the pieces below each other, so that it becomes a
    square: a row of patches is a piece's number and a pitch, a column a time within the piece.
    """
    rows, columns = tower.patches_resolution
    pieces = tower.freq_ratio
    pitch = smooth_curve(rows // pieces, tower.embed_dim)  # (rows / pieces, d)
    time = smooth_curve(pieces * columns, tower.embed_dim).unflatten(0, (pieces, 1, columns))
    return _POSITION_SCALE * (pitch[None, :, None] + time).flatten(0, 2)
