"""Contracts of the private operations of PyTorch and torchao: what a new version must still do."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from vlmcomp import private_ops
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.runtime.linear import dispatch

OUT, IN, GROUP_SIZE = 64, 96, 32


@pytest.fixture
def qweight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(-127, 128, (OUT, IN), dtype=torch.int8)


@pytest.fixture
def scale() -> torch.Tensor:
    return torch.rand(OUT, generator=torch.Generator().manual_seed(1)) + 0.5


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_cpu_features_are_booleans_and_unknown_ones_are_absent() -> None:
    assert {private_ops.cpu_supports(name) for name in ("avx2", "avx512", "vnni", "amx_tile")} <= {True, False}
    assert not private_ops.cpu_supports("no such extension")


def test_onednn_packs_dense_weights_exactly_and_multiplies_them() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(OUT, IN), torch.randn(OUT), torch.randn(2, 3, IN)
    weight, bias, x = (tensor.to(compute_dtype("cpu")) for tensor in (weight, bias, x))
    packed = private_ops.onednn_pack(weight)
    assert torch.equal(packed.to_dense(), weight)
    tolerance = 8 * torch.finfo(weight.dtype).eps
    for b in (None, bias):
        expected = torch.nn.functional.linear(x, weight, b)
        assert _relative_error(private_ops.onednn_linear(x, packed, b), expected) <= tolerance


@pytest.mark.skipif(not dispatch.has_vnni(), reason="sums overflow without VNNI")
def test_onednn_multiplies_int8_exactly(qweight: torch.Tensor, scale: torch.Tensor) -> None:
    packed = private_ops.onednn_pack_int8(qweight)
    x = torch.randint(0, 256, (5, IN), dtype=torch.uint8)
    y = private_ops.onednn_int8_linear(x, packed, scale, torch.zeros(OUT, dtype=torch.long))
    expected = (x.double() - 128) @ (qweight.double() * scale.double()[:, None]).t()
    assert y.dtype == torch.float32 and _relative_error(y, expected) < 1e-6


def test_fbgemm_unpacks_int8_exactly_and_rounds_activations_to_one_range(
    qweight: torch.Tensor, scale: torch.Tensor
) -> None:
    packed = private_ops.fbgemm_pack_int8(qweight, scale)
    assert torch.equal(private_ops.fbgemm_unpack_int8(packed), qweight)
    x = torch.randint(0, 128, (5, IN)).float()
    x[:, 0], x[:, 1] = 0, 127  # whole levels of a range of 7 bits: nothing is rounded
    expected = x.double() @ (qweight.double() * scale.double()[:, None]).t()
    assert _relative_error(private_ops.fbgemm_int8_linear(x, packed), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tinygemm_multiplies_int4_weights_offset_by_8(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    qweight = torch.randint(0, 16, (OUT, IN), dtype=torch.int32)
    scale_and_zero = (torch.rand(IN // GROUP_SIZE, OUT, 2) + 0.5).to(dtype)
    packed = private_ops.tinygemm_pack_int4(qweight)
    assert packed.shape == (OUT, IN // 2) and packed.dtype == torch.uint8
    x = torch.randn(3, IN).to(dtype)
    scale, zero = (part.t().float().repeat_interleave(GROUP_SIZE, 1) for part in scale_and_zero.unbind(2))
    expected = x.float() @ ((qweight - 8) * scale + zero).t()
    y = private_ops.tinygemm_int4_linear(x, packed, GROUP_SIZE, scale_and_zero)
    assert y.dtype == dtype and _relative_error(y, expected) < 0.02


def test_torchao_rounds_to_the_nearest_level_of_a_group() -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN)
    scale, zero = private_ops.choose_int4_scales(weight, GROUP_SIZE)
    assert scale.dtype == zero.dtype == torch.bfloat16 and scale.shape == zero.shape == (OUT, IN // GROUP_SIZE)
    values = private_ops.quantize_int4(weight, scale.float(), zero.float(), GROUP_SIZE)
    assert values.dtype == torch.int32 and values.min() >= 0 and values.max() <= 15
    wide_scale, wide_zero = (part.float().repeat_interleave(GROUP_SIZE, 1) for part in (scale, zero))
    error = ((values - 8) * wide_scale + wide_zero - weight).abs()
    inside = (values > 0) & (values < 15)
    assert (error <= 0.51 * wide_scale)[inside].all()


def test_a_traced_product_gives_the_same_with_other_activations(qweight: torch.Tensor, scale: torch.Tensor) -> None:
    packed = private_ops.fbgemm_pack_int8(qweight, scale)
    x, other = torch.rand(2, IN), torch.rand(2, IN)
    traced = make_fx(lambda x: private_ops.fbgemm_int8_linear(x, packed))(x)
    assert torch.equal(traced(other), private_ops.fbgemm_int8_linear(other, packed))
