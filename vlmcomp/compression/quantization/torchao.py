"""Weights that torchao packs (Or et al., arXiv 2507.16099): made, taken apart and counted.

INT8 is symmetric with a scale a row, INT4 affine in groups of 32 inputs, by the rule of the tinygemm kernels. Both are
held in torchao's plain layouts, which its and transformers' loaders know; ``kernels`` lays them out for a device. Stock
classes load both anywhere; they compute with the INT4 of this layout on CUDA alone, with the mslk package.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

GROUP = 32  # inputs that share an INT4 scale and zero
ROWS = 16  # outputs that the INT4 kernel of a CPU takes together
INT8, INT4 = "Int8Tensor", "Int4Tensor"  # torchao's classes
_HALF = 8  # of the 16 levels: codes are stored from -8 to 7


def installed() -> bool:
    return importlib.util.find_spec("torchao") is not None


def kind(weight: torch.Tensor | None) -> str:
    """The name of torchao's class, or nothing for a tensor of another library."""
    return type(weight).__name__ if hasattr(weight, "tensor_data_names") else ""


def parts(weight: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a packed weight consists of; none for a plain tensor."""
    names = (*getattr(weight, "tensor_data_names", ()), *getattr(weight, "optional_tensor_data_names", ()))
    return [part for name in names if (part := getattr(weight, name)) is not None]


def int8(weight: torch.Tensor) -> Any:
    """A dense (out, in) weight as torchao's INT8. It calls itself float16, whatever it is multiplied with."""
    from torchao.quantization import Int8Tensor, PerRow

    exact = Int8Tensor.from_hp(weight.float(), PerRow())
    return int8_of(exact.qdata, exact)


def int8_of(codes: torch.Tensor, like: Any) -> Any:
    """``codes`` (out, in) with the scales of ``like``."""
    from torchao.quantization import Int8Tensor

    return Int8Tensor(codes, like.scale, like.block_size, torch.float16, zero_point=like.zero_point)


def int4(weight: torch.Tensor) -> Any:
    """A dense (out, in) weight as torchao's INT4. Codes are chosen for the scales and zeros as they are stored, in
    bfloat16, so that a weight made of them gives them again."""
    from torchao.quantization import MappingType, quant_primitives

    block, exact = (1, GROUP), weight.float()
    scale, zero = quant_primitives._choose_qparams_affine_tinygemm(
        exact,
        MappingType.ASYMMETRIC,
        block,
        torch.int32,
        quant_min=0,
        quant_max=2 * _HALF - 1,
        eps=1e-6,
        scale_dtype=torch.bfloat16,
        zero_point_dtype=torch.bfloat16,
    )
    codes = quant_primitives._quantize_affine_tinygemm(
        exact, block, scale.float(), zero.float(), torch.int32, quant_min=0, quant_max=2 * _HALF - 1
    )
    return int4_of(codes, scale, zero)


def int4_of(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> Any:
    """``codes`` (out, in) from 0 to 15 with scales and zeros (out, groups): (code - 8) scale + zero."""
    from torchao.quantization import Int4Tensor

    low, high = (codes - _HALF).to(torch.int8).unflatten(1, (-1, 2)).unbind(2)
    pairs = low & 0xF | high << 4
    turned = (values.t().contiguous() for values in (scale, zero))
    return Int4Tensor(pairs, *turned, block_size=[1, GROUP], shape=codes.shape)


def codes(weight: Any) -> torch.Tensor:
    """The INT4 codes (out, in) from 0 to 15."""
    pairs = weight.qdata.to(torch.int32)
    return (torch.stack([pairs, pairs >> 4], dim=2).flatten(1) + _HALF) & 0xF


def dense(weight: Any) -> torch.Tensor:
    """The float32 weight that a packed one stands for."""
    if kind(weight) == INT8:
        return weight.qdata.float() * weight.scale
    groups = codes(weight).float().unflatten(1, (-1, GROUP)) - _HALF
    return (groups * weight.scale.t().float()[..., None] + weight.zero_point.t().float()[..., None]).flatten(1)


def config(precision: str, skip: list[str]) -> Any:
    """The stock configuration that loads the packed weights of ``precision``; ``skip``: full paths left alone."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    quiet = {"set_inductor_config": False}  # it would change settings of the whole process
    made = (
        Int8WeightOnlyConfig(version=2, **quiet)
        if "8" in precision
        else Int4WeightOnlyConfig(group_size=GROUP, **quiet)
    )
    return TorchAoConfig(made, modules_to_not_convert=skip)
