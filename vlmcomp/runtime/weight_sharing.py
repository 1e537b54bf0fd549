"""Which memory a model lies in, and one copy of what variants of one model have in common."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear

Pieces = dict[tuple[str, int], int]  # (device, address) of a tensor -> its bytes


def pieces(model: nn.Module) -> Pieces:
    """Where the weights, buffers and quantization states of ``model`` lie. What two models share has one key, so that
    the union of their pieces is the memory that they take together."""
    found: Pieces = {}
    for tensor in _tensors(model):
        place = id(tensor) if tensor.is_meta else tensor.data_ptr()  # on meta: a kernel holds what it stands for
        key, size = (str(tensor.device), place), tensor.numel() * tensor.element_size()
        found[key] = max(size, found.get(key, 0))
    return found


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield from torchao_tensors.parts(tensor) or [tensor]
            yield from _states(getattr(tensor, "quant_state", None))  # bitsandbytes INT4
            yield from _inner(tensor) if not torchao_tensors.kind(tensor) else ()
        yield from _inner(getattr(module, "state", None))  # bitsandbytes INT8, once it has answered


def _states(state: object | None) -> Iterator[torch.Tensor]:
    if state is not None:
        yield from _inner(state)
        yield from _states(getattr(state, "state2", None))


def _inner(holder: object | None) -> Iterator[torch.Tensor]:
    """Tensors that are plain attributes: bitsandbytes keeps scales and code books so."""
    return (value for value in getattr(holder, "__dict__", {}).values() if isinstance(value, torch.Tensor))


def twin(vlm: VLM) -> VLM:
    """A ``vlm`` that no engine has taken yet, once more, with modules of its own around the same tensors."""
    memo = {id(tensor): _again(tensor) for tensor in (*vlm.model.parameters(), *vlm.model.buffers())}
    return replace(vlm, model=copy.deepcopy(vlm.model, memo))


def _again(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, or bitsandbytes' INT8 anew around the same memory: its Linear takes the scales away from it."""
    if type(tensor).__name__ != "Int8Params":
        return tensor
    settings = {name: getattr(tensor, name) for name in ("has_fp16_weights", "CB", "SCB")}
    return type(tensor)(tensor.data, requires_grad=False, **settings)


@torch.no_grad()
def share(vlm: VLM, others: Sequence[VLM]) -> None:
    """Let the weights of ``vlm`` lie where equal ones of the same name lie in ``others``, and free its own.

    Every variant keeps its vision tower, projector and embeddings, and often the attention, as the dense model has
    them. Modules, and the hooks on them, stay each variant's own; weights are only read, so that variants may answer
    at the same time. Packed weights are left alone: bitsandbytes moves them about.
    """
    for other in others:
        if other.spec.name != vlm.spec.name or other.dtype_computed != vlm.dtype_computed:
            continue
        theirs = dict(_plain(other.model))
        for name, tensor in _plain(vlm.model):
            twin = theirs.get(name)
            if twin is not None and _equal(tensor, twin):
                tensor.data = twin.data
        _borrow(vlm.model, other.model)


def _borrow(model: nn.Module, other: nn.Module) -> None:
    """The same for weights that oneDNN has laid out in both."""
    theirs = {name: module for name, module in other.named_modules() if type(module) is PrepackedLinear}
    for name, module in model.named_modules():
        twin = theirs.get(name)
        if twin is None or type(module) is not PrepackedLinear or module.laid is twin.laid:
            continue
        if module.weight.shape == twin.weight.shape and torch.equal(module.dense(), twin.dense()):
            module.borrow(twin)


def _plain(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and type(tensor) in (nn.Parameter, torch.Tensor):
            yield name, tensor


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = one.dtype == other.dtype and one.device == other.device and one.stride() == other.stride()
    return alike and one.data_ptr() != other.data_ptr() and torch.equal(one, other)
