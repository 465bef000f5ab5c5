"""What notebook 11 measures, one function a section, always on steps that alternate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from anymal_lib import stages
from anymal_lib.bank import Bank, build_bank
from anymal_lib.benchmark.memory import KINDS, Growth, growth
from anymal_lib.benchmark.steps import PADDED, Bench, Work
from anymal_lib.benchmark.timing import Spread, Times, alternate, timed
from anymal_lib.compiled import compiled_layers
from anymal_lib.config import MINI
from anymal_lib.encoders import Encoder
from anymal_lib.llm import PRECISIONS, FrozenLLM, Identity, load_llm
from anymal_lib.machine import default_device, fast_dtype, matmul_gflops
from anymal_lib.manifest import Row
from anymal_lib.modalities import MODALITIES, open_row
from anymal_lib.runs import Run
from anymal_lib.sources import profile_manifest
from anymal_lib.specs import AdapterSpec, Profile, StepSpec


@dataclass(frozen=True)
class Plan:
    """How much is measured. `QUICK` shows that everything runs; its numbers mean nothing."""

    profile: Profile = MINI  # whose LLM and encoders are measured
    rounds: int = 9
    work: Work = field(default_factory=Work)
    batches: tuple[int, ...] = (4, 16, 64)
    captions: tuple[int, ...] = (8, 16, 32, 64)
    tokens: tuple[int, ...] = (4, 8, 16, 32, 64)
    shapes: tuple[str, ...] = ("35M", "135M", "360M")
    prompts: int = 64  # generated together
    alone: int = 8  # of them also one by one
    items: int = 256  # encoded
    memory: tuple[str, ...] = KINDS  # steps whose memory is measured


QUICK = Plan(
    rounds=2,
    work=Work(batch=2),
    batches=(1, 2),
    captions=(4, 8),
    tokens=(4, 8),
    shapes=("35M",),
    prompts=4,
    alone=2,
    items=8,
    memory=("bare", "ours"),
)


def plan(run: Run) -> Plan:
    """The plan that a run's parameters ask for."""
    chosen = QUICK if run.asked.get("QUICK") else Plan()
    return replace(chosen, profile=run.profile, rounds=run.asked.get("ROUNDS", chosen.rounds))


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
    with ExitStack() as stack:
        stack.enter_context(compiled_layers(compiled))
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


