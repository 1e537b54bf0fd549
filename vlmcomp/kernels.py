"""What multiplies packed weights. INT8 of bitsandbytes on a CPU: its own kernel or PyTorch's FBGEMM, whichever is
faster there; INT8 of torchao: FBGEMM on a CPU; INT4 of torchao: PyTorch's tinygemm kernels.

All of them read the weights that the library quantized, so that a checkpoint is the same whatever computes with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from functools import cache
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp import machine, packed, store
from vlmcomp.quantize import INT8_THRESHOLD, hush, int8
from vlmcomp.tinygemm import TinygemmLinear
from vlmcomp.vlm import VLM, compute_dtype

BITSANDBYTES, FBGEMM = "bitsandbytes", "fbgemm"
ASKED = "VLMCOMP_INT8_KERNEL"  # environment: one of the two, instead of the faster one
TITLES = {
    BITSANDBYTES: "multiplied by bitsandbytes",
    FBGEMM: "multiplied by FBGEMM, activations by token in 7 bits (prompt) and 14 (decoding)",
}
TINYGEMM = "multiplied by tinygemm, activations in bfloat16"
_LEVELS = 127  # that 7 bits tell apart, above the least
_FILE = "int8-kernel.json"
_SIDE, _ROUNDS = 2048, 12  # of the Linear that is timed


class _Fbgemm(nn.Linear):
    """INT8 weights (out, in), multiplied by PyTorch's dynamically quantized Linear.

    That kernel rounds to 7 bits (8 overflow on CPUs without VNNI) and gives all tokens of a call one range. Here every
    token is first brought to [0, 1] and its shift is made up for by the sums of the weight's rows, so that it has a
    range of its own and its answer does not hang on the others of a batch.

    Where reading the weights takes the time, in decoding, what rounding a token left is multiplied as a second token:
    14 bits for the price of 7. In a prompt that is done for tokens with values beyond the threshold alone, which
    LLM.int8() (Dettmers et al., arXiv 2208.07339) computes in 16 bits.
    """

    @torch.no_grad()
    def hold(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        """Give the weights to the kernel, which keeps the only copy."""
        self.scale = scale
        self.sums = codes.sum(1, dtype=torch.float32) * self.scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors may go in a later PyTorch
            zeros = torch.zeros(len(codes), dtype=torch.long)
            rows = torch._make_per_channel_quantized_tensor(codes.contiguous(), self.scale.double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(rows, None)

    def codes(self) -> torch.Tensor:
        """The INT8 weights that the kernel holds, exactly as they were quantized."""
        return torch.ops.quantized.linear_unpack(self.packed)[0].int_repr()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1]).float()
        low, high = torch.aminmax(tokens, dim=1, keepdim=True)
        width = (high - low).clamp_min(1e-12)
        unit = (tokens - low) / width
        if x.shape[-2] == 1:  # nothing here hangs on the values, so that a step can be captured
            y = self._finely(unit)
        else:
            y = self._product(unit)
            fine = torch.maximum(-low, high).flatten().gt(INT8_THRESHOLD).nonzero().flatten()
            if len(fine):
                y.index_copy_(0, fine, self._finely(unit[fine]))
        y = torch.addcmul(low * self.sums, y, width)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _finely(self, tokens: torch.Tensor) -> torch.Tensor:
        """The product with ``tokens`` (N, in) from 0 to 1, which what rounding them leaves is added to."""
        exact = tokens * _LEVELS
        coarse = exact.round()
        y, rest = self._product(torch.cat([coarse / _LEVELS, exact - coarse + 0.5])).chunk(2)
        return torch.add(y, rest - 0.5 * self.sums, alpha=1 / _LEVELS)

    def _product(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(tokens, self.packed, True)


class FbgemmLinear8bit(_Fbgemm, bnb.nn.Linear8bitLt):
    """bitsandbytes' INT8 Linear, multiplied by FBGEMM."""

    @torch.no_grad()
    def pack(self) -> None:
        scale = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        codes = self.weight.data if self.state.CB is None else self.state.CB
        self.hold(codes, scale.float().cpu() / 127)
        stand_in = torch.empty_like(codes, device="meta")
        self.weight = bnb.nn.Int8Params(stand_in, requires_grad=False, has_fp16_weights=False, SCB=scale)
        self.state.CB = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.codes()


