"""A step of each recipe side by side, and the ratios that are reported of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from anymal_lib.benchmark.inference import Generation
from anymal_lib.benchmark.memory import Growth, growth
from anymal_lib.benchmark.plan import Plan
from anymal_lib.benchmark.steps import PADDED, Bench
from anymal_lib.benchmark.timing import Spread, Times, alternate
from anymal_lib.compiled import compiled_layers
from anymal_lib.llm import load_llm
from anymal_lib.machine import fast_dtype, matmul_gflops


@dataclass(frozen=True)
class Headline:
    """The four steps side by side, and what they say."""

    times: Times
    parts: Times  # our step and its LLM's part
    growth: Mapping[str, Growth]
    tokens: int  # positions of a batch
    gflops: float  # speed at which our step does the products it needs
    peak: float  # of this machine's matrix product

    @property
    def peak_fraction(self) -> float:
        """Our step's products, of the machine's peak."""
        return self.gflops / self.peak

    def rows(self) -> dict[str, dict[str, Any]]:
        """The table: a row a step."""
        return {
            name: {
                "seconds": self.times.of(name),
                "/ bare": self.times.ratio(name, "bare"),
                "/ ours": self.times.ratio(name, "ours"),
                "tokens / s": round(self.tokens / self.times.of(name).median),
                "memory growth / bare": round(
                    self.growth[name].megabytes / self.growth["bare"].megabytes, 2
                )
                if name in self.growth
                else "",
            }
            for name in self.times.seconds
        }


def headline(plan: Plan) -> Headline:
    """Bare step, ours, ours compiled, the transformers recipe and the usual recipe."""
    llm = load_llm(plan.profile.llm)
    bench = Bench(llm, plan.work)
    usual = Bench(load_llm(plan.profile.llm, bits=32), plan.work)
    compiled = load_llm(plan.profile.llm)
    with compiled_layers(compiled):
        steps = {
            "bare": bench.bare(),
            "ours": bench.ours(),
            "ours, compiled": Bench(compiled, plan.work).ours(),
            "transformers": bench.transformers(),
            "usual": usual.transformers(length=PADDED),
        }
        times = alternate(steps, plan.rounds)
    parts = {"ours": steps["ours"], "ours, the LLM alone": bench.llm_alone()}
    return Headline(
        times,
        alternate(parts, 2 * plan.rounds),  # a small difference: by themselves, and twice as often
        {kind: growth(kind, plan.work, profile=plan.profile.name) for kind in plan.memory},
        plan.work.batch * plan.work.length,
        bench.floating_point_operations() / times.of("ours").median / 1e9,
        peak_gflops(),
    )


def peak_gflops() -> float:
    """The fastest matrix product that this machine shows, in what the LLM is computed in."""
    sizes = (4096, 8192) if torch.cuda.is_available() else (1024, 2048)
    return max(matmul_gflops(size, dtype=fast_dtype()) for size in sizes for _ in range(3))


def ratios(found: Headline) -> dict[str, Spread]:
    """The ratios of the headline, by the names of metrics.json."""
    over = found.times.ratio
    alone = found.parts.ratio("ours, the LLM alone", "ours")
    return {
        "step_over_bare": over("ours", "bare"),
        "step_compiled_over_bare": over("ours, compiled", "bare"),
        "transformers_recipe_over_step": over("transformers", "ours"),
        "transformers_recipe_over_step_compiled": over("transformers", "ours, compiled"),
        "usual_recipe_over_step": over("usual", "ours"),
        "not_llm_share": Spread(1 - alone.median, 1 - alone.high, 1 - alone.low),
    }


def metrics(found: Headline, precisions: Times, generation: Generation) -> dict[str, Any]:
    """The `metrics` part of metrics.json that the contract names; medians, quartiles beside."""
    spreads = ratios(found) | {
        **{
            f"{name}_over_{base}": precisions.ratio(name, base)
            for name in ("nf4", "int8")
            for base in dict.fromkeys((precisions.first, "bf16"))
        },
        "batched_generation_speedup": generation.speedup,
    }
    bare = found.growth["bare"].megabytes
    return {
        "ratios": {name: spread.median for name, spread in spreads.items()},
        "quartiles": {name: [spread.low, spread.high] for name, spread in spreads.items()},
        "over_bare": {n: found.times.ratio(n, "bare").median for n in found.times.seconds},
        "memory_growth_over_bare": {k: g.megabytes / bare for k, g in found.growth.items()},
        "peak_fraction": found.peak_fraction,
        "peak_gflops": found.peak,
    }
