"""Access to one GPU at a time: the process-wide lock, synchronization, and CUDA graphs."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")

# Taken to answer on a GPU, to capture a graph, to synchronize and to free memory: a capture fails if another thread
# synchronizes meanwhile, and PyTorch makes one capture at a time.
cuda_lock = threading.RLock()


def synchronize(device: str | torch.device) -> None:
    """Wait until ``device`` has finished its work; no-op on a CPU."""
    if torch.device(device).type == "cuda":
        with cuda_lock:
            torch.cuda.synchronize(device)


def release_cached_memory() -> None:
    """Return the memory of models that nothing refers to; modules refer to themselves, hence the garbage collection."""
    gc.collect()
    if torch.cuda.is_available():
        with cuda_lock:
            torch.cuda.empty_cache()


@contextmanager
def device_context(device: torch.device) -> Iterator[None]:
    """Exclusive use of GPUs by this thread, with ``device`` as its current one; no-op on a CPU.

    Kernels outside PyTorch, streams and graphs use the current GPU of a thread, which is the first one by default.
    """
    if device.type != "cuda":
        yield
        return
    with cuda_lock, torch.cuda.device(device):
        yield


def capture_cuda_graph(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """``work`` as a CUDA graph: a function that replays it, and its result, which each replay overwrites.

    Raises:
        RuntimeError: ``work`` synchronizes with the host or reads a value from the GPU.
    """
    warmup_stream = torch.cuda.Stream()
    outer_stream = torch.cuda.current_stream()
    warmup_stream.wait_stream(outer_stream)
    with cuda_lock:
        with torch.cuda.stream(warmup_stream):
            for _ in range(2):  # libraries choose their kernels and allocate their workspaces
                work()
        outer_stream.wait_stream(warmup_stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads may build models meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(outer_stream)  # a failed capture leaves its own stream current
    return graph.replay, result


def has_host_sync(module: nn.Module) -> bool:
    """Whether a graph cannot contain ``module``: on a GPU bitsandbytes' own LLM.int8() reads outlier indices back."""
    return any(type(part).__name__ == "Linear8bitLt" for part in module.modules())
