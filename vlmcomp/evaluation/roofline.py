"""What a device allows at best: its memory bandwidth and the speed of its matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache


@cache
def bandwidth(device: str) -> float:
    """Bytes a second that this device's memory moves, read and written: the best of several copies of 256 MB."""
    import torch

    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_seconds(lambda: target.copy_(source), device)


@cache
def flops(device: str) -> float:
    """Operations a second of a square matrix product in the dtype that models compute in on this device."""
    import torch

    from vlmcomp.models.dtypes import compute_dtype

    side = 4096 if device.startswith("cuda") else 1024
    matrix = torch.ones(side, side, dtype=compute_dtype(device), device=device)
    return 2 * side**3 / _best_seconds(lambda: matrix @ matrix, device)


def _best_seconds(work: Callable[[], object], device: str, runs: int = 7) -> float:
    from vlmcomp.runtime.device import synchronize

    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
