"""Decoder layers compiled one by one, all of them from one graph.

A cache of transformers is asked by layer number, which would make every layer a graph of its own,
half a minute each time. While compiled, a layer gets the prefix's keys and values as plain tensors
instead, which `anymal_lib.attention` puts before its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anymal_lib.attention import own_attention
from anymal_lib.errors import ConfigError
from anymal_lib.llm import FrozenLLM
from anymal_lib.machine import has_compiler

log = logging.getLogger(__name__)

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
    with own_attention(llm.model):
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
