"""A loaded transformers model, pruned and quantized in place, is what ``compress`` builds."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression.in_place import prune_, quantize_
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PRECISIONS, W4A16, Recipe


@pytest.fixture
def dense(built: Callable) -> VLM:
    return copy.deepcopy(built("llava-shapes/fp16"))


def _weights(model: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Every tensor of the state by name; packed ones by what they consist of."""
    return {name: torchao_tensors.inner_tensors(value) or [value] for name, value in model.state_dict().items()}


def _assert_same_weights(one: torch.nn.Module, other: torch.nn.Module, tolerance: float = 0.0) -> None:
    first, second = _weights(one), _weights(other)
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        for mine, theirs in zip(tensors, second[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("steps", ["glu30", "heads25+glu30"])
def test_pruned_in_place_is_what_compress_builds(steps: str, dense: VLM, samples: list) -> None:
    built = compress(Recipe.parse(f"llava-shapes/{steps}+fp16"), device="cpu", calibration_data=samples)
    results = prune_(dense.model, steps, samples, processor=dense.processor)
    assert results == built.pruned
    # A model that computes in float32 stays so, where compress rounds each layer to the float16 that it stores.
    _assert_same_weights(dense.model, built.model, 0.0 if dense.dtype == torch.bfloat16 else 1e-2)
    assert dense.model.config.text_config.to_dict() == built.model.config.text_config.to_dict()


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_quantized_in_place_is_what_compress_builds(precision: str, dense: VLM, samples: list) -> None:
    data = samples if precision == W4A16 else None
    quantize_(dense.model, precision, data, processor=dense.processor)
    compressed = compress(Recipe.parse(f"llava-shapes/{precision}"), device="cpu", calibration_data=data).model
    _assert_same_weights(dense.model, compressed)
    mine, theirs = dense.model.config.quantization_config, compressed.config.quantization_config
    assert mine.to_dict() == theirs.to_dict() and dense.model.is_quantized


def test_a_decoder_alone_is_pruned_by_token_ids() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 100, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=8)).eval()
    progress: list[float] = []
    (result,) = prune_(model, "glu50", token_ids(), progress=lambda text, fraction: progress.append(fraction))
    assert (result.kept, result.of) == (128, 256) and progress == [0.5, 1.0]
    assert all(layer.down_proj.in_features == 128 for layer in architecture.decoder_layers(model))
    with torch.no_grad():
        assert model(input_ids=token_ids(2)).logits.isfinite().all()


@pytest.mark.parametrize("change", [lambda model: prune_(model, "glu30", []), lambda model: quantize_(model, "int8")])
def test_an_unknown_family_is_one_sentence(change: Callable) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=100))
    with pytest.raises(ValueError, match="the model family 'gpt2' is not supported") as error:
        change(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "steps, reason",
    [
        ("glu", "is not a step"),
        ("glu30+heads25", "in this order"),
        ("vis50", "use vlmcomp.compress"),
        ("ffn30", "use glu30"),
        ("heads5", "rounds to no removal"),
    ],
)
def test_steps_that_do_not_fit_change_nothing(steps: str, reason: str) -> None:
    model = tiny_llava()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=reason):
        prune_(model, steps, token_ids())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_missing_or_too_late_is_named(samples: list) -> None:
    model = tiny_llava()
    with pytest.raises(ValueError, match="processor"):
        prune_(model, "glu50", samples)
    with pytest.raises(ValueError, match="unknown precision 'nf3'"):
        quantize_(model, "nf3")
    with pytest.raises(ValueError, match="w4a16 is rounded by calibration data: give calibration_data"):
        quantize_(model, "w4a16")
    with pytest.raises(ValueError, match="w8a16 needs no calibration data"):
        quantize_(model, "w8a16", token_ids())
    quantize_(model, "int8")
    for change in (lambda: prune_(model, "glu50", token_ids()), lambda: quantize_(model, "int4")):
        with pytest.raises(ValueError, match="already quantized"):
            change()


def test_a_decoder_of_another_layout_is_refused() -> None:
    model = tiny_llava()
    model.config.text_config = AutoConfig.for_model("phi3")
    for change in (lambda: prune_(model, "glu30", token_ids()), lambda: quantize_(model, "int8")):
        with pytest.raises(ValueError, match="its decoder is of the type 'phi3'"):
            change()
    model = tiny_llava()
    del model.model.language_model.layers[1].mlp.gate_proj
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.gate_proj"):
        prune_(model, "glu30", token_ids())
