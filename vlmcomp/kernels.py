"""What multiplies packed weights. INT8 of bitsandbytes on a CPU: its own kernel, FBGEMM or oneDNN, whichever is faster
there; INT8 of torchao on a CPU: the faster of the latter two; INT4 of torchao: PyTorch's tinygemm kernels.

All of them read the weights that the library quantized, so that a checkpoint is the same whatever computes with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp import machine, packed, store
from vlmcomp.anatomy import FAMILIES
from vlmcomp.integer import Fbgemm, IntegerLinear, Onednn, multiply_by
from vlmcomp.quantize import hush, int8
from vlmcomp.tinygemm import TinygemmLinear
from vlmcomp.vlm import VLM, compute_dtype, cpu_has

BITSANDBYTES, FBGEMM, ONEDNN = "bitsandbytes", "fbgemm", "onednn"
ASKED = "VLMCOMP_INT8_KERNEL"  # environment: one of them, instead of the fastest
TITLES = {
    BITSANDBYTES: "multiplied by bitsandbytes",
    FBGEMM: "multiplied by FBGEMM, activations by token in 7 bits (prompt) and 14 (decoding)",
    ONEDNN: "multiplied by oneDNN, activations by token in 8 bits (prompt) and 16 (decoding)",
}
_INT8 = {"int8": (BITSANDBYTES, FBGEMM, ONEDNN), "int8-torchao": (FBGEMM, ONEDNN)}
TINYGEMM = "multiplied by tinygemm, activations in bfloat16"
_FILE = "int8-kernel.json"
Times = dict[str, list[float]]  # "prompt_ms", "token_ms"
_SIDE, _LINEARS, _ROUNDS = 2048, 16, 5  # of those that are timed: more than the caches of most CPUs hold
_PROMPT, _TOKENS = 512, 32  # of the answer


class IntegerLinear8bit(IntegerLinear, bnb.nn.Linear8bitLt):
    """bitsandbytes' INT8 Linear, multiplied by another kernel."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        codes = self.weight.data if self.state.CB is None else self.state.CB
        stand_in = torch.empty_like(codes, device="meta")
        self.weight = bnb.nn.Int8Params(stand_in, requires_grad=False, has_fp16_weights=False, SCB=scale)
        self.state.CB = None
        return codes, scale.float().cpu() / 127

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.codes()


class IntegerLinearOfTorchao(IntegerLinear):
    """A Linear of torchao's INT8 weights, multiplied by another kernel."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        small = self.weight
        self.weight = nn.Parameter(packed.int8_of(small.qdata.to("meta"), small), requires_grad=False)
        return small.qdata, small.scale.flatten()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = packed.int8_of(self.codes(), self.weight)


def settle(vlm: VLM) -> None:
    """Let a built ``vlm`` compute in the best way that is known here; it can be saved before and after."""
    if vlm.settled:
        return
    vlm.settled = True
    vlm.kernel = fit(vlm.model, vlm.recipe.precision, vlm.device)


def fit(module: nn.Module, precision: str, device: torch.device) -> str:
    """Let the Linears of ``module``, packed in ``precision``, compute in the best way known on ``device``; its title,
    where it is not the library's own."""
    if precision in _INT8 and device.type == "cpu" and (kernel := chosen(precision)):
        use(module, kernel)
        return TITLES[kernel]
    if precision == "int4-torchao":
        use(module, TINYGEMM)
        return TINYGEMM
    return ""


def use(model: nn.Module, kernel: str) -> None:
    """Let the packed Linears of ``model`` that ``kernel`` can multiply compute with it from now on."""
    if kernel == TINYGEMM:
        for linear in [m for m in model.modules() if _kind(m) == packed.INT4]:
            linear.__class__ = TinygemmLinear  # weights, hooks and the way it is saved stay
            linear.pack()
    if kernel in _PRODUCTS:
        for linears in _together(model):
            for linear in linears:
                linear.__class__ = _FORMS[_kind(linear)]
            multiply_by(_PRODUCTS[kernel], linears)


