"""Memory blocks that a model occupies, and one copy of the weights that variants of one model have in common."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear

StorageBytes = dict[tuple[str, int], int]  # (device, address) of a tensor -> its bytes


def storage_bytes(model: nn.Module) -> StorageBytes:
    """Memory of the weights, buffers and quantization states of ``model``.

    A tensor that two models share has the same key in both, so the union of their results is the memory of both.
    """
    sizes: StorageBytes = {}
    for tensor in _all_tensors(model):
        address = id(tensor) if tensor.is_meta else tensor.data_ptr()  # meta stands for memory inside a kernel
        key = str(tensor.device), address
        sizes[key] = max(tensor.numel() * tensor.element_size(), sizes.get(key, 0))
    return sizes


def _all_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield from torchao_tensors.inner_tensors(tensor) or [tensor]
            yield from _quant_state_tensors(getattr(tensor, "quant_state", None))  # bitsandbytes INT4
            if not torchao_tensors.tensor_class(tensor):
                yield from _tensor_attributes(tensor)
        yield from _tensor_attributes(getattr(module, "state", None))  # bitsandbytes INT8 after its first forward


def _quant_state_tensors(state: object | None) -> Iterator[torch.Tensor]:
    if state is not None:
        yield from _tensor_attributes(state)
        yield from _quant_state_tensors(getattr(state, "state2", None))


def _tensor_attributes(owner: object | None) -> Iterator[torch.Tensor]:
    """Tensors that are plain attributes, such as bitsandbytes' scales and code books."""
    return (value for value in getattr(owner, "__dict__", {}).values() if isinstance(value, torch.Tensor))


def clone_sharing_weights(vlm: VLM) -> VLM:
    """A copy of ``vlm`` with its own modules around the same tensors; no engine may have optimized ``vlm`` before."""
    memo = {id(tensor): _rewrap(tensor) for tensor in (*vlm.model.parameters(), *vlm.model.buffers())}
    return replace(vlm, model=copy.deepcopy(vlm.model, memo))


def _rewrap(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, or a new Int8Params around the same memory: bitsandbytes' Linear removes the scales from its own."""
    if type(tensor).__name__ != "Int8Params":
        return tensor
    settings = {name: getattr(tensor, name) for name in ("has_fp16_weights", "CB", "SCB")}
    return type(tensor)(tensor.data, requires_grad=False, **settings)


@torch.no_grad()
def share_weights_(vlm: VLM, others: Sequence[VLM]) -> None:
    """Replace weights of ``vlm`` by equal ones of the same name in ``others``, and free its own.

    Every variant has the vision tower, projector and embeddings of the dense model, and often its attention. Modules
    and their hooks stay separate; weights are only read, so variants may answer at the same time. Packed weights are
    not shared: bitsandbytes moves them.
    """
    for other in others:
        if other.spec.name != vlm.spec.name or other.compute_dtype != vlm.compute_dtype:
            continue
        other_tensors = dict(_shareable_tensors(other.model))
        for name, tensor in _shareable_tensors(vlm.model):
            candidate = other_tensors.get(name)
            if candidate is not None and _equal_elsewhere(tensor, candidate):
                tensor.data = candidate.data
        _share_prepacked_(vlm.model, other.model)


def _share_prepacked_(model: nn.Module, other: nn.Module) -> None:
    """The same for weights that oneDNN has packed in both models."""
    candidates = {name: module for name, module in other.named_modules() if type(module) is PrepackedLinear}
    for name, module in model.named_modules():
        candidate = candidates.get(name)
        if candidate is None or type(module) is not PrepackedLinear:
            continue
        if module.packed_weight is candidate.packed_weight or module.weight.shape != candidate.weight.shape:
            continue
        if torch.equal(module.unpack(), candidate.unpack()):
            module.share_weight_with(candidate)


def _shareable_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and type(tensor) in (nn.Parameter, torch.Tensor):
            yield name, tensor


def _equal_elsewhere(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether ``other`` has the same values and layout in other memory."""
    same_layout = tensor.dtype == other.dtype and tensor.device == other.device and tensor.stride() == other.stride()
    return same_layout and tensor.data_ptr() != other.data_ptr() and torch.equal(tensor, other)
