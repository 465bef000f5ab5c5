"""The frozen LLM: any causal language model of transformers, at fp32, bf16, int8 or nf4.

Shape letters: b batch, t positions, w width of the LLM, v vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anymal_lib.assets import HubAsset, LocalAsset, WheelAsset, cache_dir, fetch, sha256_of
from anymal_lib.errors import AssetError, ConfigError
from anymal_lib.machine import default_device

log = logging.getLogger(__name__)

PRECISIONS = {32: "fp32", 16: "bf16", 8: "int8", 4: "nf4"}


@dataclass(frozen=True)
class Identity:
    """Which base model an adapter belongs to: its source and a checksum of its content."""

    source: str
    sha256: str


class FrozenLLM:
    """A causal LM without gradients, its tokenizer and its identity.

    Quantized layers of bitsandbytes stay in training mode: in evaluation mode they repack their
    weights in place for the CPU, and int8 takes a path without a backward on that device.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, identity: Identity, bits: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.bits = bits
        for layer in model.modules():
            if type(layer).__module__.startswith("bitsandbytes"):
                layer.train()
        self._embedding = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self._softcap = getattr(model.config, "final_logit_softcapping", None)

    @property
    def width(self) -> int:
        """Width of the token embeddings."""
        return self._embedding.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the embeddings and activations."""
        return self._embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        return self._embedding.weight.device

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the token embeddings' entries: the scale that adapters aim at."""
        return self._embedding.weight.float().pow(2).mean().sqrt().item()

    @property
    def end_of_turn(self) -> int:
        """The token that ends a response."""
        return self.tokenizer.eos_token_id

    @lru_cache(maxsize=65536)  # noqa: B019 - one LLM per process, and texts repeat every epoch
    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of `text` without special tokens added."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: (b, t) -> (b, t, w)."""
        return self._embedding(ids)

    def hidden(self, embeddings: Tensor, **kwargs: Any) -> Tensor:
        """Last hidden states of the LLM's body: (b, t, w) -> (b, t, w)."""
        return self.model.base_model(inputs_embeds=embeddings, **kwargs).last_hidden_state

    @torch.no_grad()
    def remember(self, ids: Sequence[int], batch: int) -> Any:
        """Keys and values of a prefix that `batch` prompts share, computed once.

        The LLM is frozen, so nothing before the first modality token needs a backward pass.
        """
        prefix = torch.tensor([list(ids)], device=self.device)
        cache = self.model.base_model(input_ids=prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(batch)
        return cache

    def logits(self, rows: Tensor) -> Tensor:
        """Next-token logits in fp32 of chosen rows only: (n, w) -> (n, v)."""
        logits = self._head(rows).float()
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def fingerprint(self) -> str:
        """SHA-256 over every weight, buffer and quantization constant; changes with any bit."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_llm(
    source: WheelAsset | HubAsset | str | Path, *, bits: int = 16, device: str | None = None
) -> FrozenLLM:
    """Load a causal LM frozen.

    `source` is a pinned asset, a local folder or a hub id. `bits` is 32 (fp32), 16 (bf16),
    8 (int8) or 4 (nf4 with double quantization), the last two through bitsandbytes, on CPU or
    GPU. `device` defaults to the GPU where there is one. Raises `ConfigError` for unknown bits
    and `AssetError` when the model cannot be had or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if bits not in PRECISIONS:
        raise ConfigError(
            "BITS",
            expected=f"one of {sorted(PRECISIONS)}",
            got=repr(bits),
            do="Set BITS to 32 (fp32), 16 (bf16), 8 (int8) or 4 (nf4).",
        )
    device = device or default_device()
    place, revision, identity = _resolve(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=torch.float32 if bits == 32 else torch.bfloat16,
            # SDPA is slower than eager attention on a CPU at these short lengths.
            attn_implementation="eager" if device == "cpu" else "sdpa",
            quantization_config=_quantization(bits),
            device_map={"": device},
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise AssetError(
            f"LLM '{place}'",
            expected="a causal language model that transformers can read",
            got=str(error).splitlines()[0],
            do="Check the name or folder; gated models need `hf auth login`, and offline only "
            "what is in the local cache can be loaded.",
        ) from error
    if identity is None:
        commit = getattr(model.config, "_commit_hash", None) or ""
        identity = Identity(source=str(place), sha256=commit)
    return FrozenLLM(model, tokenizer, identity, bits)


def _quantization(bits: int) -> Any:
    if bits >= 16:
        return None
    from transformers import BitsAndBytesConfig

    # Its only message at this level names an optional compiled kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _resolve(
    source: WheelAsset | HubAsset | str | Path,
) -> tuple[str | Path, str | None, Identity | None]:
    """Where to load from, which revision, and the identity where it is known beforehand."""
    if isinstance(source, WheelAsset):
        name = f"{source.package}=={source.version}"
        return _rebuilt_gguf(source), None, Identity(name, source.sha256)
    if isinstance(source, HubAsset):
        return source.repo_id, source.revision, None
    if Path(source).is_dir():
        return Path(source), None, Identity(str(source), _folder_checksum(Path(source)))
    return str(source), None, None


def _folder_checksum(folder: Path) -> str:
    config = fetch(LocalAsset(folder / "config.json"))
    weights = [*folder.glob("*.safetensors"), config]
    parts = {path.name: sha256_of(path) for path in weights}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rebuilt_gguf(asset: WheelAsset) -> Path:
    """The asset's GGUF as a plain bf16 safetensors folder in the cache, made once.

    transformers takes 5-20 s to read a GGUF and cannot quantize it with bitsandbytes.
    """
    folder = cache_dir() / "llm" / f"{asset.package}-{asset.version}-{asset.sha256[:12]}"
    if folder.is_dir():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = fetch(asset)
    log.info("Rebuilding %s as safetensors (once, about 20 s) ...", gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder
