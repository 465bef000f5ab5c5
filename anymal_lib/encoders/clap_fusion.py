"""The four-channel spectrogram of LAION-CLAP's towers with fusion (arXiv 2211.06687, section 3.2).

Shape letters: t spectra of one clip, a spectra of the whole sound, m mel bins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.specs import AudioEncoderSpec


def fused_spectrogram(spec: AudioEncoderSpec, samples: np.ndarray, length: int) -> Tensor:
    """A sound (samples,) of at least `length` samples -> (4, t, m) in dB.

    The whole shrunk to one clip's spectra, then a clip's worth out of its first, middle and last
    third: each from that third's middle, where CLAP draws a place. A sound of one clip is four
    times itself.
    """
    from transformers.audio_utils import spectrogram, window_function

    mel = spectrogram(
        samples,
        window_function(spec.window, "hann"),
        frame_length=spec.window,
        hop_length=spec.hop,
        power=2.0,
        mel_filters=_filters(spec.window, spec.mel_bins, spec.mel_range, spec.rate),
        log_mel="dB",
    )
    whole = torch.from_numpy(mel.T.astype(np.float32))  # (a, m)
    clip = length // spec.hop + 1
    if len(whole) <= clip:
        return whole.expand(4, -1, -1).clone()
    last = len(whole) - clip  # the last place where a chunk can begin
    starts = [last * third // 6 for third in (1, 3, 5)]
    shrunk = F.interpolate(whole[None, None], size=(clip, spec.mel_bins), mode="bilinear")
    return torch.stack([shrunk[0, 0], *(whole[start : start + clip] for start in starts)])


@lru_cache(maxsize=4)
def _filters(window: int, bins: int, mel_range: tuple[int, int], rate: int) -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=window // 2 + 1,
        num_mel_filters=bins,
        min_frequency=mel_range[0],
        max_frequency=mel_range[1],
        sampling_rate=rate,
        norm=None,
        mel_scale="htk",
    )
