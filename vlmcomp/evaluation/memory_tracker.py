"""Memory that a measured model takes: GPU allocations, or the resident set of this process."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

from vlmcomp.hardware import hardware


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
