"""LoRA on the LLM through peft: the second kind of fine-tuning of the paper (Table 12).

The LLM's own weights stay as they are; the low-rank ones beside them can be trained, switched off,
merged, and saved in peft's own format.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymal_lib.errors import AssetError, ConfigError
from anymal_lib.llm import FrozenLLM
from anymal_lib.specs import LoraSpec

_NAME = "anymal"
_WEIGHTS = "adapter_model.safetensors"


def add_lora(llm: FrozenLLM, spec: LoraSpec, *, seed: int) -> None:
    """Put LoRA beside every linear layer of the LLM but its head, in fp32; it changes nothing yet.

    Decoder layers below `spec.first_layer` get none; `ConfigError` where the LLM has none above.
    The new weights learn until `freeze_lora`. Works on bf16, int8 and nf4 alike.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        **_targets(llm, spec.first_layer),
    )
    _inject(llm, config, seed)
    for parameter in lora_parameters(llm).values():
        parameter.data = parameter.data.float()  # steps are smaller than bf16 resolves
    llm.forget()


def _targets(llm: FrozenLLM, first: int) -> dict[str, Any]:
    """Which layers get LoRA, in peft's words."""
    if first == 0:
        return {"target_modules": "all-linear"}
    layers = llm.model.base_model.layers
    if not 0 < first < len(layers):
        raise ConfigError(
            "LoRA's first layer",
            expected=f"0 to {len(layers) - 1}: the LLM has {len(layers)} decoder layers",
            got=str(first),
            do="Set first_layer in the profile's finetune.lora.",
        )
    linear = {n for n, module in layers[first].named_modules() if isinstance(module, nn.Linear)}
    return {
        "target_modules": sorted(name.rsplit(".", 1)[-1] for name in linear),
        "layers_to_transform": list(range(first, len(layers))),
        "layers_pattern": "layers",
    }


def has_lora(llm: FrozenLLM) -> bool:
    """Whether the LLM carries LoRA weights."""
    return bool(lora_parameters(llm))


def lora_parameters(llm: FrozenLLM) -> dict[str, nn.Parameter]:
    """The LoRA weights by name."""
    return {name: p for name, p in llm.model.named_parameters() if ".lora_" in name}


def freeze_lora(llm: FrozenLLM) -> None:
    """End the training of the LoRA weights; the LLM is constant again."""
    for parameter in lora_parameters(llm).values():
        parameter.requires_grad_(False)
    llm.forget()


def unfreeze_lora(llm: FrozenLLM) -> None:
    """Let the LoRA weights learn, for the first time or on; until `freeze_lora`."""
    for parameter in lora_parameters(llm).values():
        parameter.requires_grad_(True)
    llm.forget()


@contextmanager
def without_lora(llm: FrozenLLM) -> Iterator[None]:
    """Within, the LLM answers as if it had no LoRA; weights that learn go on doing so after it."""
    layers, learning = _layers(llm), llm.learns
    for layer in layers:
        layer.enable_adapters(False)
    llm.forget()
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in lora_parameters(llm).values():
            parameter.requires_grad_(learning)
        llm.forget()


def merge_lora(llm: FrozenLLM) -> None:
    """Add the LoRA weights to the LLM's own, so that answers take no extra products.

    Rounding to the precision of the LLM can change an answer that was a near tie. A merged LLM is
    for inference: its LoRA can no longer be trained, switched off or saved.
    """
    for layer in _layers(llm):
        layer.merge(safe_merge=True)
    llm.forget()


@contextmanager
def merged_lora(llm: FrozenLLM) -> Iterator[None]:
    """Within, the LoRA weights are merged, so that answers take no extra products.

    After it every weight is what it was, to the bit. Quantized layers are left as they are: their
    weights could only be merged by rounding them anew.
    """
    if llm.bits < 16:
        yield
        return
    layers = _layers(llm)
    own = [layer.get_base_layer().weight.data for layer in layers]
    merge_lora(llm)
    try:
        yield
    finally:
        for layer, weight in zip(layers, own, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
        llm.forget()


def save_lora(llm: FrozenLLM, folder: Path) -> None:
    """Write `folder` in peft's format; it appears whole or not at all.

    Raises `ConfigError` once the weights are merged: what belongs to the LLM they were trained on
    is then no longer there.
    """
    from safetensors.torch import save_file

    if any(layer.merged for layer in _layers(llm)):
        raise ConfigError(
            "LoRA weights",
            expected="weights beside the LLM's own",
            got="weights that are merged into them",
            do="Save the model before merge_lora.",
        )
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in _by_file_name(llm).items()}
    save_file(tensors, partial / _WEIGHTS)
    config = copy(llm.model.peft_config[_NAME])
    config.target_modules = sorted(config.target_modules)  # a set has another order every time
    config.save_pretrained(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_lora(llm: FrozenLLM, folder: Path) -> None:
    """Put saved LoRA weights beside the LLM's own, frozen.

    Raises `AssetError` when the files are missing, damaged, or of another LLM.
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / _WEIGHTS)
        _inject(llm, LoraConfig.from_pretrained(str(folder)), seed=0)
        _fill(llm, tensors)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise AssetError(
            f"'{folder.name}' in '{folder.parent.name}'",
            expected="LoRA weights of this LLM in peft's format",
            got=str(error).splitlines()[0],
            do="Save the model again or fetch the folder anew.",
        ) from error
    freeze_lora(llm)


def _inject(llm: FrozenLLM, config: Any, seed: int) -> None:
    """Put fresh LoRA weights of a peft configuration beside the LLM's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm.model.add_adapter(config, _NAME)
    for layer in _layers(llm):
        layer.cast_input_dtype_enabled = False  # its weights are cast instead: see `FrozenLLM`
    config.base_model_name_or_path = llm.identity.source  # not the folder it was read from


def _by_file_name(llm: FrozenLLM) -> dict[str, nn.Parameter]:
    """The LoRA weights by the names that peft gives them in files."""
    return {
        f"base_model.model.{name.replace(f'.{_NAME}', '')}": parameter
        for name, parameter in lora_parameters(llm).items()
    }


def _fill(llm: FrozenLLM, tensors: dict[str, Tensor]) -> None:
    """Put saved weights in place of the fresh ones; `ValueError` unless all fit."""
    parameters = _by_file_name(llm)
    if unknown := sorted(tensors.keys() ^ parameters.keys()):
        raise ValueError(f"{len(unknown)} tensors too many or too few, such as {unknown[0]}")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            got, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
            raise ValueError(f"{name} of shape {got} in place of {wanted}")
        parameter.data = tensors[name].to(parameter.device, torch.float32)


def _layers(llm: FrozenLLM) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in llm.model.modules() if isinstance(layer, BaseTunerLayer)]
