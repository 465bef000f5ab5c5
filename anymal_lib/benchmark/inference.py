"""What is not a training step: captions in batches, and raw files on their way to features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from anymal_lib.bank import Bank, build_bank
from anymal_lib.benchmark.plan import Plan
from anymal_lib.benchmark.steps import Bench
from anymal_lib.benchmark.timing import Spread, alternate, timed
from anymal_lib.encoders import Encoder
from anymal_lib.llm import load_llm
from anymal_lib.manifest import Row
from anymal_lib.modalities import MODALITIES, open_row
from anymal_lib.sources import profile_manifest
from anymal_lib.stages import spread


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
    cache_read: Spread  # a batch's features from the bank, augmented, as a share of our step


def encoding(plan: Plan) -> dict[str, Encoding]:
    """Throughput of every modality, and what its features cost in a step.

    The encoders are not aligned: that changes their weights and not their speed.
    """
    step = Bench(load_llm(plan.profile.llm), plan.work).ours()
    found = {}
    for modality, spec in plan.profile.modalities.items():
        manifest = profile_manifest(spec.manifest)
        encoder = MODALITIES[modality].build_encoder(spec.encoder).eval().requires_grad_(False)
        rows = spread(manifest.split("train"), plan.items)

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
        draw = torch.Generator().manual_seed(0)
        steps = {"step": step, "read": lambda: bank.features(encoder, index, draw)}  # noqa: B023
        share = alternate(steps, plan.rounds, before=step).ratio("read", "step")
        found[modality] = Encoding(len(rows) / decode, len(rows) / both, share)
    return found