class FbgemmLinear(_Fbgemm):
    """A Linear of torchao's INT8 weights, multiplied by FBGEMM."""

    @torch.no_grad()
    def pack(self) -> None:
        small = self.weight
        self.hold(small.qdata, small.scale.flatten())
        self.weight = nn.Parameter(packed.int8_of(small.qdata.to("meta"), small), requires_grad=False)

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
    if precision == "int8" and device.type == "cpu":
        use(module, kernel := chosen())
        return TITLES[kernel]
    if precision == "int8-torchao" and device.type == "cpu" and FBGEMM in torch.backends.quantized.supported_engines:
        use(module, FBGEMM)
        return TITLES[FBGEMM]
    if precision == "int4-torchao":
        use(module, TINYGEMM)
        return TINYGEMM
    return ""


def use(model: nn.Module, kernel: str) -> None:
    """Let the packed Linears of ``model`` that ``kernel`` can multiply compute with it from now on."""
    for module in model.modules():
        made = packed.kind(module.weight) if type(module) is nn.Linear else type(module).__name__
        form = _FORMS.get((kernel, made))
        if form is not None:
            module.__class__ = form  # weights, hooks and the way it is saved stay
            module.pack()


_FORMS = {
    (FBGEMM, "Linear8bitLt"): FbgemmLinear8bit,
    (FBGEMM, packed.INT8): FbgemmLinear,
    (TINYGEMM, packed.INT4): TinygemmLinear,
}


@cache
def chosen() -> str:
    """The kernel of ``$VLMCOMP_INT8_KERNEL``, or the faster one: measured once, and kept beside the built variants.

    Raises:
        ValueError: the environment names no kernel.
    """
    if asked := os.environ.get(ASKED):
        if asked not in TITLES:
            raise ValueError(f"{ASKED} is '{asked}': use {' or '.join(TITLES)}")
        return asked
    place = machine.home() / _FILE
    versions = {name: machine.versions().get(name) for name in ("torch", "bitsandbytes")}
    here = {"cpu": machine.hardware("cpu").slug, "threads": torch.get_num_threads(), **versions}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(place.read_text())
        if known["here"] == here and known["kernel"] in TITLES:
            return known["kernel"]
    times = race()
    kernel = min(times, key=lambda name: min(times[name]))  # the least disturbed time says what a kernel can do
    with contextlib.suppress(OSError):  # a disk that refuses costs a new measurement next time, and nothing else
        store.write_json(place, {"here": here, "kernel": kernel, "ms": times})
    return kernel


@torch.inference_mode()
def race(side: int = _SIDE, rounds: int = _ROUNDS) -> dict[str, list[float]]:
    """By kernel that works here: milliseconds of one token through an INT8 Linear of ``side`` x ``side``, in turns."""
    hush()
    dense = nn.Linear(side, side, bias=False)
    x = torch.randn(1, 1, side, dtype=compute_dtype("cpu"))
    linears, times = {}, {}
    for kernel in TITLES:
        holder = nn.Sequential(int8(dense).to("cpu").eval())
        try:
            use(holder, kernel)
            holder(x)
        except (RuntimeError, AttributeError, NotImplementedError):  # not in this build of PyTorch
            continue
        linears[kernel], times[kernel] = holder, []
    for _ in range(rounds):
        for kernel, linear in linears.items():
            start = time.perf_counter()
            linear(x)
            times[kernel].append(1000 * (time.perf_counter() - start))
    return times
