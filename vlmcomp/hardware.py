"""This machine: its name, processor features, memory, and whether it is a ZeroGPU Space."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from vlmcomp.results.schema import Hardware

ZERO_GPU = "SPACES_ZERO_GPU"  # environment: set on Hugging Face's shared GPUs
_NOISE = re.compile(r"\((r|tm|c)\)|\b(cpu|processor|\d+-core|gen)\b|[^a-z0-9.]+")


@cache
def hardware(device: str | None = None) -> Hardware:
    """The machine as seen by ``device`` ("cpu", "cuda", "cuda:1"; None: a GPU if there is one).

    ``memory_bytes`` is the GPU's own memory, or the host's; ``cores`` are the CPU cores this process may use.

    Raises:
        ValueError: a GPU that is not there.
    """
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda"):
        index = torch.device(device or "cuda").index or 0
        if index >= torch.cuda.device_count():
            raise ValueError(f"there is no CUDA GPU {index} here: use the device cpu")
        gpu = torch.cuda.get_device_properties(index)
        return Hardware(f"cuda-{slug(gpu.name)}", "cuda", gpu.name, cores, gpu.total_memory)
    name = _cpu_name()
    kind = "" if native_bfloat16() else "-fp32"  # the same name is sold with and without 16-bit arithmetic
    return Hardware(f"cpu-{slug(name)}-{cores}c{kind}", "cpu", name, cores, psutil.virtual_memory().total)


def on_zero_gpu(environ: Mapping[str, str]) -> bool:
    """Whether ``environ`` is that of a Space whose GPU comes and goes with every question."""
    return environ.get(ZERO_GPU, "").lower() in ("1", "t", "true")


def memory_limit() -> int:
    """Bytes of RAM that this process may use: the machine's, or its container's."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits)


def slug(name: str) -> str:
    """A hardware name as a folder name: ``Intel(R) Xeon(R) CPU @ 2.20GHz`` -> ``intel-xeon``."""
    return re.sub(r"-+", "-", _NOISE.sub("-", name.lower().partition("@")[0])).strip("-.") or "unknown"


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself (AVX512-BF16 or AMX)."""
    return cpu_has("avx512_bf16", "amx_tile")


def cpu_has(*features: str) -> bool:
    """Whether this CPU has one of ``features``, as ``torch.cpu`` calls them."""
    import torch

    tests = (getattr(torch.cpu, f"_is_{feature}_supported", None) for feature in features)
    return any(test is not None and test() for test in tests)


def device_budget() -> int:
    """Bytes that models may take: 0.85 of the GPU memory that is free now, else half of the RAM this process may use,
    and never more than 0.8 of what is free of it now."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0] * 0.85)
    return int(min(memory_limit() * 0.5, psutil.virtual_memory().available * 0.8))
