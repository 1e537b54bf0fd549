"""What multiplies a decoder's weights. On a CPU whichever is faster there: of INT8, bitsandbytes' own kernel, FBGEMM or
oneDNN (the latter two multiply torchao's too); of dense weights, PyTorch's Linear or oneDNN with weights that it laid
out once. On a GPU Triton's kernels read packed weights, where Triton is, and dense ones where they are faster; else, of
torchao's INT4, PyTorch's tinygemm kernels do, as on a CPU.

All of them read the weights that were built or quantized, so that a checkpoint is the same whatever computes with it.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Container, Iterator
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp import hardware
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.bitsandbytes import silence_bitsandbytes, to_bnb_int8
from vlmcomp.hardware import cpu_has
from vlmcomp.models import architecture
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime import autotune
from vlmcomp.runtime.config import (
    AUTO,
    BITSANDBYTES,
    COMPILED,
    FBGEMM,
    INT8_KERNELS,
    LIBRARY,
    ONEDNN,
    PREPACKED,
    PYTORCH,
    TRITON_DENSE,
    RuntimeConfig,
)
from vlmcomp.runtime.device import current
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear
from vlmcomp.runtime.linear.cpu_int4 import TinygemmLinear
from vlmcomp.runtime.linear.fused import Fbgemm, IntegerLinear, Onednn, multiply_by
from vlmcomp.runtime.linear.gpu import Dense, DenseLinear, Int4, Int4Linear, Int8, Nf4Linear, available

TINYGEMM, TRITON = "tinygemm", "triton"
TITLES = {
    BITSANDBYTES: "multiplied by bitsandbytes",
    FBGEMM: "multiplied by FBGEMM, activations by token in 7 bits (prompt) and 14 (decoding)",
    ONEDNN: "multiplied by oneDNN, activations by token in 8 bits (prompt) and 16 (decoding)",
    PREPACKED: "multiplied by oneDNN, weights laid out once",
    TINYGEMM: "multiplied by tinygemm, activations in bfloat16",
    TRITON: "multiplied by Triton kernels, activations in 16 bits",
    TRITON_DENSE: "tokens multiplied by a Triton kernel",
}
_INT8 = {"int8": INT8_KERNELS, "int8-torchao": (FBGEMM, ONEDNN)}
# Which models compute with which kernel by now, as its description: Linears are exchanged once.
_optimized: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


class IntegerLinear8bit(IntegerLinear, bnb.nn.Linear8bitLt):
    """bitsandbytes' INT8 Linear, multiplied by another kernel."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        codes = self.weight.data if self.state.CB is None else self.state.CB
        stand_in = torch.empty_like(codes, device="meta")
        self.weight = bnb.nn.Int8Params(stand_in, requires_grad=False, has_fp16_weights=False, SCB=scale)
        self.state.CB = None
        return codes, scale.float().to(codes.device) / 127

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.codes()


class IntegerLinearOfTorchao(IntegerLinear):
    """A Linear of torchao's INT8 weights, multiplied by another kernel."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        small = self.weight
        self.weight = nn.Parameter(torchao_tensors.int8_of(small.qdata.to("meta"), small), requires_grad=False)
        return small.qdata, small.scale.flatten()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = torchao_tensors.int8_of(self.codes(), self.weight)


def settle(vlm: VLM, config: RuntimeConfig) -> str:
    """Let a built ``vlm`` compute with the fastest kernels of ``config``, once; it can be saved before and after.

    Returns:
        What multiplies the decoder's weights, where it is not the library's own.
    """
    model = vlm.model
    if model not in _optimized:
        with current(vlm.device):
            decoder, head = model.get_submodule(architecture.of(model).decoder), model.get_output_embeddings()
            kernel = fit(decoder, vlm.recipe.precision, vlm.device, config)
            if head.weight is not model.get_input_embeddings().weight:
                fit(head, "fp16", vlm.device, config)
        _optimized[model] = kernel
    return _optimized[model]


def fit(module: nn.Module, precision: str, device: torch.device, config: RuntimeConfig | None = None) -> str:
    """Let the Linears of ``module``, packed in ``precision`` or dense, compute in the best way known on ``device``; the
    title of what multiplies the former, where it is not the library's own."""
    config, kernel = config or RuntimeConfig.from_environment(), ""
    if config.linear_kernels == LIBRARY:
        return ""
    if precision != "fp16" and available(device):
        own = precision in _INT8 and config.int8_kernel == BITSANDBYTES
        kernel = "" if own else TRITON
    elif precision in _INT8 and device.type == "cpu":
        kernel = chosen(precision, config.int8_kernel)
    elif precision == "int4-torchao":
        kernel = TINYGEMM
    elif precision == "fp16" and (available(device) or (device.type == "cpu" and config.decode != COMPILED)):
        kernel = chosen_dense(device.type, config.dense_kernel)  # what compiles a CPU's step makes kernels of its own
    use(module, kernel)
    return TITLES.get(kernel, "")


