"""Bytes and parameters by part. GB and MB are powers of ten."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.results.schema import PARTS, Size


def _tensor_bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _state_bytes(state: object | None) -> int:
    """Bytes of a bitsandbytes QuantState: block scales, code book, and the scales' own scales."""
    if state is None:
        return 0
    own = _tensor_bytes(state.absmax) + _tensor_bytes(state.code) + _tensor_bytes(getattr(state, "offset", None))
    return own + _state_bytes(getattr(state, "state2", None))


def _weights(model: PreTrainedModel, stored: bool = True) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and logical parameters of every weight; a tied weight counts once.

    Where the CPU makes 16-bit weights compute in float32, they count the 16 bits in which they are ``stored``, or else
    the 32 in which they lie in memory.
    """
    seen: set[int] = set()
    widened = stored and model.dtype == torch.float32
    for path, module in model.named_modules():
        for name, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = f"{path}.{name}" if path else name
            if id(weight) in seen or name in module._non_persistent_buffers_set:
                continue
            seen.add(id(weight))
            extra, logical = 0, weight.numel()
            size = _tensor_bytes(weight) // (2 if widened and weight.dtype == torch.float32 else 1)
            if inner := torchao_tensors.parts(weight):
                size = sum(map(_tensor_bytes, inner))
            elif name == "weight" and hasattr(weight, "quant_state"):  # Params4bit: two weights a byte
                extra, logical = _state_bytes(weight.quant_state), module.in_features * module.out_features
            elif name == "weight" and type(weight).__name__ == "Int8Params":
                scale = weight.SCB if weight.SCB is not None else module.state.SCB
                extra = _tensor_bytes(scale)
            yield full, size + extra, logical


def weight_bytes(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of the weights as stored, quantization state included, by part of ``report.PARTS``."""
    names, totals = architecture.of(model), dict.fromkeys(PARTS, 0)
    for name, held, _ in _weights(model):
        totals[names.part(name)] += held
    return totals


def parameters(model: PreTrainedModel) -> dict[str, int]:
    """Logical parameters, counted as if nothing were packed, by part of ``report.PARTS``."""
    names, totals = architecture.of(model), dict.fromkeys(PARTS, 0)
    for name, _, logical in _weights(model):
        totals[names.part(name)] += logical
    return totals


def read_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes in memory and logical parameters of what decoding a token reads: the decoder's layers and the lm_head."""
    names, held, logical = architecture.of(model), dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, size, count in _weights(model, stored=False):
        held[names.part(name)] += size
        logical[names.part(name)] += count
    head = "lm_head" if held["lm_head"] else "embeddings"  # tied: the embeddings are the lm_head
    parts = ("decoder attention", "decoder MLP", head)
    return sum(held[p] for p in parts), sum(logical[p] for p in parts)


def measure(vlm: VLM, disk_bytes: int) -> Size:
    """Size of a built VLM; ``disk_bytes`` is that of its saved weights."""
    return Size(weight_bytes(vlm.model), parameters(vlm.model), disk_bytes)
