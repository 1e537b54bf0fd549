"""Which of several ways to multiply is the fastest on this machine's device: measured once, and kept beside built
variants."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from vlmcomp import feedback, files, hardware
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.results import provenance
from vlmcomp.runtime.device import graphed, synchronize

T = TypeVar("T")
Times = dict[str, list[float]]  # "prompt_ms" and "token_ms", round by round
Make = Callable[[str, nn.Linear], nn.Module]  # of a dense Linear what a kernel multiplies; it keeps no weight of it
FILE = "kernels.json"
_SIDES, _LINEARS, _ROUNDS = {"cpu": 2048, "cuda": 4096}, 16, 5  # together more than most caches hold
# Raise it when a kernel's speed or the way of timing changes: the stored timings are measured anew.
TIMING_VERSION = 1
_PROMPT, _TOKENS = 512, 32  # of the answer


def fastest(times: dict[str, Times]) -> str:
    """Who takes least for a prompt and its answer, by medians: what is slow half of the time is not fast. Nothing
    where nobody is there."""
    return min(times, key=lambda name: answer_ms(times[name]), default="")


def answer_ms(times: Times) -> float:
    """Milliseconds that an answer spends in one Linear."""
    return statistics.median(times["prompt_ms"]) + _TOKENS * statistics.median(times["token_ms"])


@cache
def known(what: str, names: tuple[str, ...], make: Make, device: str = "cpu") -> dict[str, Times]:
    """What ``run`` gave for ``what`` on this machine's ``device``."""

    def sound(times: dict[str, Times]) -> bool:
        return bool(times) and times.keys() <= set(names) and all(map(answer_ms, times.values()))

    try:
        return keep(what, lambda: run(names, make, device), sound)
    except Exception as error:
        if not feedback.out_of_memory(error):
            raise
        return {}  # the libraries' own way, until there is room for a race


def keep(what: str, measure: Callable[[], T], sound: Callable[[T], bool]) -> T:
    """What ``measure`` gave for ``what`` when this machine was first asked, if that is ``sound``."""
    place, kept = files.home() / FILE, _kept()
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if sound(kept[what]):
            return kept[what]
    found = measure()
    with contextlib.suppress(OSError):  # a disk that refuses costs a new measurement next time, and nothing else
        files.write_json(place, _kept() | {"here": _here(), what: found})
    return found


def _here() -> dict[str, Any]:
    versions = provenance.versions()
    libraries = {name: versions.get(name) for name in ("torch", "bitsandbytes")} | {"timing": TIMING_VERSION}
    gpu = {"gpu": hardware.hardware("cuda").slug} if torch.cuda.is_available() else {}
    return {"cpu": hardware.hardware("cpu").slug, "threads": torch.get_num_threads(), **gpu, **libraries}


def _kept() -> dict[str, Any]:
    """What was measured here before; of another machine or version nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads((files.home() / FILE).read_text())
        if kept.get("here") == _here():
            return kept
    return {}


@torch.inference_mode()
def run(
    names: Sequence[str], make: Make, device: str = "cpu", side: int | None = None, rounds: int = _ROUNDS
) -> dict[str, Times]:
    """Milliseconds that a prompt and a token spend in a Linear of ``side`` x ``side``, by kernel and in turns; who does
    not work here does not run."""
    side = side or _SIDES[device]
    dense = nn.Linear(side, side, bias=False, dtype=compute_dtype(device), device=device)
    prompt = torch.randn(1, _PROMPT, side, dtype=dense.weight.dtype, device=device)
    running: dict[str, nn.Sequential] = {}
    for name in names:
        try:
            linears = nn.Sequential(*(make(name, dense) for _ in range(_LINEARS)))
            linears(prompt[:, :1])
        except Exception as error:  # a build of PyTorch or Triton that lacks the kernel, a compiler that is missing
            if feedback.out_of_memory(error):
                raise
            continue
        running[name] = linears
    times: dict[str, Times] = {name: {"prompt_ms": [], "token_ms": []} for name in running}
    run_of = {name: (_ready(linears[0], prompt), _ready(linears, prompt[:, :1])) for name, linears in running.items()}
    for _ in range(rounds):
        for name, (answer, token) in run_of.items():
            times[name]["prompt_ms"].append(ms(answer, device))
            times[name]["token_ms"].append(ms(token, device) / _LINEARS)
    return times


def _ready(linears: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """What is timed: on a GPU a graph, as in decoding, since the host takes longer for a call than the kernel."""
    return graphed(lambda: linears(x))[0] if x.is_cuda else lambda: linears(x)


def ms(work: Callable[[], object], device: str) -> float:
    """Milliseconds that ``device`` takes for ``work``."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1000 * (time.perf_counter() - start)
