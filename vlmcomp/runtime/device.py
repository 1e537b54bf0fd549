"""One GPU at a time: the process-wide lock, synchronization, and CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


# Held by whoever answers on a GPU, captures a graph there, waits for it or gives its memory back: a capture fails when
# another thread waits for the device meanwhile, and PyTorch makes one at a time.
GPU = threading.RLock()


def synchronize(device: str | torch.device) -> None:
    """Wait until ``device`` has done what it was told; a CPU always has."""
    if torch.device(device).type == "cuda":
        with GPU:
            torch.cuda.synchronize(device)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Work meanwhile on ``device`` alone in this thread: kernels that are not PyTorch's, streams and graphs go to a
    thread's current GPU, which is the first one until told otherwise. On a CPU nothing is to be done."""
    if device.type != "cuda":
        yield
        return
    with GPU, torch.cuda.device(device):
        yield


def graphed(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """What repeats ``work`` on a GPU without the host, and where its result then lies: a CUDA graph.

    Raises:
        RuntimeError: the work waits for the host, or asks what the GPU has computed.
    """
    side, before = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(before)
    with GPU:
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their kernels and take their workspaces
                work()
        before.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other models may be built meanwhile
                result = work()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails leaves its own behind
    return graph.replay, result


def waits_for_host(module: nn.Module) -> bool:
    """Whether a graph cannot hold ``module``: on a GPU bitsandbytes' own LLM.int8() asks for outliers."""
    return any(type(part).__name__ == "Linear8bitLt" for part in module.modules())
