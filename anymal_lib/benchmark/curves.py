"""What a step costs as its tokens, its batch and the LLM grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from anymal_lib.benchmark.plan import Plan
from anymal_lib.benchmark.recipes import peak_gflops
from anymal_lib.benchmark.steps import Bench, Work
from anymal_lib.benchmark.timing import Times, alternate
from anymal_lib.compiled import compiled_layers
from anymal_lib.config import MINI
from anymal_lib.llm import FrozenLLM, Identity, load_llm
from anymal_lib.machine import default_device
from anymal_lib.specs import AdapterSpec


def batches(plan: Plan) -> dict[int, Times]:
    """Our step and the bare one at several batch sizes."""
    llm = load_llm(plan.profile.llm)
    return {size: _against_bare(llm, replace(plan.work, batch=size), plan) for size in plan.batches}


def caption_lengths(plan: Plan) -> dict[int, Times]:
    """Our step and the bare one as captions grow."""
    llm = load_llm(plan.profile.llm)
    return {n: _against_bare(llm, replace(plan.work, caption=n), plan) for n in plan.captions}


def modality_tokens(plan: Plan) -> dict[int, Times]:
    """Our step and the bare one as modality tokens grow; beside it a resampler's."""
    llm = load_llm(plan.profile.llm)
    found = {}
    for count in plan.tokens:
        work = replace(plan.work, modality=count)
        resampler = AdapterSpec(kind="resampler", tokens=count, layers=2, width=384, heads=6)
        bench = Bench(llm, work)
        steps = {
            "bare": bench.bare(),
            "ours": bench.ours(),
            "ours, resampler": Bench(llm, work, adapter=resampler).ours(),
        }
        found[count] = alternate(steps, plan.few)
    return found


def _against_bare(llm: FrozenLLM, work: Work, plan: Plan) -> Times:
    bench = Bench(llm, work)
    return alternate({"bare": bench.bare(), "ours": bench.ours()}, plan.few)


# Sizes of LLaMA: width, feed-forward width, layers, heads, heads of keys and values.
SHAPES: Mapping[str, tuple[int, int, int, int, int]] = {
    "35M": (384, 1024, 20, 6, 2),
    "135M": (576, 1536, 30, 9, 3),
    "360M": (960, 2560, 32, 15, 5),
    "1B": (2048, 8192, 16, 32, 8),
    "7B": (4096, 11008, 32, 32, 32),
}


def random_llm(shape: str) -> FrozenLLM:
    """A LLaMA of a given size with random weights: its speed is that of a trained one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = load_llm(MINI.llm)
    width, inner, layers, heads, groups = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=len(base.tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=width < 4096,
        dtype=base.dtype,
        attn_implementation="eager" if default_device() == "cpu" else "sdpa",
    )
    with torch.device(default_device()):
        model = LlamaForCausalLM(config).to(base.dtype)
    return FrozenLLM(model, base.tokenizer, Identity(f"random {shape}", ""), base.bits)


@dataclass(frozen=True)
class Size:
    """Our step before an LLM of one size."""

    parameters: float
    times: Times
    peak_fraction: float


def sizes(plan: Plan) -> dict[str, Size]:
    """Our step and the bare one as the LLM grows, random weights."""
    peak, found = peak_gflops(), {}
    for shape in plan.shapes:
        llm = random_llm(shape)
        bench = Bench(llm, plan.work)
        times = alternate({"bare": bench.bare(), "ours": bench.ours()}, plan.few)
        speed = bench.floating_point_operations() / times.of("ours").median / 1e9
        parameters = sum(p.numel() for p in llm.model.parameters())
        found[shape] = Size(parameters, times, speed / peak)
    return found


def on_gpu(plan: Plan) -> dict[str, dict[str, float]]:
    """The largest batch that fits and the fraction of the card's peak there; empty without one.

    Layers as they are, and compiled: on a GPU what lies between the products waits for memory.
    """
    found: dict[str, dict[str, float]] = {}
    for shape in ("1B", "7B") if torch.cuda.is_available() else ():
        llm = random_llm(shape)
        found[shape] = _largest_batch(llm, plan.work)
        with compiled_layers(llm):
            found[f"{shape}, compiled"] = _largest_batch(llm, plan.work)
    return found


def _largest_batch(llm: FrozenLLM, work: Work, most: int = 4096) -> dict[str, float]:
    """By doubling, until memory is short."""
    best: dict[str, float] = {}
    peak, size = peak_gflops(), 16
    while size <= most:
        try:
            bench = Bench(llm, replace(work, batch=size))
            seconds = alternate({"ours": bench.ours()}, 5).of("ours").median
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        speed = bench.floating_point_operations() / seconds / 1e9
        best = {
            "batch": size,
            "tokens / s": size * work.length / seconds,
            "peak fraction": speed / peak,
        }
        size *= 2
    return best
