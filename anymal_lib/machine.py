"""What this machine can do."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import time
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _KEEP = -1, -3, 1 << 30  # of glibc's mallopt (malloc.h)
_BF16 = ("avx512_bf16", "amx_bf16")  # on x86-64


def default_device() -> str:
    """The GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_bf16() -> bool:
    """Whether this machine has instructions of its own for products of bf16 matrices.

    Without them bf16 is emulated, several times slower than fp32. It goes by what the processor or
    the GPU says it can do and not by the clock: measured at a bad moment, a run would compute in
    another type than the next one and end with other bytes.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    said = torch.cpu.get_capabilities()
    return any(said.get(name, False) for name in _BF16)


def fast_dtype() -> torch.dtype:
    """What an LLM is computed in here: bf16 where this machine is fast at it, else fp32."""
    return torch.bfloat16 if fast_bf16() else torch.float32


def own_gflops() -> float:
    """Speed of a matrix product in `fast_dtype`, in GFLOP/s."""
    return matmul_gflops(dtype=fast_dtype())


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch compiles for a CPU with."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step (glibc, this process).

    By default glibc gives large blocks back at once, and every step pays the page faults again:
    a twentieth to a tenth of a step of the mini profile. A step whose tensors have other sizes than
    the last one's pays otherwise: for the search through what is free.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEEP)
        mallopt(_MMAP_THRESHOLD, _KEEP)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def total_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes of main memory that a program could take now without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matmul_gflops(size: int = 1024, repeats: int = 7, dtype: torch.dtype = torch.bfloat16) -> float:
    """Speed of a matrix product (size, size) @ (size, size), median, in GFLOP/s.

    Draws from a generator of its own: what a run draws does not depend on whether it has measured.
    """
    device = default_device()
    own = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, dtype=dtype, device=device, generator=own) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9
