"""InternVideo2 (arXiv 2403.15377) from the hub, the successor of the paper's InternVideo.

Its repositories carry their own model code, which transformers executes: name a revision that you
have read. The code has to offer what InternVideo2's stage-2 models do: `encode_vision(frames,
test=True)` -> (tokens, pooled), `vision_proj`, and `get_txt_feat(text)`.

Shape letters: b batch, f frames, n encoder tokens, d encoder width, e embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.assets import HubAsset
from anymal_lib.checksums import weights_checksum
from anymal_lib.encoders.base import Encoder, Features, packed, unpacked
from anymal_lib.errors import AssetError
from anymal_lib.inputs import Video

_SIZE = 224  # pixels a side
_INTERFACE = ("encode_vision", "vision_proj", "get_txt_feat")


class InternVideoEncoder(Encoder):
    """A video model of the hub on f frames of a clip; it arrives aligned, nothing is trained."""

    modality = "video"

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__()
        from timm.data import create_transform

        self.model = model.eval().requires_grad_(False)
        self.frames = frames
        # timm's defaults are ImageNet's mean and deviation, which InternVideo2 was trained with.
        self._preprocess = create_transform((3, _SIZE, _SIZE), crop_pct=1.0)
        tokens, pooled = self._sense(torch.zeros(1, frames, 3, _SIZE, _SIZE))
        self.sequence_width, self.pooled_width = tokens.shape[-1], pooled.shape[-1]

    def prepare(self, item: Video) -> Tensor:
        """One clip -> normalised pixels of its frames, (f, 3, 224, 224)."""
        return torch.stack([self._preprocess(frame) for frame in item.frames(self.frames)])

    @torch.no_grad()
    def _sense(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """(b, f, 3, 224, 224) -> tokens (b, n, d) and the embedding (b, e)."""
        tokens, pooled = self.model.encode_vision(batch, test=True)
        return tokens, self.model.vision_proj(pooled)

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """(b, f, 3, 224, 224) -> embedding and tokens side by side, (b, 1 + n, max(d, e))."""
        return packed(*self._sense(batch))

    def aligned(self, intermediate: Tensor) -> Features:
        """Undo the packing of `frozen`."""
        return unpacked(intermediate, self.sequence_width, self.pooled_width)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (len(texts), e), unit length."""
        embeddings = [self.model.get_txt_feat(text).flatten() for text in texts]
        return F.normalize(torch.stack(embeddings).float(), dim=-1).cpu()

    def text_checksum(self) -> str:
        """SHA-256 of the whole model: which of its parts read texts, its interface does not say."""
        return weights_checksum(self.model.state_dict())


def load(asset: HubAsset, frames: int) -> InternVideoEncoder:
    """The model of a hub repository at its revision, or of a folder in that format.

    Raises:
        AssetError: it cannot be had, or its code has not InternVideo2's interface.
    """
    from transformers import AutoModel

    name = f"{asset.repo_id} at {asset.revision}"
    try:
        model = AutoModel.from_pretrained(
            asset.repo_id, revision=asset.revision, trust_remote_code=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise AssetError(
            name,
            expected="an InternVideo2 model of the hub, in its cache or reachable",
            got=str(error).splitlines()[0],
            do="Connect once, log in if it is gated, and install what its code imports.",
        ) from error
    if missing := [part for part in _INTERFACE if not hasattr(model, part)]:
        raise AssetError(
            name,
            expected=f"InternVideo2's interface ({', '.join(_INTERFACE)})",
            got=f"a model without {' and '.join(missing)}",
            do="Name one of InternVideo2's stage-2 models.",
        )
    return InternVideoEncoder(model, frames)
