"""Laws of the Triton kernels: they multiply what the weights stand for. Without a GPU Triton interprets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.runtime.triton import gemv, gemv_int4
from vlmcomp.runtime.triton.attention import flash_decode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(24, 160), (40, 2080), (10, 64), (5, 4128)]  # outputs and inputs, beside what programs take together


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations_in_16_bits_are_summed_in_32(dtype: torch.dtype) -> None:
    x, codes, scale = torch.randn(2, 160).to(dtype), torch.randint(-127, 128, (24, 160)), torch.rand(24)
    small = torchao_tensors.to_int4(torch.randn(24, 160))
    pairs = (
        gemv_int4.pack_int4(torchao_tensors.unpack_int4(small), torchao_tensors.GROUP_SIZE),
        gemv_int4.pack_scales_and_zeros(small.scale.t(), small.zero_point.t()),
    )
    halves = gemv_int4.deinterleave(x, torchao_tensors.GROUP_SIZE // 2)
    dense = torch.randn(24, 160).to(dtype)
    for found, weights in (
        (gemv.multiply_int8(x, (codes + 128).to(torch.uint8), scale), codes * scale[:, None]),
        (gemv_int4.multiply_int4(halves, *pairs), torchao_tensors.dequantize(small)),
        (gemv.multiply_dense(x, [dense]), dense.float()),
    ):
        assert found.dtype == dtype
        assert _close(found.float(), x.float() @ weights.float().t(), torch.finfo(dtype).eps)


def _close(found: torch.Tensor, wanted: torch.Tensor, off: float = 1e-5) -> bool:
    return bool((found - wanted).norm() <= off * wanted.norm())


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_int8(outputs: int, inputs: int) -> None:
    x, codes, scale = torch.randn(2, inputs), torch.randint(-127, 128, (outputs, inputs)), torch.rand(outputs)
    packed, dense = (codes + 128).to(torch.uint8), codes * scale[:, None]
    assert torch.equal(gemv.dequantize_int8(packed, scale, torch.float32), dense)
    assert _close(gemv.multiply_int8(x, packed, scale), x @ dense.t(), 1e-3)


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(("outputs", "inputs"), [*SIZES, (10, 128), (6, 1152)])
def test_int4(outputs: int, inputs: int, group_size: int) -> None:
    if inputs % group_size:
        pytest.skip("no whole number of groups")
    x, codes = torch.randn(2, inputs), torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
    scale, zero = torch.randn(2, outputs, inputs // group_size).bfloat16().unbind()
    small = torchao_tensors.make_int4(codes, scale, zero)
    packed, both = gemv_int4.pack_int4(codes, group_size), gemv_int4.pack_scales_and_zeros(scale, zero)
    assert torch.equal(gemv_int4.unpack_int4(packed, group_size).int(), codes)
    assert all(map(torch.equal, gemv_int4.unpack_scales_and_zeros(both), (scale, zero)))
    dense = torchao_tensors.dequantize(small)
    assert _close(gemv_int4.dequantize_int4(packed, both, torch.float32), dense)
    assert _close(
        gemv_int4.multiply_int4(gemv_int4.deinterleave(x, group_size // 2), packed, both),
        x @ dense.t(),
        3e-4,
    )


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 128), (530, 192)])  # the latter with several scales of scales
def test_nf4(outputs: int, inputs: int) -> None:
    x = torch.randn(2, inputs)
    small, state = quantize_4bit(torch.randn(outputs, inputs), quant_type="nf4", compress_statistics=True)
    levels = [state.absmax, state.code, state.state2.code, state.state2.absmax, state.offset]
    found = gemv_int4.multiply_nf4(gemv_int4.deinterleave(x, 1), small.view(outputs, -1), levels)
    assert _close(found, x @ dequantize_4bit(small, state).t())


@pytest.mark.parametrize("outputs", [(24,), (16, 8), (12, 4, 4)])
def test_dense_weights_that_lie_apart(outputs: tuple[int, ...]) -> None:
    x, weights = torch.randn(2, 2100), [torch.randn(rows, 2100) for rows in outputs]
    assert _close(gemv.multiply_dense(x, weights), x @ torch.cat(weights).t())


@pytest.mark.parametrize("size", [(32, 32), (80, 80), (64, 48)])
@pytest.mark.parametrize(("heads", "shared"), [(4, 1), (8, 4)])
@pytest.mark.parametrize(("slots", "filled"), [(200, 130), (128, 5), (64, 64)])
def test_attention(size: tuple[int, int], heads: int, shared: int, slots: int, filled: int) -> None:
    query = torch.randn(1, heads, 1, size[0])
    keys, values = (torch.randn(1, heads // shared, slots, width) for width in size)
    keys[:, :, filled:] = values[:, :, filled:] = float("nan")  # what nobody wrote is not read
    mask = torch.full((1, 1, 1, slots), float("-inf"))
    mask[..., :filled] = 0
    plain = [part[:, :, :filled].repeat_interleave(shared, 1) for part in (keys, values)]
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *plain, scale=0.3)
    assert _close(flash_decode(query, keys, values, mask, 0.3), wanted)
