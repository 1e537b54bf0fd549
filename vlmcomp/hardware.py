"""The circumstances of a measurement: hardware, versions, commit, date, and how much memory is held."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlmcomp.results.schema import Hardware

ZERO_GPU = "SPACES_ZERO_GPU"  # environment: set on Hugging Face's shared GPUs
PLACE = "VLMCOMP_CACHE"  # environment: the folder of what is kept for the next time
_PACKAGES = (
    "torch",
    "transformers",
    "bitsandbytes",
    "torchao",
    "accelerate",
    "nltk",
    "bert-score",
    "rouge-score",
    "numpy",
    "pillow",
)
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

    from vlmcomp.models.vlm import native_bfloat16

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


def home() -> Path:
    """What is kept for this user: ``$VLMCOMP_CACHE``, else vlmcomp in ``$XDG_CACHE_HOME`` or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(PLACE) or Path(base) / "vlmcomp").expanduser()


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in RAM, or in a library that only says so."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )


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


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions(*more: str) -> dict[str, str]:
    """Python and the packages that results depend on (and ``more``), as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(repo: Path) -> str:
    """HEAD of ``repo``, ``+dirty`` if code or weights differ from it; empty outside a git checkout."""
    if not (repo / ".git").exists():
        return ""
    try:
        head = _git(repo, "rev-parse", "HEAD")
        return head + ("+dirty" if _git(repo, "status", "--porcelain", "--", "vlmcomp", "assets") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(repo: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", repo, *words], capture_output=True, text=True, check=True).stdout.strip()


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

    from vlmcomp.models.vlm import compute_dtype

    side = 4096 if device.startswith("cuda") else 1024
    matrix = torch.ones(side, side, dtype=compute_dtype(device), device=device)
    return 2 * side**3 / _best_seconds(lambda: matrix @ matrix, device)


def _best_seconds(work: Callable[[], object], device: str, runs: int = 7) -> float:
    from vlmcomp.models.vlm import synchronize

    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


class Gauge:
    """Bytes held above what was held when the gauge was made: GPU allocations, or this process's resident set."""

    def __init__(self, device: str | None = None) -> None:
        self._cuda = hardware(device).device == "cuda"
        self._device = device if device and device.startswith("cuda") else "cuda"
        self.measure = "cuda allocated" if self._cuda else "rss"
        self._before = 0
        self._before = self.held()
        self.restart()

    def held(self) -> int:
        """Bytes held now; memory that was freed and only not yet given back is given back first."""
        gc.collect()
        if self._cuda:
            import torch

            return torch.cuda.memory_allocated(self._device) - self._before
        import psutil

        _trim()
        return max(0, psutil.Process().memory_info().rss - self._before)

    def peak(self) -> int:
        """The most bytes held at any time since the last ``restart``."""
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated(self._device) - self._before
        return max(0, _peak_rss() - self._before)

    def restart(self) -> None:
        """Let ``peak`` begin anew; where the system cannot, peaks are those of the process's whole life."""
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            return
        _trim()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def _trim() -> None:
    """Ask glibc to give freed pages back: they are no longer the model's."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # no glibc, or, on Windows, no library without a name
        return


def _peak_rss() -> int:
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
