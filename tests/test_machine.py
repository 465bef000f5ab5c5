"""What the machine can do: measured, and harmless where the C library lacks something."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anymal_lib import machine
from anymal_lib.machine import fast_bf16, keep_freed_memory, matmul_gflops, own_gflops


@pytest.fixture
def measured_anew():
    """`fast_bf16` measures once a process; before and after the test it knows nothing."""
    fast_bf16.cache_clear()
    yield
    fast_bf16.cache_clear()


def test_bf16_is_measured_once(measured_anew):
    first = fast_bf16()
    assert isinstance(first, bool)
    assert fast_bf16() is first and fast_bf16.cache_info().misses == 1


@pytest.mark.parametrize(
    ("bf16", "fp32", "fast"), [(100.0, 400.0, False), (400.0, 400.0, True), (900.0, 400.0, True)]
)
def test_bf16_is_fast_where_it_multiplies_no_slower(measured_anew, monkeypatch, bf16, fp32, fast):
    speeds = {torch.bfloat16: bf16, torch.float32: fp32}
    monkeypatch.setattr(machine, "matmul_gflops", lambda *size, dtype=torch.bfloat16: speeds[dtype])
    assert fast_bf16() == fast
    assert own_gflops() == max(bf16, fp32), "what runs are compared by is the type they run in"


def test_measuring_takes_no_random_number_from_a_run(measured_anew):
    before = torch.get_rng_state()
    fast_bf16()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_speed_is_a_positive_number(dtype):
    assert 0 < matmul_gflops(64, repeats=3, dtype=dtype) < 1e9


def test_keeping_freed_memory_can_be_asked_for_twice():
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(1 << 22).sum().item() == 1 << 22


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    class Library:
        """What a C library without mallopt looks like from here: no such attribute."""

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Library())
    keep_freed_memory()


def printed(code, argument):
    """The number that a process of its own prints."""
    command = [sys.executable, "-c", code, argument]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return int(done.stdout)


FAULTS_OF_A_STEP = """
import resource, sys
import torch
from anymal_lib.machine import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):  # the first ones fill the holes of the heap
    torch.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(1 << 23)  # 32 MiB: glibc maps it and gives it back at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_kept_memory_is_not_faulted_in_again():
    faults = [printed(FAULTS_OF_A_STEP, how) for how in ("keep", "default")]
    assert faults[0] < 0.1 * faults[1], faults
