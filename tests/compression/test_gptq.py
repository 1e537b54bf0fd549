"""Laws of rounding by GPTQ."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlmcomp.compression.quantization import gptq


def _problem(rows: int = 48, columns: int = 256, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the Gram matrix of correlated inputs of which some are far larger than others."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    size = torch.randn(columns, generator=generator).exp()
    x = torch.randn(tokens, columns, generator=generator) @ mixing * size
    return weight, x.T @ x / tokens


def _error(weight: torch.Tensor, rounded: gptq.RoundedWeight, gram: torch.Tensor) -> torch.Tensor:
    return gptq.output_error(weight, rounded, gram)


@pytest.mark.parametrize("group_size", gptq.GROUP_SIZES)
def test_with_an_identity_gram_matrix_it_is_rounding_to_nearest(group_size: int) -> None:
    weight, _ = _problem()
    rounded = gptq.quantize(weight, torch.eye(256), group_size)
    assert torch.equal(rounded.codes, gptq.round_to_nearest(weight, rounded.scale))
    assert torch.equal(rounded.scale, gptq.choose_scales(weight, torch.ones(256), group_size))


def test_no_row_is_worse_than_rounding_to_nearest_and_the_whole_is_much_better() -> None:
    weight, gram = _problem()
    rounded = gptq.quantize(weight, gram, 128)
    for clip in (True, False):
        scale = gptq.choose_scales(weight, torch.ones(256), 128, clip=clip)
        nearest = gptq.RoundedWeight(gptq.round_to_nearest(weight, scale), scale)
        if not clip:
            assert (_error(weight, rounded, gram) <= _error(weight, nearest, gram) * (1 + 1e-5)).all()
        assert _error(weight, rounded, gram).sum() < 0.6 * _error(weight, nearest, gram).sum()


def test_codes_of_a_small_weight_are_close_to_the_best_ones() -> None:
    """Against all codes of two correlated columns."""
    weight = torch.tensor([[0.37, 0.36], [1.0, 0.45], [-0.13, -0.66]])
    gram = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    scale = torch.full((3, 1), 0.25)
    found = gptq.output_error(weight, gptq.RoundedWeight(gptq.round_columns(weight, gram, scale), scale), gram)
    every = torch.tensor(list(itertools.product(range(-8, 8), repeat=2)), dtype=torch.int8)
    best = torch.stack(
        [gptq.output_error(weight, gptq.RoundedWeight(codes.expand(3, 2), scale), gram) for codes in every]
    ).amin(0)
    nearest = gptq.RoundedWeight(gptq.round_to_nearest(weight, scale), scale)
    assert (found <= 1.5 * best + 1e-6).all() and found.sum() < gptq.output_error(weight, nearest, gram).sum()


def test_a_whole_weight_is_rounded_as_its_rows_are() -> None:
    weight, gram = _problem()
    whole = gptq.quantize(weight, gram, 64)
    part = gptq.quantize(weight[8:16], gram, 64)
    assert (whole.codes[8:16] == part.codes).float().mean() > 0.999
    assert torch.equal(whole.scale[8:16], part.scale)


def test_scales_are_values_of_both_16_bit_dtypes_and_so_are_the_weights_of_float16() -> None:
    weight, gram = _problem()
    weight[:4] *= 1e-6
    weight[4] = 0
    rounded = gptq.quantize(weight, gram, 64)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(rounded.scale.to(dtype).float(), rounded.scale)
    assert torch.equal(rounded.dequantize().half().float(), rounded.dequantize())
    assert not rounded.codes[4].any()


@pytest.mark.parametrize("kind", ["silent", "one token", "dead columns", "huge", "tiny"])
def test_any_gram_matrix_gives_finite_codes_that_are_no_worse_than_nearest(kind: str) -> None:
    weight, gram = _problem()
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(1))
    kinds = {"silent": gram * 0, "one token": x.T @ x, "dead columns": gram.clone(), "huge": gram * 1e12}
    gram = kinds.get(kind, gram * 1e-18)
    if kind == "dead columns":
        gram[:, 64:128] = gram[64:128] = 0
    rounded = gptq.quantize(weight, gram, 64)
    assert rounded.scale.isfinite().all() and (rounded.dequantize() - weight).norm() < 0.3 * weight.norm()
    scale = gptq.choose_scales(weight, torch.ones(256), 64, clip=False)
    nearest = gptq.RoundedWeight(gptq.round_to_nearest(weight, scale), scale)
    assert _error(weight, rounded, gram).sum() <= _error(weight, nearest, gram).sum() * (1 + 1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused(value: float) -> None:
    gram = torch.eye(32)
    gram[3, 5] = gram[5, 3] = value
    with pytest.raises(ValueError, match="no finite numbers"):
        gptq.quantize(torch.ones(4, 32), gram, 32)