_PRODUCTS = {FBGEMM: Fbgemm, ONEDNN: Onednn}
_FORMS = {"Linear8bitLt": IntegerLinear8bit, packed.INT8: IntegerLinearOfTorchao}
# Linears of one module that are given the same tensor
_SIBLINGS = {names for a in FAMILIES.values() for names in ((a.query, a.key, a.value), a.mlp_in) if len(names) > 1}


def _kind(module: object) -> str:
    """The class of its packed weights."""
    return packed.kind(module.weight) if type(module) is nn.Linear else type(module).__name__


def _together(model: nn.Module) -> Iterator[list[Any]]:
    """The INT8 Linears of ``model``, those together that can be multiplied as one."""
    linears = {id(module): module for module in model.modules() if _kind(module) in _FORMS}
    for module in model.modules():
        for names in _SIBLINGS:
            found = [getattr(module, name, None) for name in names]
            if all(id(linear) in linears for linear in found):
                yield [linears.pop(id(linear)) for linear in found]
    yield from ([linear] for linear in linears.values())


def chosen(precision: str = "int8") -> str:
    """The kernel of ``$VLMCOMP_INT8_KERNEL``, or the fastest for weights packed in ``precision``; nothing where only
    the library's own way is left.

    Raises:
        ValueError: the environment names no kernel.
    """
    able = _INT8[precision]
    if asked := os.environ.get(ASKED):
        if asked not in TITLES:
            raise ValueError(f"{ASKED} is '{asked}': use {' or '.join(TITLES)}")
        if asked in able:
            return asked
    times = known_times()
    # by medians: what takes long half of the time is not fast
    return min((kernel for kernel in able if kernel in times), key=lambda kernel: _answer_ms(times[kernel]), default="")


def _answer_ms(times: Times) -> float:
    return statistics.median(times["prompt_ms"]) + _TOKENS * statistics.median(times["token_ms"])


@cache
def known_times() -> dict[str, Times]:
    """What ``race`` gave on this machine: run once, and kept beside the built variants."""
    place = machine.home() / _FILE
    versions = {name: machine.versions().get(name) for name in ("torch", "bitsandbytes")}
    here = {"cpu": machine.hardware("cpu").slug, "threads": torch.get_num_threads(), **versions}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(place.read_text())
        if known["here"] == here and all(map(_answer_ms, known["kernels"].values())):
            return known["kernels"]
    times = race()
    with contextlib.suppress(OSError):  # a disk that refuses costs a new measurement next time, and nothing else
        store.write_json(place, {"here": here, "kernels": times})
    return times


@torch.inference_mode()
def race(side: int = _SIDE, rounds: int = _ROUNDS) -> dict[str, Times]:
    """By kernel that works here: milliseconds that a prompt and a token spend in an INT8 Linear of ``side`` x ``side``,
    in turns."""
    hush()
    dense = nn.Linear(side, side, bias=False)
    prompt = torch.randn(1, _PROMPT, side, dtype=compute_dtype("cpu"))
    linears: dict[str, nn.Sequential] = {}
    for kernel in TITLES:
        if kernel == ONEDNN and not vnni():
            continue
        with contextlib.suppress(RuntimeError, AttributeError, NotImplementedError):  # not in this build of PyTorch
            several = nn.Sequential(*(int8(dense).to("cpu").eval() for _ in range(_LINEARS)))
            use(several, kernel)
            several(prompt[:, :1])
            linears[kernel] = several
    times: dict[str, Times] = {kernel: {"prompt_ms": [], "token_ms": []} for kernel in linears}
    for _ in range(rounds):
        for kernel, several in linears.items():
            times[kernel]["prompt_ms"].append(_ms(several[0], prompt))
            times[kernel]["token_ms"].append(_ms(several, prompt[:, :1]) / _LINEARS)
    return times


def _ms(linears: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    linears(x)
    return 1000 * (time.perf_counter() - start)


def vnni() -> bool:
    """Whether this CPU adds up products of 8-bit integers without overflow."""
    return cpu_has("vnni", "amx_tile")
