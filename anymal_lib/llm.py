"""The frozen LLM: any causal language model of transformers, at fp32, bf16, int8 or nf4.

Shape letters: b batch, t positions, w width of the LLM, v vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anymal_lib.assets import (
    HubAsset,
    LocalAsset,
    WheelAsset,
    cache_dir,
    fetch,
    locked,
    sha256_of,
)
from anymal_lib.checksums import weights_checksum
from anymal_lib.errors import AssetError, ConfigError
from anymal_lib.machine import default_device, fast_dtype

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

log = logging.getLogger(__name__)
# Its only message at this level names an optional compiled kernel that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

PRECISIONS = {32: "fp32", 16: "bf16", 8: "int8", 4: "nf4"}
_TYPES = {32: torch.float32, 16: torch.bfloat16}  # int8 and nf4 compute in what is fast here


@dataclass(frozen=True)
class Identity:
    """Which base model an adapter belongs to: its source and a checksum of its content."""

    source: str
    sha256: str


@dataclass(frozen=True)
class Prefix:
    """What the frozen LLM remembers of texts that come before the first item of their prompts.

    layers: keys and values of each layer, (1, heads, p, head width) where all prompts share one
    text, else (b, heads, p, head width) with padding on the left; mask (b, p), True where a
    position is real, or None without padding.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor | None

    def __len__(self) -> int:
        return self.layers[0][0].shape[2]

    def cache(self, batch: int) -> DynamicCache:
        """A fresh cache of `batch` rows for transformers; it never writes into these tensors."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            rows = (batch, -1, -1, -1)
            cache.update(keys.expand(rows), values.expand(rows), index)
        return cache


def join_masks(mask: Tensor | None, prefix: Prefix | None, rows: int, length: int) -> Tensor | None:
    """One mask (rows, p + length) for a prefix and what follows; None where nothing is padded."""
    if prefix is None or (mask is None and prefix.mask is None):
        return mask
    device = prefix.layers[0][0].device
    joined = torch.ones(rows, len(prefix) + length, dtype=torch.bool, device=device)
    if prefix.mask is not None:
        joined[:, : len(prefix)] = prefix.mask
    if mask is not None:
        joined[:, len(prefix) :] = mask
    return joined


def _place(mask: Tensor | None, length: int) -> dict[str, Tensor]:
    """Mask and positions of the last `length` columns; padding takes no position."""
    if mask is None:
        return {}
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    return {"attention_mask": mask.long(), "position_ids": positions[:, -length:]}


class FrozenLLM:
    """A causal LM without gradients, its tokenizer and its identity.

    Only LoRA (`anymal_lib.lora`) adds weights that may learn; the model's own never do.

    Quantized layers of bitsandbytes stay in training mode: in evaluation mode they repack their
    weights in place for the CPU, and int8 takes a path without a backward on that device.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, identity: Identity, bits: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.identity = identity
        self.bits = bits
        self.compiled = False  # see `anymal_lib.compiled`
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
    def learns(self) -> bool:
        """Whether LoRA weights are being trained: then nothing that was read before holds."""
        return any(p.requires_grad for p in self.model.parameters())

    @property
    def window(self) -> int | None:
        """How many positions some layer's attention looks back over; None where all."""
        return getattr(self.model.config, "sliding_window", None)

    @property
    def end_of_turn(self) -> int:
        """The token that ends a response."""
        return self.tokenizer.eos_token_id

    @lru_cache(maxsize=65536)  # noqa: B019 - one LLM per process, and texts repeat every epoch
    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of `text` without special tokens added."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids without special tokens, nothing tidied up: as it was generated.

        So the text of more tokens begins with the text of fewer, but for half characters.
        """
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: (b, t) -> (b, t, w)."""
        return self._embedding(ids)

    def hidden(
        self, embeddings: Tensor, mask: Tensor | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Last hidden states of the LLM's body: (b, t, w) -> (b, t, w).

        `mask` (b, t) is True where a position is real; padding on the right needs none, because
        causal attention never looks there. `prefix` is read before the embeddings.
        """
        cache = None if prefix is None else prefix.cache(len(embeddings))
        mask = join_masks(mask, prefix, *embeddings.shape[:2])
        return self.read(embeddings, mask, cache).last_hidden_state

    def hidden_packed(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """The same for packed rows (see `anymal_lib.packing`): (r, t, w) -> (r, t, w).

        `mask` (r, 1, t, p + t) is added to the scores of attention; `positions` (r, t).
        """
        return self._body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=None if prefix is None else prefix.cache(len(embeddings)),
            use_cache=prefix is not None,
        ).last_hidden_state

    def read(self, embeddings: Tensor, mask: Tensor | None, cache: DynamicCache | None) -> Any:
        """The body's output as transformers gives it: (b, t, w) after what `cache` holds.

        `mask` (b, all positions so far) is None where nothing is padded.
        """
        return self._body(
            inputs_embeds=embeddings,
            past_key_values=cache,
            use_cache=cache is not None,
            **_place(mask, embeddings.shape[1]),
        )

    def _body(self, **inputs: Any) -> Any:
        """The body's output. LoRA's weights are fp32, its products are of the LLM's own type."""
        mixed = self.dtype != torch.float32 and hasattr(self.model, "peft_config")
        with torch.autocast(self.device.type, self.dtype, enabled=mixed):
            return self.model.base_model(**inputs)

    def remember(self, prefixes: Sequence[tuple[int, ...]]) -> Prefix | None:
        """Keys and values of the texts before the first item, one a prompt; None if all are empty.

        The LLM is frozen, so these are constants: equal texts are read once, and a text that a
        whole batch shares is kept for the steps that follow. Nothing here enters a backward pass.
        """
        if not any(prefixes):
            return None
        distinct = list(dict.fromkeys(prefixes))
        if len(distinct) == 1 and not self.learns:
            return self._remember_one(distinct[0])
        width = max(map(len, distinct))
        ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in distinct])
        real = torch.tensor([[k >= width - len(text) for k in range(width)] for text in distinct])
        index = torch.tensor([distinct.index(text) for text in prefixes], device=self.device)
        mask = None if real.all() else real.to(self.device)
        layers = self._keys_and_values(ids, mask)
        return Prefix(
            tuple((keys[index], values[index]) for keys, values in layers),
            None if mask is None else mask[index],
        )

    def forget(self) -> None:
        """Drop what `remember` kept: to be called whenever the LLM's weights have changed."""
        self._remember_one.cache_clear()

    @lru_cache(maxsize=256)  # noqa: B019 - a few hundred kB each at 135M, a few MB at 70B
    def _remember_one(self, text: tuple[int, ...]) -> Prefix:
        return Prefix(tuple(self._keys_and_values(torch.tensor([text]), None)), None)

    @torch.inference_mode(False)  # what is kept for training may be asked for in evaluation
    @torch.no_grad()
    def _keys_and_values(self, ids: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()  # one without windows: a model's own keeps the last positions only
        self._body(
            input_ids=ids.to(self.device),
            past_key_values=cache,
            use_cache=True,
            **_place(mask, ids.shape[1]),
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def logits(self, rows: Tensor) -> Tensor:
        """Next-token logits in fp32 of chosen rows only: (n, w) -> (n, v)."""
        logits = self._head(rows).float()
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def fingerprint(self) -> str:
        """SHA-256 over every weight, buffer and quantization constant; changes with any bit."""
        return weights_checksum(self.model.state_dict())


def load_llm(
    source: WheelAsset | HubAsset | str | Path,
    *,
    bits: int | None = None,
    device: str | None = None,
) -> FrozenLLM:
    """Load a causal LM frozen.

    `source` is a pinned asset, a local folder or a hub id. `bits` is 32 (fp32), 16 (bf16),
    8 (int8) or 4 (nf4 with double quantization), the last two through bitsandbytes, on CPU or
    GPU; None takes bf16 where this machine is fast at it, else fp32, and so do the activations of
    a quantized LLM. `device` defaults to the GPU where there is one. Raises `ConfigError` for
    unknown bits and `AssetError` when the model cannot be had or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if bits is None:
        bits = next(bits for bits, dtype in _TYPES.items() if dtype == fast_dtype())
    if bits not in PRECISIONS:
        raise ConfigError(
            "BITS",
            expected=f"one of {sorted(PRECISIONS)}",
            got=repr(bits),
            do="Set BITS to 32 (fp32), 16 (bf16), 8 (int8) or 4 (nf4).",
        )
    device, dtype = device or default_device(), _TYPES.get(bits) or fast_dtype()
    place, revision, identity = _resolve(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=dtype,
            # SDPA is slower than eager attention on a CPU at these short lengths.
            attn_implementation="eager" if device == "cpu" else "sdpa",
            quantization_config=_quantization(bits, dtype),
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
    if bits == 4 and device == "cpu":
        _unpack_scales(model)
    return FrozenLLM(model, tokenizer, identity, bits)


def _unpack_scales(model: nn.Module) -> None:
    """Undo the second quantization of nf4, that of the scales, once instead of at every product.

    Same values, for a sixteenth of a byte more per weight; on a GPU the kernels do it on the fly.
    """
    from bitsandbytes.functional import dequantize_blockwise
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit) and layer.weight.quant_state.nested:
            state = layer.weight.quant_state
            state.absmax = dequantize_blockwise(state.absmax, state.state2).float() + state.offset
            state.nested, state.state2, state.offset = False, None, None


def _quantization(bits: int, dtype: torch.dtype) -> Any:
    if bits >= 16:
        return None
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
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
    gguf = fetch(asset)
    with locked(folder):
        if not folder.is_dir():
            _rebuild(gguf, folder)
    return folder


def _rebuild(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedTokenizerFast

    log.info("Rebuilding %s as safetensors (once, about 15 s) ...", gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The automatic class would come to the same one, but read the whole file anew to find it.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
