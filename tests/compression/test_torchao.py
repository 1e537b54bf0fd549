"""Laws of the weights that torchao packs, and of what multiplies them on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from tests.support.choices import assert_same, plain
from tests.support.made_models import tiny_llava
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.quantize import fake_quantize_int4_, quantize_layer_
from vlmcomp.compression.shape_checks import check_shapes
from vlmcomp.compression.size import count_parameters, decode_bytes_and_params, weight_bytes
from vlmcomp.compression.size_estimate import estimate_weight_bytes
from vlmcomp.models import architecture
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.config import CAPTURE_AFTER_TOKENS, CAPTURED
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import GreedyGenerator
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.weight_sharing import storage_bytes

PRECISIONS = {
    "int8-torchao": (torchao_tensors.to_int8, 0.003),
    "int4-torchao": (torchao_tensors.to_int4, 0.01),
}  # and the error of decoding
MODELS = ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"]
PRUNED = [f"llava-shapes/glu30+{precision}" for precision in PRECISIONS]
LONG = CAPTURE_AFTER_TOKENS + 2


def _settled(precision: str, bias: bool = True) -> tuple[nn.Linear, nn.Module]:
    """A Linear of the weights that the packed ones stand for, and the packed one with its kernel."""
    torch.manual_seed(0)
    dense, small = (nn.Linear(512, 320, bias=bias).requires_grad_(False) for _ in range(2))
    small.weight = nn.Parameter(PRECISIONS[precision][0](dense.weight), requires_grad=False)
    dense.weight.data, small.bias = torchao_tensors.dequantize(small.weight), dense.bias
    holder = nn.Sequential(small)
    assert dispatch.optimize_linears_(holder, precision, torch.device("cpu"))
    return dense, holder


def _weights(model: nn.Module) -> dict[str, list[torch.Tensor]]:
    """What every packed weight consists of, by its name."""
    return {n: parts for n, tensor in model.state_dict().items() if (parts := torchao_tensors.inner_tensors(tensor))}


def _equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = _weights(one), _weights(other)
    alike = (len(p) == len(q) and all(map(torch.equal, p, q)) for p, q in zip(first.values(), second.values()))
    return bool(first) and first.keys() == second.keys() and all(alike)


def _prompts(samples: list) -> tuple[list, list[str]]:
    return [image for image, _, _ in samples], [question for _, question, _ in samples]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_kernel_multiplies_the_packed_weights(precision: str, bias: bool) -> None:
    dense, small = _settled(precision, bias)
    x, allowed = torch.randn(2, 5, 512), PRECISIONS[precision][1]
    for part in (x[:, [1]], x[:1, :1]):
        y, wanted = small(part), dense(part)
        assert y.shape == wanted.shape and (y - wanted).norm() < allowed * wanted.norm()
    assert (small(x) - dense(x)).norm() < 0.03 * dense(x).norm()  # a prompt, in 7 bits where it is INT8
    assert small(x.bfloat16()).dtype == torch.bfloat16
    rows = torch.cat([small(row[None]) for row in x])
    assert torch.allclose(small(x), rows, rtol=1e-4, atol=1e-4)  # a token does not hang on its batch


@pytest.mark.parametrize("outputs", [192, 96, 48])  # some lie in no layout that is known
@torch.no_grad()
def test_a_prompt_is_multiplied_by_unpacked_weights(outputs: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, outputs)
    linear.weight = nn.Parameter(torchao_tensors.to_int4(linear.weight), requires_grad=False)
    wanted, holder = torchao_tensors.dequantize(linear.weight), nn.Sequential(linear)
    dispatch.set_linear_kernel_(holder, dispatch.TINYGEMM)
    assert holder[0].layout or outputs % 64
    x = torch.randn(2, 150, 256)
    exact, got = nn.functional.linear(x, wanted, linear.bias), holder(x)
    few = torch.cat([holder(part) for part in x.split(30, dim=1)], dim=1)
    assert (got - exact).norm() < (1e-5 if holder[0].layout else 0.01) * exact.norm()
    assert (few - exact).norm() < 0.01 * exact.norm() and got.shape == few.shape


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_weights_stay_those_of_torchao(precision: str) -> None:
    from torchao.quantization import Int8Tensor, PerRow

    _, small = _settled(precision)
    torch.manual_seed(0)
    weight = nn.Linear(512, 320).weight.detach()
    made = PRECISIONS[precision][0](weight)
    (held,) = _weights(small).values()
    assert all(map(torch.equal, held, torchao_tensors.inner_tensors(made)))
    assert (torchao_tensors.dequantize(made) - weight).norm() < (0.005 if "8" in precision else 0.065) * weight.norm()
    if "8" in precision:
        assert all(map(torch.equal, held, torchao_tensors.inner_tensors(Int8Tensor.from_hp(weight, PerRow()))))


def test_int4_is_the_rule_of_tinygemm() -> None:
    """Against torchao's own tensor for a CPU: the same codes but for weights between two, and the same product."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    dense, small = _settled("int4-torchao", bias=False)
    theirs = Int4OpaqueTensor.from_hp(dense.weight.bfloat16(), [1, torchao_tensors.GROUP_SIZE])
    x = torch.randn(1, 1, 512)
    wanted = nn.functional.linear(x.bfloat16(), theirs).float()
    assert (small(x) - wanted).norm() < 0.01 * wanted.norm()
    assert (small[0].packed_weight == theirs.qdata).float().mean() > 0.98


