"""Pruning: pure functions on tensors first, then the embedded model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from vlmcomp import anatomy
from vlmcomp.build import build, calibration_samples
from vlmcomp.calibrate import sequences
from vlmcomp.prune.heads import prune_heads
from vlmcomp.prune.importance import SCORES, by_group
from vlmcomp.prune.neurons import prune_neurons
from vlmcomp.prune.reconstruct import least_squares
from vlmcomp.prune.surgery import kept_count, narrow, width_multiple
from vlmcomp.recipe import Recipe, Step
from vlmcomp.vlm import VLM


def _gram(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x / len(x)


@pytest.fixture
def dense() -> VLM:
    vlm = build(Recipe.parse("llava-shapes/fp16"), device="cpu")
    vlm.model.float()
    return vlm


def _logits(vlm: VLM, samples: list) -> torch.Tensor:
    image, question, _ = samples[0]
    inputs = vlm.processor(images=image, text=vlm.entry.prompt.format(question=question), return_tensors="pt")
    with torch.inference_mode():
        return vlm.model(**inputs.to(vlm.device, vlm.model.dtype)).logits.float()


@pytest.mark.parametrize("total, multiple", [(640, 64), (11008, 128), (8, 1), (4, 1)])
def test_kept_width_is_a_multiple_and_never_grows_with_the_percentage(total: int, multiple: int) -> None:
    last = total
    for percent in range(1, 91):
        try:
            kept = kept_count(total, percent, multiple)
        except ValueError:
            continue
        assert 0 < kept < total and kept % multiple == 0 and kept <= last
        assert abs(kept - total * (100 - percent) / 100) <= multiple / 2
        last = kept
    assert width_multiple(11008) == 128 and width_multiple(640) == 64


@pytest.mark.parametrize("total, percent, multiple", [(640, 1, 64), (4, 10, 1), (64, 90, 64)])
def test_a_step_that_removes_nothing_or_everything_is_refused(total: int, percent: int, multiple: int) -> None:
    with pytest.raises(ValueError, match=r"rounds to no removal|leave nothing"):
        kept_count(total, percent, multiple)


def test_narrow_keeps_bias_dtype_and_rows() -> None:
    linear, rows = nn.Linear(8, 6, dtype=torch.bfloat16), torch.tensor([0, 3, 5])
    small = narrow(linear, outputs=rows)
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    torch.testing.assert_close(small(x), linear(x)[:, rows])
    assert small.weight.dtype == torch.bfloat16 and small.weight.numel() == 24


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_finite_and_one_per_unit(score: str) -> None:
    x = torch.randn(50, 16)
    x[:, 3] = 0
    values = SCORES[score](torch.randn(8, 16), _gram(x))
    assert values.shape == (16,) and values.isfinite().all()
    assert by_group(values, 4).shape == (4,)


def test_a_silent_unit_matters_least_to_the_activation_score() -> None:
    x = torch.randn(50, 16)
    x[:, 3] = 0
    assert SCORES["activation"](torch.randn(8, 16), _gram(x)).argmin() == 3


def test_least_squares_is_exact_where_the_removed_units_depend_on_the_kept() -> None:
    torch.manual_seed(0)
    free = torch.randn(200, 6)
    x = torch.cat([free, free @ torch.randn(6, 4)], 1)
    weight, keep = torch.randn(5, 10), torch.arange(6)
    solved = least_squares(weight, _gram(x), keep, ridge=1e-9)
    torch.testing.assert_close(x[:, :6] @ solved.T, x @ weight.T, rtol=1e-3, atol=1e-3)


def test_least_squares_never_fits_worse_than_cutting() -> None:
    torch.manual_seed(1)
    x = torch.randn(400, 12) @ torch.randn(12, 12)
    weight, keep = torch.randn(7, 12), torch.tensor([0, 2, 3, 5, 8, 11])
    full = x @ weight.T
    solved = least_squares(weight, _gram(x), keep)
    assert (x[:, keep] @ solved.T - full).norm() < (x[:, keep] @ weight[:, keep].T - full).norm()


@pytest.mark.parametrize(
    "x", [torch.zeros(5, 8), torch.ones(5, 8), torch.randn(2, 8)], ids=["zero", "constant", "rank 2"]
)
def test_poor_calibration_degrades_gracefully(x: torch.Tensor) -> None:
    solved = least_squares(torch.randn(4, 8), _gram(x), torch.arange(5))
    assert solved.isfinite().all() and solved.norm() < 100


def test_keeping_everything_changes_nothing() -> None:
    weight = torch.randn(4, 8)
    torch.testing.assert_close(least_squares(weight, _gram(torch.randn(50, 8)), torch.arange(8)), weight)


def test_pruned_neurons_equal_zeroed_neurons(dense: VLM, samples: list) -> None:
    zeroed = copy.deepcopy(dense)
    calibration = sequences(dense, calibration_samples(8))
    before = [layer.down.weight.detach().clone() for layer in anatomy.layers(dense.model)]
    done = prune_neurons(dense, Step("glu", 30), calibration, reconstruct=False)
    assert (done.kept, done.of, done.real_percent) == (448, 640, 30.0)
    for layer, twin, full in zip(anatomy.layers(dense.model), anatomy.layers(zeroed.model), before):
        assert layer.down.in_features == layer.mlp.gate_proj.out_features == layer.mlp.up_proj.out_features == 448
        kept = (full[:, :, None] == layer.down.weight[:, None, :]).all(0).any(1)
        assert kept.sum() == 448
        with torch.no_grad():
            twin.down.weight[:, ~kept] = 0
    assert dense.model.config.text_config.intermediate_size == 448
    torch.testing.assert_close(_logits(dense, samples), _logits(zeroed, samples), rtol=1e-4, atol=1e-4)


def test_pruned_heads_equal_zeroed_heads(dense: VLM, samples: list) -> None:
    zeroed = copy.deepcopy(dense)
    done = prune_heads(dense, Step("heads", 25), sequences(dense, calibration_samples(8)), reconstruct=False)
    assert (done.kept, done.of) == (6, 8)
    for layer, twin in zip(anatomy.layers(dense.model), anatomy.layers(zeroed.model)):
        full, small = twin.output.weight, layer.output.weight
        assert layer.attention.k_proj.out_features == layer.attention.v_proj.out_features == 3 * 32
        with torch.no_grad():
            kept = (full[:, :, None] == small[:, None, :]).all(0).any(1)
            assert kept.view(4, 64).all(1).sum() == 3, "whole KV groups go"
            full[:, ~kept] = 0
    text = dense.model.config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (6, 3, 32)
    torch.testing.assert_close(_logits(dense, samples), _logits(zeroed, samples), rtol=1e-4, atol=1e-4)


def test_a_refused_step_touches_no_weight(dense: VLM) -> None:
    calibration = sequences(dense, calibration_samples(2))
    before = copy.deepcopy(dense.model.state_dict())
    with pytest.raises(ValueError, match="rounds to no removal"):
        prune_neurons(dense, Step("glu", 1), calibration)
    with pytest.raises(ValueError, match="rounds to no removal"):
        prune_heads(dense, Step("heads", 10), calibration)
    assert all(torch.equal(v, before[k]) for k, v in dense.model.state_dict().items())


def test_calibration_needs_samples(dense: VLM) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        sequences(dense, [])


def test_the_same_recipe_builds_the_same_weights(built: Callable) -> None:
    text = "llava-shapes/heads25+glu30+fp16"
    first, again = built(text), build(Recipe.parse(text), device="cpu")
    for (name, a), b in zip(first.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(a, b), name
    assert [p.step for p in first.pruned] == ["heads25", "glu30"]
