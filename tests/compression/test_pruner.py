"""Pruning: the rounding rules, then the embedded model and small random ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression.calibration import calibration_batches, text_batches
from vlmcomp.compression.layerwise import LayerCallbacks
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.heads import num_kept_heads
from vlmcomp.compression.pruning.importance import IMPORTANCE_SCORES
from vlmcomp.compression.pruning.plan import num_kept, round_to, slice_linear
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.quantization.quantize import fake_quantize_int4_
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PruningStep, Recipe

CUT_ONLY = PruningMethod(score="activation", reconstruct=False)


@pytest.fixture
def dense() -> VLM:
    vlm = compress(Recipe.parse("llava-shapes/fp16"), device="cpu")
    vlm.model.float()
    return vlm


def _logits(vlm: VLM, samples: list) -> torch.Tensor:
    image, question, _ = samples[0]
    inputs = vlm.processor(images=image, text=vlm.spec.prompt.format(question=question), return_tensors="pt")
    with torch.inference_mode():
        return vlm.model(**inputs.to(vlm.device, vlm.model.dtype)).logits.float()


@pytest.mark.parametrize("total, multiple", [(640, 64), (11008, 128), (8, 1), (4, 1)])
def test_kept_width_is_a_multiple_and_never_grows_with_the_percentage(total: int, multiple: int) -> None:
    last = total
    for percent in range(1, 91):
        try:
            kept = num_kept(total, percent, multiple)
        except ValueError:
            continue
        assert 0 < kept < total and kept % multiple == 0 and kept <= last
        assert abs(kept - total * (100 - percent) / 100) <= multiple / 2
        last = kept
    assert round_to(11008) == 128 and round_to(640) == 64


@pytest.mark.parametrize("total, percent, multiple", [(640, 1, 64), (4, 10, 1), (64, 90, 64)])
def test_a_step_that_removes_nothing_or_everything_is_refused(total: int, percent: int, multiple: int) -> None:
    with pytest.raises(ValueError, match=r"rounds to no removal|leave nothing"):
        num_kept(total, percent, multiple)


@pytest.mark.parametrize(
    "heads, groups, percent, expected",
    [
        (8, 4, 25, (3, 2)),  # whole groups
        (32, 32, 25, (24, 1)),
        (8, 4, 50, (2, 2)),
        (12, 2, 33, (2, 4)),  # two groups: query heads from each
        (8, 1, 25, (1, 6)),  # multi-query
        (28, 4, 25, (3, 7)),
    ],
)
def test_heads_go_by_groups_or_evenly_from_each(heads: int, groups: int, percent: int, expected: tuple) -> None:
    assert num_kept_heads(heads, groups, percent) == expected


def test_a_share_of_heads_that_cannot_be_taken_is_refused_with_the_smallest_step() -> None:
    with pytest.raises(ValueError, match="the smallest step is 25 %"):
        num_kept_heads(8, 4, 10)


def test_slice_linear_keeps_bias_dtype_and_rows() -> None:
    linear, rows = nn.Linear(8, 6, dtype=torch.bfloat16), torch.tensor([0, 3, 5])
    small = slice_linear(linear, kept_rows=rows)
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    torch.testing.assert_close(small(x), linear(x)[:, rows])
    assert small.weight.dtype == torch.bfloat16 and small.weight.numel() == 24


def test_pruned_neurons_equal_zeroed_neurons(dense: VLM, samples: list) -> None:
    zeroed = copy.deepcopy(dense)
    calibration = calibration_batches(dense, synthetic_calibration_data(8))
    before = [layer.down_proj.weight.detach().clone() for layer in architecture.decoder_layers(dense.model)]
    (done,) = prune_decoder_(dense.model, [PruningStep("glu", 30)], calibration, CUT_ONLY)
    assert (done.kept, done.of, done.real_percent) == (448, 640, 30.0)
    for layer, other, full in zip(
        architecture.decoder_layers(dense.model), architecture.decoder_layers(zeroed.model), before
    ):
        assert layer.down_proj.in_features == layer.mlp.gate_proj.out_features == layer.mlp.up_proj.out_features == 448
        kept = (full[:, :, None] == layer.down_proj.weight[:, None, :]).all(0).any(1)
        assert kept.sum() == 448
        with torch.no_grad():
            other.down_proj.weight[:, ~kept] = 0
    assert dense.model.config.text_config.intermediate_size == 448
    torch.testing.assert_close(_logits(dense, samples), _logits(zeroed, samples), rtol=1e-4, atol=1e-4)


def test_pruned_heads_equal_zeroed_heads(dense: VLM, samples: list) -> None:
    zeroed = copy.deepcopy(dense)
    (done,) = prune_decoder_(
        dense.model, [PruningStep("heads", 25)], calibration_batches(dense, synthetic_calibration_data(8)), CUT_ONLY
    )
    assert (done.kept, done.of) == (6, 8)
    for layer, other in zip(architecture.decoder_layers(dense.model), architecture.decoder_layers(zeroed.model)):
        full, small = other.o_proj.weight, layer.o_proj.weight
        assert layer.attention.k_proj.out_features == layer.attention.v_proj.out_features == 3 * 32
        with torch.no_grad():
            kept = (full[:, :, None] == small[:, None, :]).all(0).any(1)
            assert kept.view(4, 64).all(1).sum() == 3, "whole KV groups go"
            full[:, ~kept] = 0
    text = dense.model.config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (6, 3, 32)
    torch.testing.assert_close(_logits(dense, samples), _logits(zeroed, samples), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", IMPORTANCE_SCORES)
def test_as_many_query_heads_go_from_every_group_where_groups_are_few(score: str) -> None:
    model = tiny_llava(heads=8, groups=2)
    zeroed, ids = copy.deepcopy(model), token_ids()
    (done,) = prune_decoder_(
        model, [PruningStep("heads", 25)], text_batches(model, ids), PruningMethod(score=score, reconstruct=False)
    )
    assert (done.kept, done.of, done.real_percent) == (6, 8, 25.0)
    for layer, other in zip(architecture.decoder_layers(model), architecture.decoder_layers(zeroed)):
        full, small = other.o_proj.weight, layer.o_proj.weight
        kept = (full[:, :, None] == small[:, None, :]).all(0).any(1)
        assert kept.view(2, 4, 16).all(2).sum(1).tolist() == [3, 3]
        assert layer.attention.k_proj.out_features == 32, "keys and values stay"
        with torch.no_grad():
            full[:, ~kept] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, zeroed(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_reconstruction_brings_the_outputs_back_to_the_dense_models() -> None:
    dense, ids = tiny_llava(), token_ids(count=64)
    steps = [PruningStep("heads", 25), PruningStep("glu", 50)]
    with torch.no_grad():
        wanted = dense(input_ids=ids).logits
        errors = []
        for reconstruct in (False, True):
            model = copy.deepcopy(dense)
            prune_decoder_(model, steps, text_batches(model, ids), PruningMethod(reconstruct=reconstruct))
            errors.append((model(input_ids=ids).logits - wanted).square().mean().item())
    assert errors[1] < 0.7 * errors[0]


def test_a_refused_step_touches_no_weight(dense: VLM) -> None:
    calibration = calibration_batches(dense, synthetic_calibration_data(2))
    before = copy.deepcopy(dense.model.state_dict())
    with pytest.raises(ValueError, match="rounds to no removal"):
        prune_decoder_(dense.model, [PruningStep("heads", 25), PruningStep("glu", 1)], calibration)
    with pytest.raises(ValueError, match="rounds to no removal"):
        prune_decoder_(dense.model, [PruningStep("heads", 10)], calibration)
    with pytest.raises(ValueError, match="needs calibration"):
        prune_decoder_(dense.model, [PruningStep("heads", 25)], [])
    assert all(torch.equal(v, before[k]) for k, v in dense.model.state_dict().items())


@pytest.mark.usefixtures("few")
def test_the_same_recipe_builds_the_same_weights() -> None:
    first, again = (compress(Recipe.parse("llava-shapes/heads25+glu30+fp16"), device="cpu") for _ in range(2))
    for (name, a), b in zip(first.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(a, b), name
    assert [p.step for p in first.pruned] == ["heads25", "glu30"]


def test_rounding_to_int4_is_what_quantization_then_stores(built: Callable) -> None:
    vlm = copy.deepcopy(built("llava-shapes/fp16"))
    rounded = copy.deepcopy(vlm.model)
    for layer in architecture.decoder_layers(rounded):
        fake_quantize_int4_(layer)
    for (name, dense), (_, near) in zip(architecture.decoder_linears(vlm.model), architecture.decoder_linears(rounded)):
        packed, state = quantize_4bit(dense.weight.data, quant_type="nf4", compress_statistics=True)
        assert torch.equal(near.weight, dequantize_4bit(packed, state)), name
        packed, state = quantize_4bit(near.weight.data, quant_type="nf4", compress_statistics=True)
        again = dequantize_4bit(packed, state)
        first, second = (near.weight - dense.weight).norm(), (again - near.weight).norm()
        assert second < 0.1 * first, f"{name}: rounding twice must cost little more than once"


def test_a_finished_layer_is_what_the_next_one_sees() -> None:
    """With the first layer's MLP zeroed by ``after_edits``, the second's is solved to make up for it."""
    dense, ids = tiny_llava(), token_ids(count=64)

    def silence(layer: architecture.DecoderLayer) -> None:
        if layer.block is blocks[0]:
            layer.down_proj.weight.data.zero_()

    errors = []
    for inside in (True, False):
        model = copy.deepcopy(dense)
        blocks = [layer.block for layer in architecture.decoder_layers(model)]
        prune_decoder_(
            model,
            [PruningStep("glu", 25)],
            text_batches(model, ids),
            callbacks=LayerCallbacks(after_edits=silence) if inside else None,
        )
        silence(architecture.decoder_layers(model)[0])
        with torch.no_grad():
            wanted = dense.model.language_model(input_ids=ids).last_hidden_state
            errors.append((model.model.language_model(input_ids=ids).last_hidden_state - wanted).norm().item())
    assert errors[0] < errors[1]
