"""The frozen text tower that encoders are aligned to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.checksums import weights_checksum


class TextTower:
    """Texts -> unit-length embeddings (len(texts), e) of a frozen text encoder."""

    def __init__(
        self,
        model: nn.Module,
        encode: Callable[[Tensor], Tensor],
        tokenize: Callable[[list[str]], Tensor],
    ) -> None:
        self._model = model
        self._encode = encode
        self._tokenize = tokenize
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, on the CPU; each distinct text is encoded once per process."""
        device = next(self._model.parameters()).device
        # A set's order differs from process to process, and other batches round differently.
        new = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            encoded = self._encode(self._tokenize(chunk).to(device))
            embeddings = F.normalize(encoded.float(), dim=-1)
            self._known.update(zip(chunk, embeddings.cpu(), strict=True))
        return torch.stack([self._known[text] for text in texts])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the weights, without those of the image tower that a CLIP model has too."""
        weights = self._model.state_dict().items()
        return weights_checksum({k: v for k, v in weights if not k.startswith("visual.")})


def sentence_tower(folder: Path) -> tuple[TextTower, int]:
    """A sentence encoder in transformers' format (MiniLM) as open_clip's text tower.

    Returns the tower and its width e.
    """
    from open_clip.hf_model import HFTextEncoder
    from open_clip.tokenizer import HFTokenizer
    from transformers import AutoConfig

    width = AutoConfig.from_pretrained(folder).hidden_size
    model = HFTextEncoder(str(folder), output_dim=width, pooler_type="mean_pooler")
    tokenizer = HFTokenizer(str(folder), context_length=64)
    frozen = _frozen(model)
    return TextTower(frozen, frozen, lambda texts: _trim(tokenizer(texts))), width


def _trim(ids: Tensor) -> Tensor:
    """Cut the padding (0) that every text of the batch has: (b, 64) -> (b, longest)."""
    return ids[:, : int((ids != 0).sum(1).max())]


def open_clip_tower(name: str) -> tuple[TextTower, int]:
    """The text tower of an open_clip model, named "model/pretrained"; returns it and width e."""
    import open_clip

    architecture, pretrained = name.split("/", 1)
    model = open_clip.create_model(architecture, pretrained=pretrained)
    width = open_clip.get_model_config(architecture)["embed_dim"]
    frozen = _frozen(model)
    return TextTower(frozen, frozen.encode_text, open_clip.get_tokenizer(architecture)), width


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)
