"""What each switch of a step is worth, in time, memory and accuracy."""

from __future__ import annotations

from dataclasses import replace

from anymal_lib import stages
from anymal_lib.benchmark.memory import Growth, growth
from anymal_lib.benchmark.plan import Plan
from anymal_lib.benchmark.steps import Bench
from anymal_lib.benchmark.timing import Spread, Times, alternate
from anymal_lib.llm import PRECISIONS, load_llm
from anymal_lib.runs import Run
from anymal_lib.specs import StepSpec


def without_each(plan: Plan) -> dict[str, Spread]:
    """Time of our step without one switch over the step with all of them.

    Captions of mixed length and two micro-batches, so that sorting has something to do; for padding
    one batch of short and long ones, as people's answers are. What the allocator keeps is a matter
    of the whole process: see `memory_kept`.
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
    found = {name: times.ratio(name, "on") for name in off}
    ragged = replace(plan.work, caption=32, spread=28)
    ways = {"taken out": on, "read": replace(on, unpad=False)}
    steps = {name: Bench(llm, ragged, spec).ours() for name, spec in ways.items()}
    padded = alternate(steps, plan.rounds)
    return found | {"padding taken out, captions of 4 to 60": padded.ratio("read", "taken out")}


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
    return alternate(steps, plan.rounds if own.bits == 16 else plan.few)


PLAIN = StepSpec(
    caption_logits=False,
    prefix=False,
    sort_micro_batches=False,
    unpad=False,
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
