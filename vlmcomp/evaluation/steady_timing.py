"""Timing that notices when other programs disturb it: several sessions, whose ratios must agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

SESSIONS = 3
TRIES = 3  # of all sessions, until they agree
LARGEST_SPREAD = 1.2  # the largest ratio of sessions that agree, to the smallest

Times = Mapping[str, Sequence[float]]  # milliseconds of each round, by name


def time_sessions(measure: Callable[[], Times], baseline: str) -> tuple[list[Times], float]:
    """Call ``measure``, a session, until ``SESSIONS`` of them agree about every ratio to ``baseline``.

    After ``TRIES`` tries, they are returned as they are.

    Args:
        measure: times everything in turns.
        baseline: key of what the others are compared with.

    Returns:
        The times of the last sessions, and the share of all processors that other programs took meanwhile.
    """
    for _ in range(TRIES):
        own, others, start = _own_seconds(), _all_seconds(), time.monotonic()
        sessions = [measure() for _ in range(SESSIONS)]
        available = max(1e-9, time.monotonic() - start) * (psutil.cpu_count() or 1)
        busy = (_all_seconds() - others - (_own_seconds() - own)) / available
        if all(is_steady(speedups(sessions, name, baseline)) for name in sessions[0]):
            break
    return sessions, min(1.0, max(0.0, busy))


def speedups(sessions: Sequence[Times], name: str, baseline: str) -> list[float]:
    """The median time of ``baseline`` over that of ``name``, by session."""
    return [statistics.median(times[baseline]) / statistics.median(times[name]) for times in sessions]


def is_steady(ratios: Sequence[float]) -> bool:
    """Whether sessions agree."""
    return not ratios or max(ratios) <= LARGEST_SPREAD * min(ratios)


def _own_seconds() -> float:
    used = psutil.Process().cpu_times()
    return used.user + used.system


def _all_seconds() -> float:
    """Seconds that all processors were busy since the machine's start."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
