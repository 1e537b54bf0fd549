"""Laws of the Linears that a GPU computes with: they multiply by what was packed, few tokens and many, and are saved as
they were. Without a GPU Triton interprets their kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from tests.support.choices import assert_equal, stored
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.quantize import quantize_linear
from vlmcomp.runtime import weight_sharing
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.linear import gpu as gpu_linear
from vlmcomp.runtime.linear.gpu import MAX_GEMV_TOKENS, DenseLinear, Nf4Linear, TorchaoInt4Linear
from vlmcomp.runtime.linear.int8 import BnbInt8Linear, TorchaoInt8Linear
from vlmcomp.runtime.triton import gemv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_REASON = "Failed to find C compiler."
TOKENS = (1, MAX_GEMV_TOKENS, MAX_GEMV_TOKENS + 1)
FORMS = {
    "fp16": DenseLinear,
    "int8": BnbInt8Linear,
    "int4": Nf4Linear,
    "int8-torchao": TorchaoInt8Linear,
    "int4-torchao": TorchaoInt4Linear,
    "w8a16": TorchaoInt8Linear,
    "w4a16": TorchaoInt4Linear,
}


class Attention(nn.Module):
    """Three Linears that are given the same tensor, and one that is not."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(128, out, bias=bias) for out in (64, 32, 32))
        self.o_proj = nn.Linear(64, 48, bias=bias)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return [query, key, value, self.o_proj(query)]


def _packed(precision: str, bias: bool) -> Attention:
    block = Attention(bias).to(DEVICE).eval().requires_grad_(False)
    for name, linear in list(block.named_children()):
        if precision != "fp16":
            block.set_submodule(name, quantize_linear(name, linear, precision, torch.float32))
    return block


def _dense(linear: nn.Module) -> torch.Tensor:
    if torchao_tensors.tensor_class(linear.weight):
        return torchao_tensors.dequantize(linear.weight)
    if (state := getattr(linear.weight, "quant_state", None)) is not None:
        return dequantize_4bit(linear.weight.data, state)
    if linear.weight.dtype == torch.int8:
        return linear.weight.data.float() * linear.weight.SCB[:, None] / 127
    return linear.weight.data


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", FORMS)
def test_it_multiplies_what_was_packed(precision: str, bias: bool) -> None:
    block = _packed(precision, bias)
    plain = Attention(bias).to(DEVICE)
    for mine, theirs in zip(plain.children(), block.children()):
        mine.weight.data, mine.bias = _dense(theirs).clone(), theirs.bias
    dispatch.set_linear_kernel_(block, dispatch.TRITON_DENSE if precision == "fp16" else dispatch.TRITON)
    assert {type(linear) for linear in block.children()} == {FORMS[precision]}
    many = precision != "int4" or DEVICE == "cuda"  # a CPU's bitsandbytes repacks its weights for a prompt
    for tokens in TOKENS if many else TOKENS[:-1]:
        x = torch.randn(1, tokens, 128, device=DEVICE)
        with torch.inference_mode():
            pairs = zip(block(x), plain(x))
            assert all((found - wanted).norm() <= 1e-3 * wanted.norm() for found, wanted in pairs)


@pytest.mark.parametrize("precision", FORMS)
def test_it_is_saved_as_it_was_packed(precision: str) -> None:
    block = _packed(precision, bias=True)
    before = stored(block)
    weight = sum(weight_sharing.storage_bytes(block).values())
    dispatch.set_linear_kernel_(block, dispatch.TRITON_DENSE if precision == "fp16" else dispatch.TRITON)
    assert_equal(stored(block), before)
    assert sum(weight_sharing.storage_bytes(block).values()) == weight  # nothing lies there twice


def test_dense_weights_may_move_to_where_a_twin_has_them() -> None:
    block, other = _packed("fp16", bias=False), _packed("fp16", bias=False)
    dispatch.set_linear_kernel_(block, dispatch.TRITON_DENSE)
    for mine, theirs in zip(block.parameters(), other.parameters()):
        mine.data = theirs.data
    x = torch.randn(1, 1, 128, device=DEVICE)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(block(x), other(x)))


def test_kernels_that_cannot_be_made_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs, device = gpu_linear._triton_runs.__wrapped__, torch.device(DEVICE)
    assert runs(device, 0) and not caplog.messages and not gpu_linear.triton_available(torch.device("cpu"))

    def refuse(*args: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nand more")

    monkeypatch.setattr(gemv, "multiply_int8", refuse)
    assert not runs(device, 0)
    assert caplog.messages == ["Triton's kernels do not run here, the libraries' own do instead: " + _REASON]


def test_a_copy_shares_its_product_with_nobody() -> None:
    block = _packed("int8", bias=False)
    dispatch.set_linear_kernel_(block, dispatch.TRITON)
    clone, x = copy.deepcopy(block), torch.randn(1, 1, 128, device=DEVICE)
    assert clone.q_proj.projection is clone.k_proj.projection is not block.q_proj.projection
    assert all(torch.equal(a, b) for a, b in zip(block(x), clone(x)))