def test_rounding_to_int4_gives_what_is_stored() -> None:
    model = tiny_llava()
    layer = architecture.decoder_layers(model)[0]
    before = layer.down_proj.weight.clone()
    fake_quantize_int4_(layer, "int4-torchao")
    rounded = {name: linear.weight.clone() for name, linear in architecture.decoder_linears(model)}
    assert not torch.equal(before, layer.down_proj.weight)
    quantize_layer_(layer, "int4-torchao", torch.float32)
    for name, linear in architecture.decoder_linears(model):
        if torchao_tensors.tensor_class(linear.weight):
            assert torch.equal(torchao_tensors.dequantize(linear.weight), rounded[name])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("recipe", PRUNED)
def test_saved_equals_loaded_before_and_after_answering(recipe: str, samples: list, tmp_path: Path) -> None:
    vlm = compress(Recipe.parse(recipe), device="cpu")
    checkpoint.save(vlm, tmp_path / "before")
    held = weight_bytes(vlm.model), count_parameters(vlm.model), decode_bytes_and_params(vlm.model)
    memory = sum(storage_bytes(vlm.model).values())
    engine = Engine(vlm)
    answers = [engine.generate(i, q, 12).text for i, q, _ in samples]
    assert engine.summary.kernel
    assert (weight_bytes(vlm.model), count_parameters(vlm.model), decode_bytes_and_params(vlm.model)) == held
    assert held[0] == pytest.approx(estimate_weight_bytes(vlm.recipe))
    assert sum(storage_bytes(vlm.model).values()) == memory
    checkpoint.save(vlm, tmp_path / "after")
    for folder in ("before", "after"):
        loaded = checkpoint.load(tmp_path / folder, device="cpu")
        assert _equal(loaded.model, vlm.model) and weight_bytes(loaded.model) == held[0]
        assert (loaded.recipe, loaded.pruned, loaded.quantization_backend) == (
            vlm.recipe,
            vlm.pruned,
            vlm.quantization_backend,
        )
        assert [Engine(loaded).generate(i, q, 12).text for i, q, _ in samples] == answers


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_stock_loader_takes_it_and_sizes_are_those_on_disk(precision: str, tmp_path: Path) -> None:
    recipe = Recipe("llava-shapes", (), precision)
    vlm = compress(recipe, device="cpu")
    checkpoint.save(vlm, tmp_path / "out")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert _equal(stock, vlm.model)
    plain = dict(vlm.model.named_parameters())
    assert all(torch.equal(p, plain[n]) for n, p in stock.named_parameters() if not torchao_tensors.tensor_class(p))
    left = set(dict(architecture.decoder_linears(vlm.model))) ^ {
        name.removesuffix(".weight") for name in _weights(stock)
    }
    assert not left  # every Linear of the decoder and nothing else
    held, disk = weight_bytes(vlm.model), (tmp_path / "out" / "model.safetensors").stat().st_size
    assert sum(held.values()) == pytest.approx(disk, rel=0.02)
    assert held == pytest.approx(estimate_weight_bytes(recipe))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_captured_steps_give_the_tokens_of_generate(model: str, precision: str, built: Callable, samples: list) -> None:
    vlm = built(f"{model}/{precision}")
    Engine(vlm).generate(*samples[0][:2], 1)
    decoder = GreedyGenerator(vlm.model, CAPTURED)
    for image, question, _ in samples[:2]:
        inputs, heard = vlm.encode([image], [question]), []
        decoder.generate(inputs, LONG, LONG, lambda token, at, heard=heard: heard.append(token))
        assert_same(vlm, inputs, heard, plain(vlm, inputs, LONG, LONG))
    decoder.generate(inputs, 2, 2, lambda token, at: None)
    assert decoder.mode == CAPTURED and decoder.capture_seconds > 0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("recipe", PRUNED)
def test_a_batch_answers_as_single_questions_do_and_pruned_steps_are_captured(recipe: str, samples: list) -> None:
    engine = Engine(compress(Recipe.parse(recipe), device="cpu"))
    for image, question, _ in samples[:2]:
        engine.generate(image, question, LONG, LONG)
    singles = [engine.generate(image, question).text for image, question, _ in samples]
    assert engine.summary.decode == CAPTURED and engine.summary.capture_seconds > 0
    assert engine.generate_batch(*_prompts(samples)) == singles


def test_without_torchao_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint.save(compress(Recipe.parse("llava-shapes/int8-torchao"), device="cpu"), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "torchao", None)
    for what in (lambda: compress(Recipe.parse(PRUNED[1]), device="cpu"), lambda: checkpoint.load(tmp_path / "out")):
        with pytest.raises(ValueError, match="pip install torchao") as error:
            what()
        assert "\n" not in str(error.value)
    compress(Recipe.parse("llava-shapes/int8"), device="cpu")


def test_a_width_that_groups_do_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.parse("llava-shapes/heads25+int4-torchao")
    check_shapes(tiny_llava(), recipe.steps, recipe.precision, "cpu")
    with pytest.raises(ValueError, match=r"144 inputs .* INT4 \(torchao\) on a CPU requires a multiple of 32"):
        check_shapes(tiny_llava(head_dim=24), recipe.steps, recipe.precision, "cpu")
    narrow = tiny_llava()
    architecture.decoder_layers(narrow)[0].down_proj.in_features = 80
    with pytest.raises(ValueError, match="requires multiples of 16 x 32: use int4"):
        check_shapes(narrow, (), "int4-torchao", "cpu")
