"""W8A16 and W4A16: symmetric integer weights, in torchao's containers in memory and as ``pack-quantized`` on disk.

``pack-quantized`` of compressed-tensors is what vLLM, SGLang and transformers (with that package) load: for every
quantized Linear the codes plus 8 or 128, packed along the inputs into 32-bit words, the lowest bits first, a scale in
16 bits for every group or row, and the shape. Codes and scales are the same in memory and in the file, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.gptq import RoundedWeight, storable
from vlmcomp.models import architecture
from vlmcomp.models.weight_files import UnusableWeights
from vlmcomp.recipe import W4A16, W8A16

PRECISIONS = (W8A16, W4A16)
FORMAT = "pack-quantized"
_OFFSETS = {4: 0x88, 8: 0x80}  # by bits: flips the highest bit of every code of a byte, which adds 8 or 128


def to_int8(weight: torch.Tensor) -> Any:
    """A dense (out, in) weight rounded to the nearest of 255 levels of its row."""
    weight = weight.float()
    scale = storable(weight.abs().amax(1, keepdim=True) / 127)
    return _int8_tensor((weight / scale).round().clamp(-127, 127).to(torch.int8), scale)


def to_int4(weight: RoundedWeight) -> Any:
    """A rounded weight in torchao's container, whose zero points are 0."""
    scale = weight.scale.bfloat16()
    return torchao_tensors.make_int4(weight.codes.int() + 8, scale, torch.zeros_like(scale))


def _int8_tensor(codes: torch.Tensor, scale: torch.Tensor) -> Any:
    from torchao.quantization import Int8Tensor

    zero = torch.zeros_like(scale, dtype=torch.int8)
    return Int8Tensor(codes, scale, [1, codes.shape[1]], torch.float16, zero_point=zero)


def stored_bytes(weight: Any) -> int:
    """Bytes of a packed weight in a file: the codes and 16-bit scales."""
    return weight.qdata.numel() + 2 * weight.scale.numel()


class PackQuantizedConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of config.json.

    Attributes:
        bits: of a code.
        group_size: inputs that share a scale; None for a scale a row.
        ignored: regular expressions (``re:...``) of the Linears that stay in 16 bits.
    """

    def __init__(self, bits: int, group_size: int | None, ignored: list[str]) -> None:
        self.quant_method = QuantizationMethod.COMPRESSED_TENSORS
        self.bits = bits
        self.group_size = group_size
        self.ignored = ignored

    @property
    def precision(self) -> str:
        return W4A16 if self.bits == 4 else W8A16

    def to_dict(self) -> dict[str, Any]:
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if self.group_size else "channel",
            "group_size": self.group_size,
            "dynamic": False,
        }
        group = {
            "targets": ["Linear"],
            "format": FORMAT,
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
        }
        return {
            "quant_method": self.quant_method.value,
            "format": FORMAT,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": self.ignored,
            "kv_cache_scheme": None,
        }

    @classmethod
    def read(cls, content: dict[str, Any]) -> PackQuantizedConfig:
        """The inverse of ``to_dict``.

        Raises:
            UnusableWeights: an entry that vlmcomp does not write.
        """
        try:
            weights = content["config_groups"]["group_0"]["weights"]
            config = cls(weights["num_bits"], weights["group_size"], content["ignore"])
        except (KeyError, TypeError):
            config = None
        if config is None or config.bits not in _OFFSETS or content.get("format") != FORMAT:
            raise UnusableWeights("config.json describes other quantized weights than vlmcomp writes: build it again")
        return config


class PackQuantizer(HfQuantizer):
    """Lets ``save_pretrained`` write the format, without the package compressed-tensors."""

    requires_calibration = True

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        state: dict[str, torch.Tensor] = {}
        for name, tensor in model.state_dict().items():
            if not torchao_tensors.tensor_class(tensor):
                state[name] = tensor
                continue
            dtype = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float16
            state |= {f"{name}_{part}": stored for part, stored in _to_file(tensor, dtype).items()}
        return state, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def quantization_config(model: PreTrainedModel) -> PackQuantizedConfig:
    """The configuration of a model whose decoder Linears are packed; all have the same kind of codes and scales."""
    weights: list[Any] = [linear.weight for _, linear in architecture.decoder_linears(model)]
    is_int4 = torchao_tensors.tensor_class(weights[0]) == torchao_tensors.INT4
    (group_size,) = {weight.block_size[1] if is_int4 else None for weight in weights}
    return PackQuantizedConfig(4 if is_int4 else 8, group_size, ignored_linears(model))


def ignored_linears(model: PreTrainedModel) -> list[str]:
    """Regular expressions of the parts whose Linears stay in 16 bits; they fit the names in transformers and in vLLM,
    which have other beginnings."""
    paths = architecture.get_architecture(model).skipped_modules()
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    used = [path for path in paths if any(f"{name}.".startswith(f"{path}.") for name in linears)]
    return [f"re:.*{path.rpartition('.')[2]}.*" for path in used]


def _to_file(weight: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a packed weight in a file by the end of their names; scales in ``dtype``."""
    is_int4 = torchao_tensors.tensor_class(weight) == torchao_tensors.INT4
    data = weight.qdata.contiguous().view(torch.uint8) ^ _OFFSETS[4 if is_int4 else 8]
    padded = nn.functional.pad(data, (0, -data.shape[1] % 4))
    scale = weight.scale.t() if is_int4 else weight.scale
    return {
        "packed": padded.view(torch.int32),
        "scale": scale.contiguous().to(dtype),
        "shape": torch.tensor(weight.shape),
    }


class _StoredLinear(nn.Module):
    """Takes the tensors of a file in the place of a Linear."""

    def __init__(self, linear: nn.Linear, config: PackQuantizedConfig) -> None:
        super().__init__()
        rows, columns = linear.out_features, linear.in_features
        words = -(-columns * config.bits // 32)
        groups = columns // config.group_size if config.group_size else 1
        self.weight_packed = _parameter(torch.empty(rows, words, dtype=torch.int32))
        self.weight_scale = _parameter(torch.empty(rows, groups))
        self.weight_shape = _parameter(torch.empty(2, dtype=torch.int64))
        self.bias = linear.bias
        self.in_features, self.bits = columns, config.bits

    def to_linear(self) -> nn.Linear:
        linear = nn.Linear(
            self.in_features, len(self.weight_packed), bias=self.bias is not None, device="meta"
        ).requires_grad_(False)
        linear.bias = self.bias
        num_bytes = self.in_features * self.bits // 8
        data = (self.weight_packed.data.view(torch.uint8)[:, :num_bytes] ^ _OFFSETS[self.bits]).view(torch.int8)
        if self.bits == 8:
            packed = _int8_tensor(data.contiguous(), self.weight_scale.data.float())
        else:
            nibbles = torch.stack([data << 4 >> 4, data >> 4], dim=2).flatten(1)  # with their signs
            packed = to_int4(RoundedWeight(nibbles, self.weight_scale.data.float()))
        linear.weight = _parameter(packed)
        return linear.eval()


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def expect_stored_(model: PreTrainedModel, config: PackQuantizedConfig) -> None:
    """Let the decoder of a model on the meta device take the tensors of a file."""
    for path, linear in list(architecture.decoder_linears(model)):
        model.set_submodule(path, _StoredLinear(linear, config))


def unpack_stored_(model: PreTrainedModel) -> None:
    """Replace what ``expect_stored_`` made, now with the tensors of a file, by Linears with torchao's containers."""
    for path, module in list(model.named_modules()):
        if isinstance(module, _StoredLinear):
            model.set_submodule(path, module.to_linear())