def switches(plan: Plan) -> dict[str, Spread]:
    """Time of our step without one switch over the step with all of them.

    Captions of mixed length and two micro-batches, so that sorting has something to do. What the
    allocator keeps is a matter of the whole process: see `memory_kept`.
    """
    llm = load_llm(plan.profile.llm)
    work = replace(plan.work, caption=12, spread=4, micro_batch=max(1, plan.work.batch // 2))
    on = StepSpec(compile=False)
    plain = {"caption_logits": False, "prefix": False, "sort_micro_batches": False}
    off = {
        "logits of the caption alone": replace(on, caption_logits=False),
        "prefix as constants": replace(on, prefix=False),
        "micro-batches sorted by length": replace(on, sort_micro_batches=False),
        "all three": replace(on, **plain),
    }
    steps = {name: Bench(llm, work, spec).ours() for name, spec in {"on": on, **off}.items()}
    times = alternate(steps, plan.rounds)
    return {name: times.ratio(name, "on") for name in off}


def memory_kept(plan: Plan) -> dict[str, Growth]:
    """Our step with freed memory kept and given back, each in its own process."""
    on, name = StepSpec(compile=False), plan.profile.name
    off = replace(on, keep_memory=False)
    return {
        "kept": growth("ours", plan.work, on, profile=name),
        "given back": growth("ours", plan.work, off, profile=name),
    }


def precisions(plan: Plan) -> Times:
    """Our step before the LLM in bf16, int8 and nf4; first in fp32 where that is faster here."""
    own = load_llm(plan.profile.llm)
    rest = [load_llm(plan.profile.llm, bits=bits) for bits in (16, 8, 4) if bits != own.bits]
    steps = {PRECISIONS[llm.bits]: Bench(llm, plan.work).ours() for llm in (own, *rest)}
    # Where bf16 is slow it is by far the longest of these steps.
    return alternate(steps, plan.rounds if own.bits == 16 else _few(plan))


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
        found[count] = alternate(steps, _few(plan))
    return found


def _against_bare(llm: FrozenLLM, work: Work, plan: Plan) -> Times:
    bench = Bench(llm, work)
    return alternate({"bare": bench.bare(), "ours": bench.ours()}, _few(plan))


def _few(plan: Plan) -> int:
    """Rounds of a point on a curve: fewer than for a ratio that stands alone."""
    return max(2, plan.rounds // 2)


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
        times = alternate({"bare": bench.bare(), "ours": bench.ours()}, _few(plan))
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


@dataclass(frozen=True)
class Generation:
    """Tokens per second of captions generated together and one by one."""

    together: Spread
    alone: Spread
    speedup: Spread


def generation(plan: Plan, new_tokens: int = 12) -> Generation:
    """Greedy captions of `plan.prompts` items in one batch against the same prompts one by one."""
    llm = load_llm(plan.profile.llm)
    bench = Bench(llm, replace(plan.work, batch=plan.prompts))
    prompts, tokens = bench.prompts(answered=False), list(bench.tokens().detach())
    speeds: list[tuple[float, float]] = []
    for k in range(plan.rounds + 1):
        pair = []
        for count, size in ((plan.prompts, plan.prompts), (plan.alone, 1)):
            answers: list[str] = []
            started = time.perf_counter()
            for at in range(0, count, size):
                part = slice(at, at + size)
                answers += bench.model.respond(
                    prompts[part], tokens[part], max_new_tokens=new_tokens
                )
            seconds = time.perf_counter() - started
            pair.append(sum(len(llm.tokenize(text)) for text in answers) / seconds)
        speeds += [(pair[0], pair[1])] * (k > 0)
    together, alone = zip(*speeds, strict=True)
    ratios = [a / b for a, b in speeds]
    return Generation(Spread.of(together), Spread.of(alone), Spread.of(ratios))


@dataclass(frozen=True)
class Encoding:
    """One modality's way from raw files to features."""

    decoded: float  # items per second, one thread
    features: float  # items per second from file to features, as `build_bank` works
    cache_read: Spread  # a batch's features from the bank, as a share of our step


def encoding(plan: Plan) -> dict[str, Encoding]:
    """Throughput of every modality, and what its features cost in a step.

    The encoders are not aligned: that changes their weights and not their speed.
    """
    step = Bench(load_llm(plan.profile.llm), plan.work).ours()
    found = {}
    for modality, spec in plan.profile.modalities.items():
        manifest = profile_manifest(spec.manifest)
        encoder = MODALITIES[modality].build_encoder(spec.encoder).eval().requires_grad_(False)
        rows = _spread(manifest.split("train"), plan.items)

        def build(encoder: Encoder = encoder, rows: Sequence[Row] = rows) -> Bank:
            options = {
                "batch": plan.profile.encode_batch,
                "max_bad_share": 0.0,
                "title": "benchmark",
            }
            bank = build_bank(encoder, rows, **options)
            bank.features(encoder, range(len(bank)))
            return bank

        bank = build()  # the first one prepares the products
        decode = timed(lambda: [encoder.prepare(open_row(row)) for row in rows])  # noqa: B023
        both = timed(build)
        index = range(min(plan.work.batch, len(bank)))
        steps = {"step": step, "read": lambda: bank.features(encoder, index)}  # noqa: B023
        share = alternate(steps, plan.rounds).ratio("read", "step")
        found[modality] = Encoding(len(rows) / decode, len(rows) / both, share)
    return found


PLAIN = StepSpec(
    caption_logits=False,
    prefix=False,
    sort_micro_batches=False,
    cache_features=False,
    keep_memory=False,
    compile=False,
)


def accuracy(run: Run, modality: str = "imu") -> dict[str, dict[str, float]]:
    """The mini profile's own alignment on the plain path, with every switch, and compiled."""
    paths = {
        "plain path": PLAIN,
        "every switch": StepSpec(compile=False),
        "every switch, compiled": StepSpec(compile=True),
    }
    found = {}
    for name, spec in paths.items():
        own = replace(run, profile=replace(run.profile, step=spec))
        sensed = stages.sense(own, modality, stages.open_manifest(own, modality))
        model = stages.build_model(own, modality, sensed)
        aligned = stages.align(own, modality, model, sensed, folder=name.replace(" ", "-"))
        report = stages.evaluate(own, modality, model, sensed, controls=("clean",))
        found[name] = {
            "final loss": aligned.final_loss,
            "exact match": report.exact_match.value,
            "training seconds": aligned.seconds,
        }
    return found


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


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    return [rows[k * len(rows) // count] for k in range(count)]
