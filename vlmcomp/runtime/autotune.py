"""Timings of interchangeable kernels on this machine, taken once and stored in the cache folder."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from vlmcomp import feedback, files, hardware
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.results import provenance
from vlmcomp.runtime.device import capture_cuda_graph, synchronize

T = TypeVar("T")
Times = dict[str, list[float]]  # milliseconds of each round, as "prompt_ms" and "token_ms"
LinearFactory = Callable[[str, nn.Linear], nn.Module]  # (kernel, dense Linear) -> a Linear with its own weights
FILE = "kernels.json"
# Raise it when a kernel's speed or the timing method changes: stored timings of other versions are ignored.
TIMING_VERSION = 1
_WIDTHS = {"cpu": 2048, "cuda": 4096}  # inputs and outputs of a timed Linear
_NUM_LINEARS = 16  # together they exceed most caches
_ROUNDS = 5
_PROMPT_TOKENS = 512
_NEW_TOKENS = 32  # of the answer whose time decides


def fastest(times: dict[str, Times]) -> str:
    """Name of the kernel with the lowest median time for a prompt and its answer; "" if no kernel ran."""
    return min(times, key=lambda name: total_ms(times[name]), default="")


def total_ms(times: Times) -> float:
    """Milliseconds of a prompt and its answer in one Linear, from medians: the best round is not representative."""
    return statistics.median(times["prompt_ms"]) + _NEW_TOKENS * statistics.median(times["token_ms"])


@cache
def cached_timings(
    key: str, kernels: tuple[str, ...], make_linear: LinearFactory, device: str = "cpu"
) -> dict[str, Times]:
    """Result of ``time_kernels``, stored as ``key``; empty while memory is short, which is not stored."""

    def is_valid(times: dict[str, Times]) -> bool:
        return bool(times) and times.keys() <= set(kernels) and all(map(total_ms, times.values()))

    try:
        return measure_once(key, lambda: time_kernels(kernels, make_linear, device), is_valid)
    except Exception as error:
        if not feedback.is_out_of_memory(error):
            raise
        return {}


def measure_once(key: str, measure: Callable[[], T], is_valid: Callable[[T], bool]) -> T:
    """Result of ``measure`` on this machine, stored as ``key`` and measured again if the stored one is invalid."""
    stored = _stored_timings()
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if is_valid(stored[key]):
            return stored[key]
    measured = measure()
    with contextlib.suppress(OSError):  # on a read-only disk the next process measures again
        content = _stored_timings() | {"here": _machine(), key: measured}
        files.write_json(files.cache_dir() / FILE, content)
    return measured


def _machine() -> dict[str, Any]:
    """What stored timings are valid for."""
    versions = provenance.package_versions()
    libraries = {name: versions.get(name) for name in ("torch", "bitsandbytes")} | {"timing": TIMING_VERSION}
    gpu = {"gpu": hardware.get_hardware("cuda").slug} if torch.cuda.is_available() else {}
    cpu = {"cpu": hardware.get_hardware("cpu").slug, "threads": torch.get_num_threads()}
    return cpu | gpu | libraries


def _stored_timings() -> dict[str, Any]:
    """Timings of this machine and these versions; empty for others and for damaged files."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        stored = json.loads((files.cache_dir() / FILE).read_text())
        if stored.get("here") == _machine():
            return stored
    return {}


@torch.inference_mode()
def time_kernels(
    kernels: Sequence[str],
    make_linear: LinearFactory,
    device: str = "cpu",
    width: int | None = None,
    rounds: int = _ROUNDS,
) -> dict[str, Times]:
    """Milliseconds of a prompt and of a token in one Linear, by kernel.

    Args:
        kernels: their names; one that fails to run is left out.
        make_linear: makes the Linear of a kernel.
        device: "cpu" or "cuda".
        width: inputs and outputs of the Linear.
        rounds: in which the kernels take turns.
    """
    width = width or _WIDTHS[device]
    dense = nn.Linear(width, width, bias=False, dtype=compute_dtype(device), device=device)
    prompt = torch.randn(1, _PROMPT_TOKENS, width, dtype=dense.weight.dtype, device=device)
    token = prompt[:, :1]
    work: dict[tuple[str, str], Callable[[], object]] = {}
    for kernel in kernels:
        try:
            linears = nn.Sequential(*(make_linear(kernel, dense) for _ in range(_NUM_LINEARS)))
            linears(token)
        except Exception as error:  # a build of PyTorch or Triton without the kernel, a missing compiler
            if feedback.is_out_of_memory(error):
                raise
            continue
        work[kernel, "prompt_ms"] = _timed_call(linears[0], prompt)
        work[kernel, "token_ms"] = _timed_call(linears, token)
    times: dict[str, Times] = {}
    for (kernel, name), values in time_in_turns(work, rounds, device).items():
        share = _NUM_LINEARS if name == "token_ms" else 1
        times.setdefault(kernel, {})[name] = [value / share for value in values]
    return times


def _timed_call(linears: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """Call to be timed: on a GPU a CUDA graph, as in decoding, since launching takes longer than the kernel."""
    return capture_cuda_graph(lambda: linears(x))[0] if x.is_cuda else lambda: linears(x)


K = TypeVar("K")


def time_in_turns(work: Mapping[K, Callable[[], object]], rounds: int, device: str) -> dict[K, list[float]]:
    """Milliseconds of each round of each piece of ``work``; every round runs all of them once, in order."""
    times: dict[K, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(time_ms(call, device))
    return times


def time_ms(call: Callable[[], object], device: str) -> float:
    """Milliseconds until ``device`` has finished ``call``."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return 1000 * (time.perf_counter() - start)
