"""torchao's weight-only INT8 and INT4 tensors (Or et al., arXiv 2507.16099): packing, unpacking, sizes.

INT8 is symmetric with a scale a row, INT4 affine in groups of 32 inputs, by the rule of the tinygemm kernels; the same
containers hold the symmetric weights of W8A16 and W4A16 (``pack_quantized``). Both use torchao's plain layouts, which
torchao and transformers can load; ``vlmcomp.runtime.linear`` repacks them for a device.
Transformers loads both on any device; it computes with the INT4 of this layout on CUDA alone, with the mslk package.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from vlmcomp.private_ops import choose_int4_scales, quantize_int4

GROUP_SIZE = 32  # inputs that share an INT4 scale and zero point
OUT_FEATURES_MULTIPLE = 16  # required by the INT4 kernel of a CPU
INT8 = "Int8Tensor"
INT4 = "Int4Tensor"
_OFFSET = 8  # of the 16 levels: values are stored from -8 to 7


def is_installed() -> bool:
    return importlib.util.find_spec("torchao") is not None


def tensor_class(weight: torch.Tensor | None) -> str:
    """The name of torchao's tensor class; empty for a tensor of another library."""
    return type(weight).__name__ if hasattr(weight, "tensor_data_names") else ""


def inner_tensors(weight: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a packed weight consists of; none for a plain tensor."""
    names = (*getattr(weight, "tensor_data_names", ()), *getattr(weight, "optional_tensor_data_names", ()))
    return [inner for name in names if (inner := getattr(weight, name)) is not None]


def to_int8(weight: torch.Tensor) -> Any:
    """A dense (out, in) weight as torchao's INT8 tensor, whose nominal dtype is float16 for any compute dtype."""
    from torchao.quantization import Int8Tensor, PerRow

    exact = Int8Tensor.from_hp(weight.float(), PerRow())
    return make_int8(exact.qdata, exact)


def make_int8(qweight: torch.Tensor, like: Any) -> Any:
    """``qweight`` (out, in) with the scales of ``like``."""
    from torchao.quantization import Int8Tensor

    return Int8Tensor(qweight, like.scale, like.block_size, torch.float16, zero_point=like.zero_point)


def to_int4(weight: torch.Tensor) -> Any:
    """A dense (out, in) weight as torchao's INT4 tensor.

    Values are rounded with the scales and zero points as they are stored, in bfloat16, so that packing a dequantized
    weight returns the same values.
    """
    exact = weight.float()
    scale, zero = choose_int4_scales(exact, GROUP_SIZE)
    qweight = quantize_int4(exact, scale.float(), zero.float(), GROUP_SIZE)
    return make_int4(qweight, scale, zero)


def make_int4(qweight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> Any:
    """torchao's INT4 tensor of the weight (qweight - 8) scale + zero.

    Args:
        qweight: (out, in) values from 0 to 15.
        scale: (out, groups) of consecutive inputs.
        zero: (out, groups).
    """
    from torchao.quantization import Int4Tensor

    low, high = (qweight - _OFFSET).to(torch.int8).unflatten(1, (-1, 2)).unbind(2)
    packed = low & 0xF | high << 4
    group_size = qweight.shape[1] // scale.shape[1]
    scale = scale.t().contiguous()
    zero = zero.t().contiguous()
    return Int4Tensor(packed, scale, zero, block_size=[1, group_size], shape=qweight.shape)


def unpack_int4(weight: Any) -> torch.Tensor:
    """The quantized values (out, in) from 0 to 15 of an INT4 tensor, in int32."""
    packed = weight.qdata.to(torch.int32)
    return (torch.stack([packed, packed >> 4], dim=2).flatten(1) + _OFFSET) & 0xF


def dequantize(weight: Any) -> torch.Tensor:
    """The float32 weight (out, in) of a packed one."""
    if tensor_class(weight) == INT8:
        return weight.qdata.float() * weight.scale
    groups = unpack_int4(weight).float().unflatten(1, (len(weight.scale), -1)) - _OFFSET
    return (groups * weight.scale.t().float()[..., None] + weight.zero_point.t().float()[..., None]).flatten(1)


def quantization_config(precision: str, skipped_modules: list[str]) -> Any:
    """The transformers configuration that loads packed weights.

    Args:
        precision: "int8-torchao" or "int4-torchao".
        skipped_modules: full paths of the modules that stay in 16 bits.
    """
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    # The default, True, changes Inductor settings of the whole process.
    if precision.startswith("int8"):
        config = Int8WeightOnlyConfig(version=2, set_inductor_config=False)
    else:
        config = Int4WeightOnlyConfig(group_size=GROUP_SIZE, set_inductor_config=False)
    return TorchAoConfig(config, modules_to_not_convert=skipped_modules)
