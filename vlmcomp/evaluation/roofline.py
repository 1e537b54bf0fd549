"""Limits of a device: its memory bandwidth and the speed of its matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.runtime.device import synchronize


@cache
def measure_bandwidth(device: str) -> float:
    """Bytes per second read and written together: the best of several copies of 256 MB."""
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_seconds(lambda: target.copy_(source), device)


@cache
def measure_flops(device: str) -> float:
    """Floating-point operations per second of a square matrix product in the device's compute dtype."""
    side = 4096 if device.startswith("cuda") else 1024
    matrix = torch.ones(side, side, dtype=compute_dtype(device), device=device)
    return 2 * side**3 / _best_seconds(lambda: matrix @ matrix, device)


def _best_seconds(work: Callable[[], object], device: str, runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
