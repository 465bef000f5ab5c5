"""Peak memory of one step, each in a process of its own: `python -m anymal_lib.benchmark.memory`.

On the CPU it is the growth of the process's resident memory over what it holds between steps; on
a GPU the growth of what torch has allocated.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from anymal_lib.benchmark.steps import PADDED, Bench, Work
from anymal_lib.benchmark.timing import Step
from anymal_lib.config import load_profile
from anymal_lib.errors import AnyMALError
from anymal_lib.llm import load_llm
from anymal_lib.specs import Profile, StepSpec

_STEPS = 6
KINDS = ("bare", "ours", "transformers", "usual")


@dataclass(frozen=True)
class Growth:
    """What a step needs beyond what lies there anyway: megabytes; and its seconds, alone."""

    megabytes: float
    seconds: float


def growth(
    kind: str,
    work: Work | None = None,
    switches: StepSpec | None = None,
    *,
    profile: str = "mini",
) -> Growth:
    """Measure one kind of step (see `steps`) on a profile's LLM in a fresh process.

    Raises `AnyMALError` when the process fails.
    """
    given = {"kind": kind, "work": asdict(work or Work()), "profile": profile}
    given["switches"] = asdict(switches or StepSpec(compile=False))
    done = subprocess.run(
        [sys.executable, "-m", "anymal_lib.benchmark.memory", json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AnyMALError(
            f"memory of the step '{kind}'",
            expected="a process that measures it and ends well",
            got=(done.stderr.strip().splitlines() or ["killed"])[-1],
            do="Free some memory and run again.",
        )
    return Growth(**json.loads(done.stdout.splitlines()[-1]))


def _measure(kind: str, work: Work, switches: StepSpec, profile: Profile) -> Growth:
    bench = Bench(load_llm(profile.llm, bits=32 if kind == "usual" else None), work, switches)
    step = {
        "bare": bench.bare,
        "ours": bench.ours,
        "transformers": bench.transformers,
        "usual": lambda: bench.transformers(length=PADDED),
    }[kind]()
    for _ in range(2):  # optimizer states, compiled products and what is remembered stay
        step()
    if torch.cuda.is_available():
        return _measure_on_gpu(step)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    seconds = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return Growth((_status("VmHWM") - before) / 1e6, min(seconds))


def _measure_on_gpu(step: Step) -> Growth:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    for _ in range(_STEPS):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / _STEPS
    return Growth((torch.cuda.max_memory_allocated() - before) / 1e6, seconds)


def _status(name: str) -> int:
    """A line of this process's status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    work = replace(Work(), **asked["work"])
    switches = replace(StepSpec(), **asked["switches"])
    result = _measure(asked["kind"], work, switches, load_profile(asked["profile"]))
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
