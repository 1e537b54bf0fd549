"""The queue of builds: one at a time, shared by all who want the same recipe, ended when the last of them leaves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmcomp import files
from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.serving.build_process import BuildProcess
from vlmcomp.serving.waiting import POLL_SECONDS, Waiting

_SECONDS_FILE = "build_seconds.json"  # beside the cached variants: how long each build took here


@dataclass(eq=False)
class Build:
    """A build that is in the queue or runs.

    Attributes:
        recipe: what is built.
        wanted_by: number of visitors who wait for it.
        stage: what is being done.
        fraction: of the work that is done.
        started: when it left the queue, a time of ``time.monotonic``.
        pace: time and fraction of the first and of the last report of this stage.
        process: that builds it.
        error: why it failed.
        ended: set at its end, whatever the end.
    """

    recipe: Recipe
    wanted_by: int = 0
    stage: str = "starting"
    fraction: float = 0.0
    started: float = 0.0
    pace: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    process: BuildProcess | None = None
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def report_progress(self, stage: str, fraction: float) -> None:
        now = (time.monotonic(), fraction)
        self.pace = (self.pace[0] if stage == self.stage else now, now)
        self.stage, self.fraction = stage, fraction

    def seconds_left(self, expected: float = 0.0) -> float:
        """By the time that it is expected to take in all, or by the pace of this stage; 0 if that is not known."""
        now = time.monotonic()
        if expected:
            return max(0.0, expected - (now - self.started if self.started else 0.0))
        (first, fraction_then), (last, _) = self.pace
        done = self.fraction - fraction_then
        return max(0.0, last + (last - first) * (1 - self.fraction) / done - now) if done > 0 else 0.0


class BuildQueue:
    """Builds, first come, first served.

    Args:
        start: starts the process that builds a recipe.
        running: the context of each build, such as room for it and a record that it ran.
        folder: where the time that each build takes is recorded; None records it in memory alone.
    """

    def __init__(
        self,
        start: Callable[[Recipe], BuildProcess],
        running: Callable[[Recipe], contextlib.AbstractContextManager[object]],
        folder: Path | None,
    ) -> None:
        self._start = start
        self._running = running
        self._file = folder and folder / _SECONDS_FILE
        self._seconds: dict[str, float] = _read_seconds(self._file)
        self._lock = threading.Lock()
        self._builds: list[Build] = []  # the first one runs
        self._is_working = False

    def wait(self, recipe: Recipe) -> Iterator[Waiting]:
        """Yields what the build of ``recipe`` waits for or does, until it has ended. Closing the iterator leaves it.

        Raises:
            Exception: why it failed.
        """
        build = self._join(recipe)
        try:
            while not build.ended.wait(POLL_SECONDS):
                yield Waiting(self.describe(build))
        finally:
            self._leave(build)
        if build.error is not None:
            raise build.error

    def describe(self, build: Build) -> str:
        """What ``build`` waits for or does, how far it is and how long it will take, in words."""
        with self._lock:
            before = self._builds[: self._builds.index(build)] if build in self._builds else []
        if before:
            others = "another build" if len(before) == 1 else format_count(len(before), "other build")
            return f"waiting for {others}{self._time_left(before)}"
        if build.process is None:
            return "waiting for memory to build it"
        done = f", {100 * build.fraction:.0f} %" if build.fraction else ""
        return f"building: {build.stage}{done}{self._time_left([build])}"

    def _time_left(self, builds: Sequence[Build]) -> str:
        """Until all of ``builds`` have ended, in words; empty if that is not known of one of them."""
        seconds = [build.seconds_left(self._seconds.get(str(build.recipe), 0.0)) for build in builds]
        return f", about {_duration(sum(seconds))} left" if all(seconds) else ""

    def _join(self, recipe: Recipe) -> Build:
        with self._lock:
            found = next((b for b in self._builds if b.recipe == recipe and b.wanted_by), None)
            build = found or Build(recipe)
            build.wanted_by += 1
            if found is None:
                self._builds.append(build)
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, daemon=True).start()
        return build

    def _leave(self, build: Build) -> None:
        """One visitor less wants ``build``; without any it is ended. Returns at once."""
        with self._lock:
            build.wanted_by -= 1
            if build.wanted_by or build.ended.is_set():
                return
            if build.process is not None:
                build.process.end()
            elif build is not self._builds[0]:
                self._builds.remove(build)

    def _work(self) -> None:
        """Runs the builds of the queue until there is none."""
        while build := self._next():
            try:
                with self._running(build.recipe):
                    self._run(build)
            except Exception as error:
                build.error = error
            with self._lock:
                self._builds.remove(build)
                build.ended.set()

    def _next(self) -> Build | None:
        with self._lock:
            self._is_working = bool(self._builds)
            return self._builds[0] if self._builds else None

    def _run(self, build: Build) -> None:
        with self._lock:
            if not build.wanted_by:
                return
            build.started = time.monotonic()
            build.process = self._start(build.recipe)
        build.process.follow(build.report_progress)
        self._record_seconds(build)

    def _record_seconds(self, build: Build) -> None:
        self._seconds[str(build.recipe)] = round(time.monotonic() - build.started, 1)
        if self._file is not None:
            with contextlib.suppress(OSError):
                files.write_json(self._file, self._seconds)


def _read_seconds(file: Path | None) -> dict[str, float]:
    """The recorded times; none if they cannot be read."""
    try:
        found = json.loads(file.read_text()) if file else {}
        return {recipe: float(seconds) for recipe, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _duration(seconds: float) -> str:
    """A coarse duration, so that it changes rarely: ``15 s``, ``3 min``."""
    return f"{5 * -(-seconds // 5):.0f} s" if seconds < 90 else f"{-(-seconds // 60):.0f} min"
