"""What the machine can do: as it says, as measured, and where the C library lacks something."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anymal_lib import machine
from anymal_lib.machine import fast_bf16, keep_freed_memory, matmul_gflops, own_gflops


def cpu_with(monkeypatch, *names):
    """A machine without a GPU whose processor says that it can do these things alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


@pytest.mark.parametrize(
    ("names", "fast"),
    [
        (("avx512_f", "avx512_bf16"), True),  # Zen 4, Cooper Lake
        (("avx512_f", "amx_tile", "amx_bf16"), True),  # Sapphire Rapids
        (("avx512_f", "avx512_vnni"), False),  # Ice Lake: there bf16 is emulated
        (("avx2",), False),
        ((), False),
    ],
)
def test_bf16_is_fast_where_the_processor_has_instructions_for_it(monkeypatch, names, fast):
    cpu_with(monkeypatch, *names)
    assert fast_bf16() == fast
    assert machine.fast_dtype() == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_is_not_fast_at_it(monkeypatch, native):
    cpu_with(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = {True: True, False: native}
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: asked[including_emulation]
    )
    assert fast_bf16() == native


def test_the_type_of_a_run_is_no_matter_of_the_clock(monkeypatch):
    """A disturbed measurement once made one notebook of a chain compute in fp32."""
    monkeypatch.setattr(machine, "matmul_gflops", lambda *size, dtype: pytest.fail("measured"))
    assert machine.fast_dtype() in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("fast", [True, False])
def test_speed_is_that_of_the_type_that_runs_have(monkeypatch, fast):
    cpu_with(monkeypatch, *(["avx512_bf16"] if fast else []))
    speeds = {torch.bfloat16: 900.0, torch.float32: 400.0}
    monkeypatch.setattr(machine, "matmul_gflops", lambda *size, dtype: speeds[dtype])
    assert own_gflops() == (900.0 if fast else 400.0)


def test_measuring_takes_no_random_number_from_a_run():
    before = torch.get_rng_state()
    matmul_gflops(64)
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
