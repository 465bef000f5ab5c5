"""Image encoders: open_clip's pretrained models, the mini two-tower model, DINOv2 through timm.

Shape letters: b batch, h and v height and width in patches, n = h * v, d encoder width,
e embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.assets import fetch
from anymal_lib.encoders.base import Encoder, Features, packed, unpacked
from anymal_lib.encoders.text import TextTower, sentence_tower
from anymal_lib.errors import AssetError, ConfigError
from anymal_lib.inputs import Image
from anymal_lib.machine import fast_bf16
from anymal_lib.specs import ImageEncoderSpec

_MINI_TRUNK = "tf_efficientnet_lite0"


class ClipImageEncoder(Encoder):
    """A pretrained two-tower model of open_clip: it arrives aligned, nothing is trained."""

    modality = "image"

    def __init__(self, name: str, pretrained: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        import open_clip

        self.dtype = dtype

        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise AssetError(
                f"open_clip model '{name}' with weights '{pretrained}'",
                expected="a model and tag of open_clip.list_pretrained(), or a checkpoint file",
                got=str(error).splitlines()[0],
                do="Check the name; without a network only cached weights or a file can be loaded.",
            ) from error
        model.visual.output_tokens = True
        self.visual = model.visual.to(dtype)
        self.text = TextTower(model, model.encode_text, open_clip.get_tokenizer(name))
        self._preprocess: Callable[[Any], Tensor] = preprocess
        self.eval().requires_grad_(False)
        probe = torch.zeros(1, 3, *_size(self.visual.image_size), dtype=dtype)
        pooled, sequence = self.visual(probe)
        self.pooled_width, self.sequence_width = pooled.shape[-1], sequence.shape[-1]

    def prepare(self, item: Image) -> Tensor:
        """One image -> normalised pixels (3, size, size)."""
        return self._preprocess(item.load())

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """Pixels (b, 3, size, size) -> embedding beside patches, (b, 1 + n, max(d, e))."""
        pooled, sequence = self.visual(batch.to(self.dtype))
        return packed(sequence, pooled)

    def aligned(self, intermediate: Tensor) -> Features:
        """Undo the packing of `frozen`."""
        return unpacked(intermediate, self.sequence_width, self.pooled_width)


class TimmImageEncoder(Encoder):
    """open_clip's `TimmModel`: a frozen timm trunk and, where a text tower is given, a head.

    With a text tower it is the mini profile's two-tower model; `aligned` trains the head (average
    pool, linear projection) by InfoNCE against the frozen text tower. Without one it is DINOv2,
    the paper's control that is *not* aligned to text; its pooled feature is the trunk's own.
    """

    modality = "image"

    def __init__(
        self, visual: nn.Module, text: TextTower | None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        from timm.data import create_transform, resolve_data_config

        self.dtype = dtype
        self.visual = visual.eval().requires_grad_(False)
        self.visual.trunk.to(dtype, memory_format=torch.channels_last)
        self.text = text
        self.text_aligned = text is not None
        size = (3, *_size(visual.image_size))
        config = resolve_data_config({"input_size": size, "crop_pct": 1.0}, model=visual.trunk)
        self._preprocess = create_transform(**config)
        probe = self.aligned(self.frozen(torch.zeros(1, *size)))
        self.sequence_width, self.pooled_width = probe.sequence.shape[-1], probe.pooled.shape[-1]
        if self.text_aligned:
            self.visual.head.requires_grad_(True)

    def prepare(self, item: Image) -> Tensor:
        """One image -> normalised pixels (3, size, size)."""
        return self._preprocess(item.load())

    @torch.no_grad()
    def frozen(self, batch: Tensor) -> Tensor:
        """Pixels (b, 3, size, size) -> the trunk's features, (b, d, h, v) or (b, n, d)."""
        return self.visual.trunk.forward_features(
            batch.to(self.dtype, memory_format=torch.channels_last)
        )

    def aligned(self, intermediate: Tensor) -> Features:
        """The trunk's features -> patch tokens (b, n, d) and the head's embedding (b, e).

        The head is linear and the pool an average, so the head of each patch is that patch's
        share of the aligned embedding: the tokens are aligned to text too. Without it the mini
        resampler found shapes, but hardly colours, which an ImageNet classifier has no use for.
        """
        intermediate = intermediate.float()
        pooled = self.visual.head(self.visual.trunk.forward_head(intermediate))
        if intermediate.ndim == 4:  # a convolutional trunk
            sequence = intermediate.flatten(2).transpose(1, 2)
        else:
            sequence = intermediate[:, self.visual.trunk.num_prefix_tokens :]
        return Features(self.visual.head(sequence), F.normalize(pooled, dim=-1))

    def trained_state(self) -> dict[str, Tensor]:
        """The alignment head."""
        return self.visual.head.state_dict() if self.text_aligned else {}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put the alignment head back."""
        self.visual.head.load_state_dict(state)


def build(spec: ImageEncoderSpec) -> Encoder:
    """The encoder that `spec` names."""
    half = fast_bf16() if spec.bf16 is None else spec.bf16
    dtype = torch.bfloat16 if half else torch.float32
    if spec.open_clip:
        return ClipImageEncoder(spec.open_clip, spec.pretrained or "", dtype)
    from open_clip.timm_model import TimmModel

    if spec.timm:
        visual = TimmModel(
            spec.timm, 0, spec.image_size, pool="token", proj="none", pretrained=True
        )
        return TimmImageEncoder(visual, None, dtype)
    if spec.trunk_asset is None or spec.text_asset is None:
        raise ConfigError(
            "image encoder",
            expected="an open_clip or timm name, or the mini profile's trunk and text assets",
            got=repr(spec),
            do="Fill in one of them in the profile.",
        )
    text, width = sentence_tower(fetch(spec.text_asset))
    visual = TimmModel(_MINI_TRUNK, width, spec.image_size, pool="avg", proj="linear")
    weights = torch.load(fetch(spec.trunk_asset), weights_only=True, map_location="cpu")
    visual.trunk.load_state_dict(_named_as_timm(visual.trunk, weights))
    return TimmImageEncoder(visual, text, dtype)


def _named_as_timm(trunk: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under timm's names: order and shape are equal, the names its author's.

    The classifier at the end has no place in a trunk.
    """
    names = list(trunk.state_dict())
    return dict(zip(names, list(weights.values())[: len(names)], strict=True))


def _size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    return image_size if isinstance(image_size, tuple) else (image_size, image_size)
