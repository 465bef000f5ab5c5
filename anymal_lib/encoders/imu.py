"""IMU2CLIP's motion encoder, written from its description (arXiv 2210.14395).

Three 1-D convolutions (kernels 10, 5, 5; 32 channels) with max-pooling 3, group normalisation,
then a GRU; the last state is projected into the text tower's space. The GRU runs over *time*, so
any length at or above `MIN_SECONDS` is accepted. Signals enter in fixed units (g and 4 rad/s)
instead of a group normalisation of the input: the direction and size of gravity tell how the arm
is held, and a normalisation per window would erase them (ours).

Shape letters: b batch, s samples, n GRU steps, d GRU width, e embedding width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.assets import fetch
from anymal_lib.encoders.base import Features, LearnedEncoder
from anymal_lib.encoders.text import TextTower, open_clip_tower, sentence_tower
from anymal_lib.errors import ConfigError, InputError
from anymal_lib.inputs import Imu
from anymal_lib.specs import ImuEncoderSpec

MIN_SECONDS = 1.0
_KERNELS = (10, 5, 5)
_CHANNELS = 32
_UNITS = (1.0, 1.0, 1.0, 0.25, 0.25, 0.25)  # g, and 4 rad/s, to comparable size

# Augmentation (ours): how a sensor sits and how fast and strong a person moves.
_TILT_ANY, _TILT_X = math.radians(8), math.radians(15)  # std of small rotations; x: forearm
_SPEED = 1.25  # fastest play-back; slowest is its inverse
_ACCEL_SCALE, _GYRO_SCALE, _NOISE = 0.03, 0.1, 0.02


class ImuEncoder(LearnedEncoder):
    """Six channels (accelerometer in g, gyroscope in rad/s) -> features and an embedding."""

    modality = "imu"
    augments = True

    def __init__(self, spec: ImuEncoderSpec, text: TextTower, text_width: int) -> None:
        super().__init__()
        self.spec = spec
        self.text = text
        self.sequence_width, self.pooled_width = spec.width, text_width
        blocks: list[nn.Module] = []
        channels = len(_UNITS)
        for kernel in _KERNELS:
            blocks += [nn.Conv1d(channels, _CHANNELS, kernel, padding=kernel // 2)]
            blocks += [nn.GELU(), nn.MaxPool1d(3)]
            channels = _CHANNELS
        self.convolutions = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(4, _CHANNELS)
        self.gru = nn.GRU(_CHANNELS, spec.width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.projection = nn.Linear(spec.width, text_width)
        self.register_buffer("units", torch.tensor(_UNITS), persistent=False)

    def prepare(self, item: Imu) -> Tensor:
        """One signal -> (s, 6) at the encoder's rate.

        A signal longer than the window gives its central window: split a recording with `start`
        and `end` to describe all of it. `InputError` below `MIN_SECONDS`.
        """
        signal = item.load()
        seconds = len(signal.samples) / signal.rate
        if seconds < MIN_SECONDS:
            raise InputError(
                str(item.source) if isinstance(item.source, str | Path) else "IMU array",
                expected=f"at least {MIN_SECONDS} s of motion",
                got=f"{seconds:.2f} s ({len(signal.samples)} samples at {signal.rate:g} Hz)",
                do="Give a longer recording, or widen start and end.",
            )
        samples = torch.from_numpy(signal.resampled(self.spec.rate).samples)
        window = round(self.spec.window * self.spec.rate)
        first = max(0, (len(samples) - window) // 2)
        return samples[first : first + window]

    def aligned(self, intermediate: Tensor) -> Features:
        """Signals (b, s, 6) -> GRU states (b, n, d) and the embedding (b, e)."""
        x = self.convolutions((intermediate * self.units).transpose(1, 2))  # (b, 32, n)
        states, last = self.gru(self.norm(x).transpose(1, 2))
        return Features(states, F.normalize(self.projection(self.dropout(last[-1])), dim=-1))

    def augment(self, intermediate: Tensor, generator: torch.Generator) -> Tensor:
        """Random play-back speed, sensor tilt, scale and noise: (b, s, 6) -> (b, s', 6)."""
        signal, speed = _change_speed(intermediate, generator)
        accel, gyro = signal[..., :3], signal[..., 3:]
        # Turn rate grows with speed; what acceleration exceeds gravity (centripetal) with speed^2.
        gyro = gyro * speed
        gravity = accel / accel.norm(dim=-1, keepdim=True).clamp_min(1.0)
        accel = accel + (speed**2 - 1) * (accel - gravity)
        tilt = torch.randn(len(signal), 3, generator=generator) * _TILT_ANY
        tilt[:, 0] += torch.randn(len(signal), generator=generator) * _TILT_X
        rotation = torch.linalg.matrix_exp(_cross_matrix(tilt)).transpose(1, 2)
        scale = torch.randn(2, len(signal), 1, 1, generator=generator)
        accel = accel @ rotation * torch.exp(scale[0] * _ACCEL_SCALE)
        gyro = gyro @ rotation * torch.exp(scale[1] * _GYRO_SCALE)
        signal = torch.cat([accel, gyro], -1)
        return signal + torch.randn(signal.shape, generator=generator) * _NOISE


def _change_speed(signal: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Play (b, s, 6) at random speeds; the result is cut to what the fastest leaves.

    Returns (b, s / 1.25, 6) and the speeds (b, 1, 1).
    """
    length = signal.shape[1]
    kept = int((length - 1) / _SPEED)
    draw = torch.rand(2, len(signal), generator=generator)
    speed = torch.exp((2 * draw[0] - 1) * math.log(_SPEED))
    offset = draw[1] * (length - 1 - speed * (kept - 1))
    position = offset[:, None] + speed[:, None] * torch.arange(kept)  # (b, kept)
    left = position.floor().long().clamp(0, length - 2)
    weight = (position - left)[..., None]
    rows = torch.arange(len(signal))[:, None]
    return signal[rows, left] * (1 - weight) + signal[rows, left + 1] * weight, speed[:, None, None]


def _cross_matrix(vector: Tensor) -> Tensor:
    """Rotation vectors (b, 3) -> skew-symmetric matrices (b, 3, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def build(spec: ImuEncoderSpec) -> ImuEncoder:
    """The encoder that `spec` describes, untrained, with its frozen text tower."""
    if spec.text_model:
        text, width = open_clip_tower(spec.text_model)
    elif spec.text_asset:
        text, width = sentence_tower(fetch(spec.text_asset))
    else:
        raise ConfigError(
            "IMU encoder",
            expected="a text tower (text_asset or text_model)",
            got="neither",
            do="Name one in the profile.",
        )
    return ImuEncoder(spec, text, width)
