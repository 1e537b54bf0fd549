"""Bytes and parameters by component. GB and MB are powers of ten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.quantization import pack_quantized
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.results.schema import COMPONENTS, Size


def _tensor_bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _quant_state_bytes(state: Any) -> int:
    """Bytes of a bitsandbytes QuantState: block scales, code book, and the scales' own scales."""
    if state is None:
        return 0
    own = _tensor_bytes(state.absmax) + _tensor_bytes(state.code) + _tensor_bytes(getattr(state, "offset", None))
    return own + _quant_state_bytes(getattr(state, "state2", None))


def _weights(model: PreTrainedModel, as_stored: bool = True) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and logical parameters of every weight; a tied weight counts once.

    On a CPU that computes 16-bit weights in float32, bytes are those of the 16 bits in a checkpoint, or of the 32 in
    memory if not ``as_stored``. So are those of W8A16 and W4A16, which have zero points in memory alone.
    """
    counted: set[int] = set()
    is_pack_quantized = isinstance(getattr(model, "hf_quantizer", None), pack_quantized.PackQuantizer)
    is_widened = as_stored and model.dtype == torch.float32
    for path, module in model.named_modules():
        for name, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(weight) in counted or name in module._non_persistent_buffers_set:
                continue
            counted.add(id(weight))
            size, num_parameters = _size(module, name, weight)
            if as_stored and is_pack_quantized and torchao_tensors.tensor_class(weight):
                size = pack_quantized.stored_bytes(weight)
            if is_widened and weight.dtype == torch.float32 and not torchao_tensors.tensor_class(weight):
                size -= _tensor_bytes(weight) - _tensor_bytes(weight) // 2
            yield f"{path}.{name}" if path else name, size, num_parameters


def _size(module: Any, name: str, weight: Any) -> tuple[int, int]:
    """Bytes in memory, quantization state included, and logical parameters of a weight of ``module``."""
    size = _tensor_bytes(weight)
    num_parameters = weight.numel()
    inner = torchao_tensors.inner_tensors(weight)
    if inner:
        size = sum(map(_tensor_bytes, inner))
    elif name == "weight" and hasattr(weight, "quant_state"):  # Params4bit: two weights a byte
        size += _quant_state_bytes(weight.quant_state)
        num_parameters = module.in_features * module.out_features
    elif name == "weight" and type(weight).__name__ == "Int8Params":
        size += _tensor_bytes(weight.SCB if weight.SCB is not None else module.state.SCB)
    return size, num_parameters


def _totals(model: PreTrainedModel, as_stored: bool = True) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes and logical parameters by component."""
    names = architecture.get_architecture(model)
    size_by_component = dict.fromkeys(COMPONENTS, 0)
    parameters_by_component = dict.fromkeys(COMPONENTS, 0)
    for name, size, num_parameters in _weights(model, as_stored):
        size_by_component[names.component(name)] += size
        parameters_by_component[names.component(name)] += num_parameters
    return size_by_component, parameters_by_component


def weight_bytes(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of the weights as stored, quantization state included, by component."""
    return _totals(model)[0]


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Logical parameters, counted as if nothing were packed, by component."""
    return _totals(model)[1]


def decode_bytes_and_params(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes in memory and logical parameters that decoding one token reads: the decoder's layers and the lm_head."""
    in_memory, parameters = _totals(model, as_stored=False)
    head = "lm_head" if in_memory["lm_head"] else "embeddings"  # a tied lm_head is the embeddings
    parts = ("decoder attention", "decoder MLP", head)
    return sum(in_memory[part] for part in parts), sum(parameters[part] for part in parts)


def measure(vlm: VLM, disk_bytes: int) -> Size:
    """Size of a built VLM.

    Args:
        vlm: in memory.
        disk_bytes: of its saved weights.
    """
    return Size(weight_bytes(vlm.model), count_parameters(vlm.model), disk_bytes)
