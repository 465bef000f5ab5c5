"""What this machine can do."""

from __future__ import annotations

import statistics
import time

import torch


def default_device() -> str:
    """The GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def matmul_gflops(size: int = 1024, repeats: int = 7) -> float:
    """Speed of a bf16 matrix product (size, size) @ (size, size), median, in GFLOP/s."""
    device = default_device()
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9
