"""Selection and installation of the fastest kernels for a decoder's Linears.

On a CPU: for INT8, bitsandbytes' own kernel, FBGEMM or oneDNN (for torchao's, the latter two); for torchao's INT4,
PyTorch's tinygemm; for dense weights, PyTorch's Linear or oneDNN with packed weights. On a GPU: Triton kernels for
packed weights, and for dense ones where they are faster.

All of them save the weights that were built or quantized, so a checkpoint does not depend on the kernel.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from vlmcomp import hardware
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.bitsandbytes import silence_bitsandbytes, to_bnb_int8
from vlmcomp.models import architecture
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import W4A16, W8A16
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
from vlmcomp.runtime.device import device_context
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear
from vlmcomp.runtime.linear.cpu_int4 import TinygemmLinear
from vlmcomp.runtime.linear.cpu_int8 import FbgemmMatmul, OnednnMatmul
from vlmcomp.runtime.linear.fused import FusedLinear, PackedMatmul, fuse_linears_
from vlmcomp.runtime.linear.gpu import (
    DenseGemv,
    DenseLinear,
    Int4Gemv,
    Int8Gemv,
    Nf4Linear,
    TorchaoInt4Linear,
    triton_available,
)
from vlmcomp.runtime.linear.int8 import BnbInt8Linear, TorchaoInt8Linear
from vlmcomp.runtime.linear.replacement import ReplacementLinear, replace_modules_

TINYGEMM = "tinygemm"
TRITON = "triton"
KERNEL_DESCRIPTIONS = {
    BITSANDBYTES: "multiplied by bitsandbytes",
    FBGEMM: "multiplied by FBGEMM, activations by token in 7 bits (prompt) and 14 (decoding)",
    ONEDNN: "multiplied by oneDNN, activations by token in 8 bits (prompt) and 16 (decoding)",
    PREPACKED: "multiplied by oneDNN, weights laid out once",
    TINYGEMM: "multiplied by tinygemm, activations in bfloat16",
    TRITON: "multiplied by Triton kernels, activations in 16 bits",
    TRITON_DENSE: "tokens multiplied by a Triton kernel",
}
_INT8_KERNELS_OF = {"int8": INT8_KERNELS, "int8-torchao": (FBGEMM, ONEDNN), W8A16: (FBGEMM, ONEDNN)}  # by precision
_INT4_IN_GROUPS = ("int4-torchao", W4A16)
# Description of the kernel of each optimized model: Linears are replaced once.
_optimized: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def optimize_model_(vlm: VLM, config: RuntimeConfig) -> str:
    """Replace the Linears of the decoder and lm_head by the fastest ones of ``config``, at the first call for a model.

    Returns:
        Description of the kernel that multiplies the decoder's weights; empty for the library's own.
    """
    model = vlm.model
    if model not in _optimized:
        with device_context(vlm.device):
            decoder = model.get_submodule(architecture.get_architecture(model).decoder)
            description = optimize_linears_(decoder, vlm.recipe.precision, vlm.device, config)
            head = model.get_output_embeddings()
            if head.weight is not model.get_input_embeddings().weight:
                set_linear_kernel_(model, select_kernel("fp16", vlm.device, config), [head])
        _optimized[model] = description
    return _optimized[model]


def optimize_linears_(
    module: nn.Module, precision: str, device: torch.device, config: RuntimeConfig | None = None
) -> str:
    """Replace the Linears inside ``module`` by the fastest ones.

    Args:
        module: contains Linears of ``precision``; not a Linear itself.
        precision: of the weights.
        device: of the weights.
        config: default: the settings of the environment.

    Returns:
        Description of the kernel; empty for the library's own.

    Raises:
        ValueError: nothing multiplies this precision on ``device``.
    """
    kernel = select_kernel(precision, device, config or RuntimeConfig.from_environment())
    set_linear_kernel_(module, kernel)
    return KERNEL_DESCRIPTIONS.get(kernel, "")


def select_kernel(precision: str, device: torch.device, config: RuntimeConfig) -> str:
    """Name of the fastest kernel for weights of ``precision`` on ``device``; empty for the library's own.

    Raises:
        ValueError: nothing multiplies this precision on ``device``.
    """
    on_cpu = device.type == "cpu"
    if config.linear_kernels == LIBRARY:
        return ""
    if precision == "fp16":
        if on_cpu and config.decode == COMPILED:  # Inductor makes its own kernels
            return ""
        return best_dense_kernel(device.type, config.dense_kernel) if on_cpu or triton_available(device) else ""
    if triton_available(device):
        keeps_bitsandbytes = precision in _INT8_KERNELS_OF and config.int8_kernel == BITSANDBYTES
        return "" if keeps_bitsandbytes else TRITON
    if precision in _INT8_KERNELS_OF and on_cpu:
        return best_int8_kernel(precision, config.int8_kernel)
    if precision in _INT4_IN_GROUPS and on_cpu:
        return TINYGEMM
    if not supports_precision(precision, device):
        raise ValueError(
            f"{precision} on a GPU requires Triton, or torchao's own kernel from the mslk package: "
            f"install one of them, or use {W8A16 if precision == W4A16 else 'int4 or int8-torchao'}"
        )
    return ""


def supports_precision(precision: str, device: torch.device) -> bool:
    """Whether a kernel for ``precision`` is installed: torchao's own INT4 kernel for GPUs is part of mslk."""
    if precision not in _INT4_IN_GROUPS or device.type == "cpu":
        return True
    return triton_available(device) or importlib.util.find_spec("mslk") is not None


