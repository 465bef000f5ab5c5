"""Decoder layers compiled one by one, all of them from one graph.

A cache of transformers is asked by layer number, which would make every layer a graph of its own,
half a minute each time. While compiled, a layer gets the prefix's keys and values as plain tensors
instead, and the model's attention function puts them before its own.

Shape letters: r rows, h heads, d their width, p positions of the prefix.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anymal_lib.errors import ConfigError
from anymal_lib.llm import FrozenLLM
from anymal_lib.machine import has_compiler

log = logging.getLogger(__name__)

_ATTENTION = "anymal"  # in transformers' table of attention functions

# Floating-point operations of a run from which compilation is worth it. On two CPU cores it takes
# 30 to 60 s, but torch keeps the result on disk, where every later run finds it in about 4 s, and
# it saves a tenth to a third of a step: a chain of runs repays it though its first one may not. On
# an H100 it takes about 15 s and saves nearly a third of a step of the 7B shape, at 360 TFLOP/s of
# 50 s.
_REPAID = {"cpu": 1.5e13, "cuda": 2e16}


def repays(llm: FrozenLLM, samples: int, tokens: int) -> bool:
    """Whether learning from so many samples of `tokens` positions is worth compiling for.

    A function of the settings and not of the clock, so that a run can be repeated. Quantized
    layers are left alone: their products are kernels of their own.
    """
    weights = sum(p.numel() for p in llm.model.base_model.layers.parameters())
    planned = 4 * weights * tokens * samples  # forward, and backward to activations
    return llm.bits >= 16 and planned >= _REPAID[llm.device.type] and _has_compiler(llm)


def _has_compiler(llm: FrozenLLM) -> bool:
    return llm.device.type != "cpu" or has_compiler()


@contextmanager
def compiled_layers(llm: FrozenLLM) -> Iterator[None]:
    """Within, `llm.hidden` runs compiled layers where gradients flow.

    The first step compiles (about half a minute on two CPU cores, seconds when torch finds it on
    disk). Raises `ConfigError` where no C++ compiler is found.
    """
    if not _has_compiler(llm):
        raise ConfigError(
            "compile",
            expected="a C++ compiler",
            got="none on the path",
            do="Install g++, or set compile=False in the profile's step.",
        )
    layers = llm.model.base_model.layers
    with _attention_with_prefix(llm.model):
        try:
            for index, layer in enumerate(layers):
                layer.forward = _in_training(layer, index)
            llm.compiled = True
            yield
        finally:
            llm.compiled = False
            for layer in layers:
                layer.__dict__.pop("forward", None)


def _in_training(layer: nn.Module, index: int) -> Callable[..., Tensor]:
    """The layer's forward pass: compiled where gradients flow, else as it is."""
    plain, compiled = layer.forward, torch.compile(layer.forward, dynamic=True)

    def forward(states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(states, *args, past_key_values=past_key_values, **kwargs)
        if not states.requires_grad and any(p.requires_grad for p in layer.parameters()):
            # The first layer with LoRA would be another graph, compiled for one layer alone.
            states = states.detach().requires_grad_()
        prefix = None
        if past_key_values is not None:
            held = past_key_values.layers[index]
            prefix = (held.keys, held.values)
        return compiled(states, *args, **{**kwargs, "prefix": prefix, "use_cache": False})

    return forward


@contextmanager
def _attention_with_prefix(model: nn.Module) -> Iterator[None]:
    """Within, the model's attention understands one thing more, and is else as it was.

    `prefix`: keys and values (1 or r, h, p, d) of a text that every row begins with.
    """
    own = model.config._attn_implementation
    _register(own, model.base_model.layers[0])
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _register(own: str, layer: nn.Module) -> None:
    """Make an attention of the model's own kind that reads prefixes known by `_ATTENTION`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager = sys.modules[type(layer.self_attn).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        prefix: Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        if prefix is not None:
            key, value = (
                torch.cat([said.expand(len(part), -1, -1, -1), part], 2)
                for said, part in zip(prefix, (key, value), strict=True)
            )
        return attend(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(_ATTENTION, attention)
    AttentionMaskInterface.register(_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS[own])
