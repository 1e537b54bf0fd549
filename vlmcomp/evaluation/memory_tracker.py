"""Memory of a measured model: GPU allocations, or the resident set of this process."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

import psutil
import torch

from vlmcomp.hardware import get_hardware


class MemoryTracker:
    """Bytes above those at its creation: GPU allocations, or this process's resident set.

    Attributes:
        measure: "cuda allocated" or "rss".
    """

    def __init__(self, device: str | None = None) -> None:
        self._cuda = get_hardware(device).device == "cuda"
        self._device = device if device and device.startswith("cuda") else "cuda"
        self.measure = "cuda allocated" if self._cuda else "rss"
        self._baseline = 0
        self._baseline = self.current()
        self.reset()

    def current(self) -> int:
        """Bytes in use now, after memory that was freed has been returned to the system."""
        gc.collect()
        if self._cuda:
            return torch.cuda.memory_allocated(self._device) - self._baseline
        _trim_heap()
        return max(0, psutil.Process().memory_info().rss - self._baseline)

    def peak(self) -> int:
        """The most bytes in use at any time since the last ``reset``."""
        if self._cuda:
            return torch.cuda.max_memory_allocated(self._device) - self._baseline
        return max(0, _peak_rss() - self._baseline)

    def reset(self) -> None:
        """Restart ``peak``; where the system cannot, peaks are those of the whole process."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        _trim_heap()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def _trim_heap() -> None:
    """Ask glibc to return freed pages to the system: they are no longer part of the model."""
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
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
