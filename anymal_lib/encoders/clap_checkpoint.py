"""Published checkpoints of LAION-CLAP (`630k-audioset-best.pt` and kin), opened as data only.

Such a file holds the whole model under names of its training: `module.audio_branch` (HTSAT),
`module.audio_projection`, `module.text_branch` (RoBERTa), `module.text_projection`. The sizes of
all parts are read from the tensors, so tiny and base towers, with and without fusion, need no
further word.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymal_lib.assets import HubAsset, LocalAsset, fetch
from anymal_lib.encoders.htsat import Htsat
from anymal_lib.encoders.text import TextTower
from anymal_lib.errors import AssetError
from anymal_lib.specs import AudioEncoderSpec

_PARTS = ("audio_branch", "audio_projection", "text_branch", "text_projection")
_FUSION = "patch_embed.mel_conv2d.weight"  # only towers with fusion have it
_HEAD_WIDTH = 64  # of RoBERTa
_LONGEST = 77  # tokens of a text


def read_checkpoint(
    spec: AudioEncoderSpec,
) -> tuple[AudioEncoderSpec, Htsat, nn.Module, TextTower, int]:
    """The spec with the checkpoint's sizes, tower, projection, text tower, and embedding width.

    Raises:
        AssetError: no such file, not a CLAP checkpoint, or a tokenizer that does not fit it.
    """
    asset = spec.checkpoint
    path = fetch(asset if isinstance(asset, HubAsset) else LocalAsset(str(asset)))
    parts = _parts(path)
    try:
        audio = parts["audio_branch"]
        spec = replace(spec, **_tower_sizes(audio))
        tower = Htsat(spec, fusion=_FUSION in audio)
        tower.tower.load_state_dict(audio)
        projection = _projection(parts["audio_projection"])
        text = _text_tower(spec, parts["text_branch"], parts["text_projection"])
    except KeyError as error:
        raise _not_clap(path, f"no {error}") from error
    except RuntimeError as error:  # other names or shapes
        raise _not_clap(path, _brief(error)) from error
    width = parts["audio_projection"]["2.weight"].shape[0]
    return spec, tower, projection, text, width


def _parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """The model's tensors by part, their own names below it."""
    # Besides tensors the files hold numbers of the run as numpy scalars: harmless, and named here
    # so that nothing else in a file is ever executed.
    import numpy as np

    harmless: list[Any] = [
        (np.core.multiarray.scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.Int64DType,
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _not_clap(path, _brief(error)) from error
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else {}
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in state.items() if isinstance(state, dict) else ():
        part, _, own = str(name).removeprefix("module.").partition(".")
        if part in parts and isinstance(tensor, Tensor):
            parts[part][own] = tensor
    if missing := [part for part in _PARTS if not parts[part]]:
        raise _not_clap(path, f"no {' and no '.join(missing)}")
    # Older versions of transformers saved the positions' numbers, newer ones compute them.
    parts["text_branch"].pop("embeddings.position_ids", None)
    return parts


def _tower_sizes(audio: dict[str, Tensor]) -> dict[str, Any]:
    layers = [re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in audio]
    pairs = {(int(m[1]), int(m[2])) for m in layers if m}
    if not pairs:  # PANN, CLAP's other tower
        raise KeyError("audio_branch.layers")
    stages = 1 + max(stage for stage, _ in pairs)
    depths = tuple(sum(stage == k for stage, _ in pairs) for k in range(stages))
    tables = "layers.{}.blocks.0.attn.relative_position_bias_table"
    return {
        "width": audio["patch_embed.proj.weight"].shape[0],
        "depths": depths,
        "heads": tuple(audio[tables.format(k)].shape[1] for k in range(stages)),
        "mel_bins": audio["bn0.weight"].shape[0],
    }


def _projection(state: dict[str, Tensor]) -> nn.Sequential:
    """CLAP's projection: linear, ReLU, linear."""
    first, second = state["0.weight"], state["2.weight"]
    layers = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0]),
        nn.ReLU(),
        nn.Linear(second.shape[1], second.shape[0]),
    )
    layers.load_state_dict(state)
    return layers


def _text_tower(
    spec: AudioEncoderSpec, branch: dict[str, Tensor], projection: dict[str, Tensor]
) -> TextTower:
    """RoBERTa and its projection; the tokenizer has to have exactly the checkpoint's words."""
    from transformers import RobertaConfig, RobertaModel

    words = branch["embeddings.word_embeddings.weight"]
    config = RobertaConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len({n.split(".")[2] for n in branch if n.startswith("encoder.layer.")}),
        num_attention_heads=max(1, words.shape[1] // _HEAD_WIDTH),
        intermediate_size=branch["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=branch["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=branch["embeddings.token_type_embeddings.weight"].shape[0],
        layer_norm_eps=1e-5,
    )
    roberta = RobertaModel(config)
    roberta.load_state_dict(branch)
    tokenizer = _tokenizer(spec.tokenizer, words.shape[0])
    model = nn.ModuleDict({"branch": roberta, "projection": _projection(projection)})
    model.eval().requires_grad_(False)

    def tokenize(texts: list[str]) -> Tensor:
        return tokenizer(
            texts, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).input_ids

    def encode(ids: Tensor) -> Tensor:
        real = (ids != config.pad_token_id).long()
        pooled = roberta(input_ids=ids, attention_mask=real).pooler_output
        return model["projection"](pooled)

    return TextTower(model, encode, tokenize)


def _tokenizer(name: str, words: int) -> Any:
    """The tokenizer, checked: offline, transformers can hand over one of five tokens silently."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        got = f"{len(tokenizer)} tokens"
    except (OSError, ValueError) as error:
        tokenizer, got = None, str(error).splitlines()[0]
    if tokenizer is None or len(tokenizer) != words:
        raise AssetError(
            f"tokenizer '{name}'",
            expected=f"the {words} tokens of the checkpoint's text tower",
            got=got,
            do="Connect to the hub once, or set the spec's tokenizer to a folder that holds it.",
        )
    return tokenizer


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _not_clap(path: Path, got: str) -> AssetError:
    return AssetError(
        f"CLAP checkpoint '{path.name}'",
        expected="a checkpoint of LAION-CLAP with HTSAT and RoBERTa, for example "
        "630k-audioset-best.pt",
        got=got,
        do="Fetch the file again, or name another one.",
    )
