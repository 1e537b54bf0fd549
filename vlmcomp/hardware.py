"""This machine: its name, CPU features, memory, and whether it is a ZeroGPU Space."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from vlmcomp.results.schema import Hardware

ZERO_GPU_ENV = "SPACES_ZERO_GPU"  # environment variable, set on Hugging Face's shared GPUs
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
_NOISE = re.compile(r"\((r|tm|c)\)|\b(cpu|processor|\d+-core|gen)\b|[^a-z0-9.]+")


@cache
def get_hardware(device: str | None = None) -> Hardware:
    """The machine as used through ``device`` ("cpu", "cuda", "cuda:1"; None: a GPU if available).

    ``memory_bytes`` is the GPU's memory, or the host's; ``cores`` are the CPU cores this process may use.

    Raises:
        ValueError: no device, or no such GPU.
    """
    import psutil
    import torch

    device = usable_device(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(torch.device(device).index or 0)
        return Hardware(f"cuda-{hardware_slug(gpu.name)}", "cuda", gpu.name, cores, gpu.total_memory)
    name = _cpu_name()
    suffix = "" if has_native_bfloat16() else "-fp32"  # CPUs of one name exist with and without 16-bit arithmetic
    return Hardware(f"cpu-{hardware_slug(name)}-{cores}c{suffix}", "cpu", name, cores, psutil.virtual_memory().total)


def is_zero_gpu(environ: Mapping[str, str]) -> bool:
    """Whether ``environ`` is that of a ZeroGPU Space, where a GPU is attached for each call only."""
    return environ.get(ZERO_GPU_ENV, "").lower() in ("1", "t", "true")


def ram_limit() -> int:
    """Bytes of RAM this process may use: the machine's, or its container's limit."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits)


def hardware_slug(name: str) -> str:
    """A hardware name as a folder name: ``Intel(R) Xeon(R) CPU @ 2.20GHz`` -> ``intel-xeon``."""
    return re.sub(r"-+", "-", _NOISE.sub("-", name.lower().partition("@")[0])).strip("-.") or "unknown"


def _cpu_name() -> str:
    """The marketing name of the CPU, or its architecture."""
    match = None
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def default_device() -> str:
    """``cuda`` if a GPU is available, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device_name(device: str) -> None:
    """Raises ``ValueError`` for anything but "cpu", "cuda" and "cuda:N"."""
    if not _DEVICE.fullmatch(device):
        raise ValueError(f"'{device}' is not a device: use cpu, cuda or cuda:N")


def usable_device(device: object = None) -> str:
    """The name of ``device``, a name or a ``torch.device``; of the default device if it is None.

    Raises:
        ValueError: no device that models run on, or no such GPU.
    """
    import torch

    if device is None:
        return default_device()
    name = str(device)
    check_device_name(name)
    index = torch.device(name).index or 0
    if name != "cpu" and index >= torch.cuda.device_count():
        raise ValueError(f"there is no CUDA GPU {index} here: use the device cpu")
    return name


def has_native_bfloat16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions (AVX512-BF16 or AMX)."""
    return cpu_has("avx512_bf16", "amx_tile")


def cpu_has(*features: str) -> bool:
    """Whether this CPU has any of ``features``, named as in ``torch.cpu``."""
    from vlmcomp.private_ops import cpu_supports  # imports torch, which the rest of the machine's facts do not need

    return any(map(cpu_supports, features))


def memory_budget(device: str | None = None) -> int:
    """Bytes available for models on ``device``, a GPU if there is one by default.

    0.85 of the free GPU memory; on a CPU half of the RAM limit, at most 0.8 of the free RAM.
    """
    import psutil
    import torch

    if (device or default_device()).startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0] * 0.85)
    return int(min(ram_limit() * 0.5, psutil.virtual_memory().available * 0.8))
