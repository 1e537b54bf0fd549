"""A build in a process of its own, as the app sees it: started, followed, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from vlmcomp.feedback import Progress, package_environment
from vlmcomp.recipe import Recipe
from vlmcomp.serving.build_worker import SECONDS_TO_CLEAN_UP
from vlmcomp.serving.manager import ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache


class BuildProcess:
    """A process of low priority that builds ``recipe`` and stores it in the first of ``caches`` that can."""

    def __init__(self, recipe: Recipe, device: str, caches: Sequence[VariantCache]) -> None:
        self._caches = [cache for cache in caches if cache.limit_bytes > 0]
        folders = [(str(cache.root.absolute()), cache.limit_bytes) for cache in self._caches]
        job = json.dumps({"recipe": str(recipe), "device": device, "caches": folders})
        self.recipe = recipe
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vlmcomp.serving.build_worker", job],
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends, however it ends
            stdout=subprocess.PIPE,
            text=True,
            env=package_environment(),
        )

    def follow(self, progress: Progress) -> None:
        """Waits for the end of the process.

        Raises:
            ModelUnavailable: it failed, or was ended.
        """
        error = ""
        with self._process as process:
            for line in process.stdout or ():
                message = json.loads(line)
                error = message.get("error") or error
                if "stage" in message:
                    progress(message["stage"], message["fraction"])
            process.wait()  # before its stdin is closed, which would end it
        if process.returncode:
            for cache in self._caches:
                cache.remove_leftovers()
            reason = error or f"its process ended unexpectedly ({_name_of(process.returncode)}): ask again"
            raise ModelUnavailable(f"{self.recipe} cannot be built here now: {reason}")

    def end(self) -> None:
        """Ends the process soon, and returns at once."""
        if os.name != "posix":  # no groups of processes, and no signals that can be handled
            self._process.terminate()
            return
        self._signal(signal.SIGTERM)
        timer = threading.Timer(SECONDS_TO_CLEAN_UP, self._signal, [signal.SIGKILL])
        timer.daemon = True
        timer.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                is_leader = os.getpgid(self._process.pid) == self._process.pid  # from its first lines on
                send: Callable[[int, int], None] = os.killpg if is_leader else os.kill
                send(self._process.pid, number)


def _name_of(code: int) -> str:
    """The exit code of a process in words."""
    with contextlib.suppress(ValueError):
        if code < 0:
            return signal.Signals(-code).name
    return f"exit code {code}"
