"""Adapters: the trained projections from encoder features to modality tokens of the LLM.

Shape letters: b batch, n encoder tokens, q modality tokens (latents), d encoder width,
e width of the encoder's pooled embedding, r resampler width, w width of the LLM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.encoders.base import Features
from anymal_lib.positions import smooth_curve
from anymal_lib.specs import AdapterSpec

# Modality tokens start this many times larger than token embeddings (ours, chosen together with
# latents of unit variance: with smaller ones of both the mini resampler learned more slowly).
_TOKEN_SCALE = 4.0


class ResamplerLayer(nn.Module):
    """Cross-attention from latents to features and latents, then a feed-forward network.

    Pre-norm, as Flamingo's Perceiver Resampler (arXiv 2204.14198); the AnyMAL paper states the
    number of layers and tokens only (Table 12).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_latents = nn.LayerNorm(width)
        self.norm_features = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, latents: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        """(b, q, r), (b, n, r), mask (b, n) True where a feature is real -> (b, q, r)."""
        normed = self.norm_latents(latents)
        query = self._split(self.to_query(normed))
        context = torch.cat([self.norm_features(features), normed], dim=1)  # (b, n + q, r)
        key, value = map(self._split, self.to_key_value(context).chunk(2, dim=-1))
        if mask is not None:
            mask = F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None]  # (b, 1, 1, n + q)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        latents = latents + self.to_out(attended.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(latents)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, tokens, r / heads)


class PerceiverResampler(nn.Module):
    """A fixed number of learned latents that read any number of features (paper, section 3.1).

    Used for images and video. Reads the encoder's *sequence* (b, n, d) under its mask and returns
    (b, q, w) on the scale of the LLM's token embeddings (`out_rms`). For a clip, `grid` tells its
    frames and the rows and columns of patches within each: they get learned positions, because
    attention alone does not know what came first.
    """

    def __init__(
        self,
        spec: AdapterSpec,
        features: int,
        llm_width: int,
        out_rms: float,
        grid: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.positions = None if grid is None else ClipPositions(grid, spec.width)
        self.latents = nn.Parameter(torch.randn(spec.tokens, spec.width))
        self.project_in = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, spec.width))
        self.layers = nn.ModuleList(
            ResamplerLayer(spec.width, spec.heads) for _ in range(spec.layers)
        )
        self.norm = nn.LayerNorm(spec.width)
        self.project_out = nn.Linear(spec.width, llm_width)
        _aim_at_scale(self.project_out, out_rms, fan_in=spec.width)

    def forward(self, features: Features) -> Tensor:
        """Features with a sequence (b, n, d) -> modality tokens (b, q, w)."""
        sequence = self.project_in(features.sequence)
        if self.positions is not None:
            sequence = self.positions(sequence)
        latents = self.latents.expand(len(sequence), -1, -1)
        for layer in self.layers:
            latents = layer(latents, sequence, features.mask)
        return self.project_out(self.norm(latents))


class ClipPositions(nn.Module):
    """Learned positions of a clip's frames and of the rows and columns of patches within them.

    They start as smooth random curves, so that neighbours are alike and what moves in one
    direction looks alike wherever it is (ours).
    """

    def __init__(self, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        frames, rows, columns = (nn.Parameter(smooth_curve(n, width)) for n in grid)
        self.frames, self.rows, self.columns = frames, rows, columns

    def forward(self, sequence: Tensor) -> Tensor:
        """(b, frames * rows * columns, r), frame by frame and row by row -> positions added."""
        places = self.frames[:, None, None] + self.rows[:, None] + self.columns  # (f, h, v, r)
        return sequence + places.flatten(0, 2)


class LinearProjection(nn.Module):
    """One linear layer from the pooled embedding to all modality tokens (audio and IMU).

    The paper does not say how one pooled vector becomes 32 tokens through one linear layer; here
    the layer's output is cut into `tokens` vectors. The unit-length embedding (b, e) is scaled to
    unit variance first.
    """

    def __init__(self, spec: AdapterSpec, embedding: int, llm_width: int, out_rms: float) -> None:
        super().__init__()
        self.tokens = spec.tokens
        self.projection = nn.Linear(embedding, spec.tokens * llm_width)
        _aim_at_scale(self.projection, out_rms, fan_in=embedding)

    def forward(self, features: Features) -> Tensor:
        """Features with a pooled embedding (b, e) -> modality tokens (b, q, w)."""
        pooled = features.pooled * features.pooled.shape[-1] ** 0.5
        return self.projection(pooled).unflatten(-1, (self.tokens, -1))


def _aim_at_scale(layer: nn.Linear, rms: float, *, fan_in: int) -> None:
    """Start with outputs of `_TOKEN_SCALE` times the rms of the LLM's token embeddings."""
    nn.init.normal_(layer.weight, std=_TOKEN_SCALE * rms / fan_in**0.5)
    nn.init.zeros_(layer.bias)


def scale_tokens(adapter: nn.Module, factor: float) -> None:
    """Make the modality tokens of an adapter `factor` times as large; both kinds end linearly."""
    last = adapter.projection if isinstance(adapter, LinearProjection) else adapter.project_out
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)


def build_adapter(
    spec: AdapterSpec,
    *,
    sequence_width: int,
    pooled_width: int,
    llm_width: int,
    out_rms: float,
    grid: tuple[int, int, int] | None = None,
) -> nn.Module:
    """The adapter that `spec` describes, in fp32, between an encoder and an LLM."""
    if spec.kind == "resampler":
        return PerceiverResampler(spec, sequence_width, llm_width, out_rms, grid)
    return LinearProjection(spec, pooled_width, llm_width, out_rms)