def use(model: nn.Module, kernel: str) -> None:
    """Let the Linears of ``model`` that ``kernel`` can multiply compute with it from now on."""
    for form, takes in _LAYOUTS.get(kernel, ()):
        for linear in [module for module in model.modules() if takes(module)]:
            linear.__class__ = form  # weights, hooks and the way it is saved stay
            linear.pack()
    for forms, product in _PRODUCTS.get(kernel, ()):
        for linears in _together(model, forms):
            for linear in linears:
                linear.__class__ = forms[_kind(linear)]
            multiply_by(product, linears)


def _dense(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == compute_dtype("cpu")


_LAYOUTS = {  # Linears that lay out their own weights, and what becomes one of them
    PREPACKED: [(PrepackedLinear, _dense)],
    TINYGEMM: [(TinygemmLinear, lambda module: _kind(module) == torchao_tensors.INT4)],
    TRITON: [(Nf4Linear, Nf4Linear.takes)],
}
_INTEGER = {"Linear8bitLt": IntegerLinear8bit, torchao_tensors.INT8: IntegerLinearOfTorchao}
_PRODUCTS = {  # what becomes one of the Linears that share a product, and the product
    FBGEMM: [(_INTEGER, Fbgemm)],
    ONEDNN: [(_INTEGER, Onednn)],
    TRITON: [(_INTEGER, Int8), ({torchao_tensors.INT4: Int4Linear}, Int4)],
    TRITON_DENSE: [({"": DenseLinear}, Dense)],
}
# Linears of one module that are given the same tensor
_SIBLINGS = {
    names for a in architecture.FAMILIES.values() for names in ((a.query, a.key, a.value), a.mlp_in) if len(names) > 1
}


def _kind(module: object) -> str:
    """The class of its packed weights; nothing of dense ones."""
    return torchao_tensors.kind(module.weight) if type(module) is nn.Linear else type(module).__name__


def _together(model: nn.Module, kinds: Container[str]) -> Iterator[list[Any]]:
    """The Linears of ``model`` with weights of ``kinds``, those together that can be multiplied as one."""
    linears = {id(module): module for module in model.modules() if _kind(module) in kinds}
    for module in model.modules():
        for names in _SIBLINGS:
            found = [getattr(module, name, None) for name in names]
            if all(id(linear) in linears for linear in found):
                yield [linears.pop(id(linear)) for linear in found]
    yield from ([linear] for linear in linears.values())


def chosen(precision: str = "int8", asked: str = AUTO) -> str:
    """The kernel ``asked`` for where it multiplies ``precision``, else the fastest one; nothing where only the
    library's own way is left."""
    if asked in _INT8[precision]:
        return asked
    times = autotune.known("int8", able(), _int8_by)
    return autotune.fastest({kernel: times[kernel] for kernel in _INT8[precision] if kernel in times})


def able() -> tuple[str, ...]:
    """The INT8 kernels that are right on this CPU."""
    return tuple(kernel for kernel in INT8_KERNELS if kernel != ONEDNN or vnni())


def chosen_dense(device: str = "cpu", asked: str = AUTO) -> str:
    """The same for dense weights on "cpu" or "cuda"."""
    ways = (PYTORCH, PREPACKED if device == "cpu" else TRITON_DENSE)
    if asked in ways:
        return asked
    if hardware.on_zero_gpu(os.environ):
        return PYTORCH  # a visitor's seconds are not for a race
    return autotune.fastest(autotune.known(f"dense {device}", ways, _dense_by, device))


def _int8_by(kernel: str, dense: nn.Linear) -> nn.Module:
    silence_bitsandbytes()
    return _used(to_bnb_int8(dense).to("cpu").eval(), kernel)


def _dense_by(kernel: str, dense: nn.Linear) -> nn.Module:
    return _used(copy.deepcopy(dense), kernel)


def _used(linear: nn.Module, kernel: str) -> nn.Module:
    use(linear, kernel)
    return linear


def vnni() -> bool:
    """Whether this CPU adds up products of 8-bit integers without overflow."""
    return cpu_has("vnni", "amx_tile")
