"""The first layers of a frozen LLM, as the smaller one of two.

No family of trained sizes is at hand without a model hub. A truncated LLM is not what the paper
compares with: nothing between its last layer and its head was trained to fit, so it models text
worse than a trained model of its size, and the adapter has to make up for that as well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from anymal_lib.assets import HubAsset, WheelAsset
from anymal_lib.llm import FrozenLLM, Identity, load_llm


def depth(llm: FrozenLLM) -> int:
    """How many layers an LLM has."""
    return len(llm.model.base_model.layers)


def truncated_identity(whole: Identity, layers: int, of: int) -> Identity:
    """Who the first `layers` of an LLM of `of` layers are: nobody's adapter takes them for it."""
    if layers == of:
        return whole
    checksum = hashlib.sha256(f"{whole.sha256}/{layers}".encode()).hexdigest()
    return Identity(f"{whole.source}, first {layers} of {of} layers", checksum)


def load_truncated(
    source: WheelAsset | HubAsset | str | Path, layers: int, *, bits: int | None = None
) -> FrozenLLM:
    """The first `layers` of an LLM, its final norm and head after them; raises as `load_llm`."""
    llm = load_llm(source, bits=bits)
    identity = truncated_identity(llm.identity, layers, depth(llm))
    body = llm.model.base_model
    body.layers = body.layers[:layers]
    llm.model.config.num_hidden_layers = layers  # `body` has the same configuration
    return FrozenLLM(llm.model, llm.tokenizer, identity, llm.bits)