def set_linear_kernel_(model: nn.Module, kernel: str, linears: Collection[nn.Module] | None = None) -> None:
    """Replace the Linears inside ``model`` that ``kernel`` can multiply.

    Args:
        model: contains the Linears; not a Linear itself.
        kernel: name of the kernel; empty changes nothing.
        linears: the Linears to replace; default: all.
    """
    candidates = list(model.modules() if linears is None else linears)
    for linear_class, accepts in _REPLACEMENTS.get(kernel, ()):
        accepted = (linear for linear in candidates if accepts(linear))
        replace_modules_(model, ((linear, linear_class.from_linear(linear)) for linear in accepted))
    for classes, matmul_class in _FUSED_REPLACEMENTS.get(kernel, ()):
        for siblings in _sibling_groups(model, [linear for linear in candidates if _weight_kind(linear) in classes]):
            fused = [classes[_weight_kind(linear)].from_linear(linear) for linear in siblings]
            fuse_linears_(matmul_class, fused)
            replace_modules_(model, zip(siblings, fused))


def _is_dense(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == compute_dtype("cpu")


def _is_torchao_int4(module: nn.Module) -> bool:
    return _weight_kind(module) == torchao_tensors.INT4


# By kernel: Linears that pack their own weights, and which Linears they replace.
_REPLACEMENTS: dict[str, list[tuple[type[ReplacementLinear], Callable[[nn.Module], bool]]]] = {
    PREPACKED: [(PrepackedLinear, _is_dense)],
    TINYGEMM: [(TinygemmLinear, _is_torchao_int4)],
    TRITON: [(Nf4Linear, Nf4Linear.accepts)],
}
_INT8_CLASSES: dict[str, type[FusedLinear]] = {
    "Linear8bitLt": BnbInt8Linear,
    torchao_tensors.INT8: TorchaoInt8Linear,
}
# By kernel: Linears that share a product, by the kind of weights that they replace, and the product.
_FUSED_REPLACEMENTS: dict[str, list[tuple[dict[str, type[FusedLinear]], type[PackedMatmul]]]] = {
    FBGEMM: [(_INT8_CLASSES, FbgemmMatmul)],
    ONEDNN: [(_INT8_CLASSES, OnednnMatmul)],
    TRITON: [(_INT8_CLASSES, Int8Gemv), ({torchao_tensors.INT4: TorchaoInt4Linear}, Int4Gemv)],
    TRITON_DENSE: [({"": DenseLinear}, DenseGemv)],
}
# Names of Linears of one module that have the same input.
_SIBLING_NAMES = {
    names
    for spec in architecture.ARCHITECTURES.values()
    for names in ((spec.query, spec.key, spec.value), spec.mlp_inputs)
    if len(names) > 1
}


def _weight_kind(module: nn.Module) -> str:
    """Class name of packed weights, or of a Linear of bitsandbytes; empty for dense weights."""
    return torchao_tensors.tensor_class(module.weight) if type(module) is nn.Linear else type(module).__name__


def _sibling_groups(model: nn.Module, linears: Collection[nn.Module]) -> Iterator[list[Any]]:
    """``linears`` of ``model`` in groups that have the same input."""
    remaining = {id(linear): linear for linear in linears}
    for module in list(model.modules()):
        for names in _SIBLING_NAMES:
            siblings = [getattr(module, name, None) for name in names]
            if all(id(linear) in remaining for linear in siblings):
                yield [remaining.pop(id(linear)) for linear in siblings]
    for linear in remaining.values():
        yield [linear]


def best_int8_kernel(precision: str = "int8", requested: str = AUTO) -> str:
    """Name of the ``requested`` kernel if it multiplies ``precision`` on a CPU, else of the fastest.

    Empty if only the library's own kernel is left.
    """
    kernels = _INT8_KERNELS_OF[precision]
    if requested in kernels:
        return requested
    times = autotune.cached_timings("int8", supported_int8_kernels(), _make_int8_linear)
    return autotune.fastest({kernel: times[kernel] for kernel in kernels if kernel in times})


def supported_int8_kernels() -> tuple[str, ...]:
    """The INT8 kernels whose sums do not overflow on this CPU."""
    return tuple(kernel for kernel in INT8_KERNELS if kernel != ONEDNN or has_vnni())


def best_dense_kernel(device_type: str = "cpu", requested: str = AUTO) -> str:
    """Name of the ``requested`` kernel if it multiplies dense weights on "cpu" or "cuda", else of the fastest."""
    kernels = (PYTORCH, PREPACKED if device_type == "cpu" else TRITON_DENSE)
    if requested in kernels:
        return requested
    if hardware.is_zero_gpu(os.environ):
        return PYTORCH  # timing would take a visitor's GPU seconds
    return autotune.fastest(autotune.cached_timings(f"dense {device_type}", kernels, _make_dense_linear, device_type))


def _make_int8_linear(kernel: str, dense: nn.Linear) -> nn.Module:
    silence_bitsandbytes()
    return _with_kernel(to_bnb_int8(dense).to("cpu").eval(), kernel)


def _make_dense_linear(kernel: str, dense: nn.Linear) -> nn.Module:
    return _with_kernel(copy.deepcopy(dense), kernel)


def _with_kernel(linear: nn.Module, kernel: str) -> nn.Module:
    holder = nn.Sequential(linear)
    set_linear_kernel_(holder, kernel)
    return holder


def has_vnni() -> bool:
    """Whether this CPU sums products of 8-bit integers without overflow."""
    return hardware.cpu_has("vnni", "amx_tile")
