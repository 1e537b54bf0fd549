"""Laws of W8A16 and W4A16 from building to loading, in vlmcomp and in stock transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression import checkpoint
from vlmcomp.compression.calibration import text_batches
from vlmcomp.compression.in_place import prune_, quantize_
from vlmcomp.compression.layerwise import LayerCallbacks
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import prune_decoder_
from vlmcomp.compression.quantization import gptq, pack_quantized, rounding
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.shape_checks import check_shapes, gptq_group_size
from vlmcomp.compression.size import count_parameters, decode_bytes_and_params, weight_bytes
from vlmcomp.compression.size_estimate import estimate_weight_bytes
from vlmcomp.models import architecture
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.weight_sharing import storage_bytes

RECIPES = [
    *("llava-shapes/w8a16", "llava-shapes/heads25+glu30+w4a16", "qwen2-vl-shapes/w8a16"),
    *("qwen2-vl-shapes/glu30+w4a16", "blip2-shapes/w4a16", "paligemma-shapes/vis50+w4a16"),
]


def _weights(model: nn.Module) -> dict[str, list[torch.Tensor]]:
    return {n: torchao_tensors.inner_tensors(tensor) or [tensor] for n, tensor in model.state_dict().items()}


def _assert_equal(one: nn.Module, other: nn.Module) -> None:
    first, second = _weights(one), _weights(other)
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        assert all(map(torch.equal, tensors, second[name])), name


def _dense(model: nn.Module) -> dict[str, torch.Tensor]:
    return {path: torchao_tensors.dequantize(linear.weight) for path, linear in architecture.decoder_linears(model)}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("recipe", RECIPES)
def test_saved_equals_loaded_before_and_after_answering(recipe: str, samples: list, tmp_path: Path) -> None:
    vlm = compress(Recipe.parse(recipe), device="cpu")
    checkpoint.save(vlm, tmp_path / "before")
    held = weight_bytes(vlm.model), count_parameters(vlm.model), decode_bytes_and_params(vlm.model)
    memory = sum(storage_bytes(vlm.model).values())
    engine = Engine(vlm)
    answers = [engine.generate(i, q, 12).text for i, q, _ in samples[:4]]
    assert engine.summary.kernel
    assert (weight_bytes(vlm.model), count_parameters(vlm.model), decode_bytes_and_params(vlm.model)) == held
    assert held[0] == pytest.approx(estimate_weight_bytes(vlm.recipe))
    assert sum(held[0].values()) == pytest.approx((tmp_path / "before" / "model.safetensors").stat().st_size, rel=0.03)
    assert sum(storage_bytes(vlm.model).values()) == memory
    checkpoint.save(vlm, tmp_path / "after")
    for folder in ("before", "after"):
        loaded = checkpoint.load(tmp_path / folder, device="cpu")
        _assert_equal(loaded.model, vlm.model)
        assert weight_bytes(loaded.model) == held[0]
        assert (loaded.recipe, loaded.pruned, loaded.quantization_backend) == (
            *(vlm.recipe, vlm.pruned, vlm.quantization_backend),
        )
        assert [Engine(loaded).generate(i, q, 12).text for i, q, _ in samples[:4]] == answers


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("recipe", ["llava-shapes/heads25+glu30+w4a16", "qwen2-vl-shapes/w8a16", "blip2-shapes/w4a16"])
def test_stock_transformers_computes_with_the_stored_values(recipe: str, samples: list, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    vlm = compress(Recipe.parse(recipe), device="cpu")
    checkpoint.save(vlm, tmp_path / "out")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    inputs = vlm.encode([samples[0][0]], [samples[0][1]])
    with torch.no_grad():
        found = stock(**inputs).logits  # the first pass decompresses the weights
    dense = _dense(vlm.model)
    for path, linear in architecture.decoder_linears(stock):
        assert torch.equal(linear.weight, dense[path]), path
        linear.weight = nn.Parameter(dense[path])
    assert len(dense) == sum(1 for _ in architecture.decoder_linears(stock)) and found.isfinite().all()


def test_the_config_names_one_group_and_leaves_only_the_other_parts_alone(tmp_path: Path) -> None:
    for name in ("llava-shapes", "qwen2-vl-shapes", "blip2-shapes", "paligemma-shapes"):
        vlm = compress(Recipe.parse(f"{name}/w8a16"), device="cpu")
        content = vlm.model.config.quantization_config.to_dict()
        assert list(content["config_groups"]) == ["group_0"] and json.loads(json.dumps(content)) == content
        assert pack_quantized.PackQuantizedConfig.read(content).to_dict() == content
        decoder = {path for path, _ in architecture.decoder_linears(vlm.model)}
        patterns = [re.compile(pattern.removeprefix("re:")) for pattern in content["ignore"]]
        for path, module in vlm.model.named_modules():
            if isinstance(module, nn.Linear):
                assert any(map(lambda p, path=path: p.match(path), patterns)) == (path not in decoder), path


def _text_model() -> tuple[nn.Module, list]:
    model = tiny_llava(width=384)
    return model, text_batches(model, token_ids())


def test_every_linear_is_rounded_no_worse_than_to_nearest() -> None:
    """On the Gram matrix that the walk gives to each of them."""
    seen: list[int] = []
    original = gptq.quantize

    def watched(weight: torch.Tensor, gram: torch.Tensor, group_size: int) -> gptq.RoundedWeight:
        rounded = original(weight, gram, group_size)
        scale = gptq.choose_scales(weight, torch.ones(weight.shape[1]), group_size, clip=False)
        nearest = gptq.RoundedWeight(gptq.round_to_nearest(weight, scale), scale)
        errors = [gptq.output_error(weight, each, gram).sum() for each in (rounded, nearest)]
        assert errors[0] <= errors[1] * (1 + 1e-5)
        seen.append(len(weight))
        return rounded

    model, batches = _text_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, "quantize", watched)
        prune_decoder_(model, (PruningStep("glu", 30),), batches, round_linears=rounding.gptq_rounding(64))
    assert seen == [3 * 128, 128, 2 * 384, 128] * 2  # query, key and value; output; gate and up; down: in both layers


def test_what_the_walk_rounded_is_what_is_packed() -> None:
    model, batches = _text_model()
    rounded: dict[str, torch.Tensor] = {}
    steps = (PruningStep("heads", 25), PruningStep("glu", 30))

    def pack(layer: architecture.DecoderLayer) -> None:
        for name, module in layer.block.named_modules():
            if isinstance(module, nn.Linear):
                packed = torchao_tensors.dequantize(pack_quantized.to_int4(rounding.rounded_weight(module)))
                assert torch.equal(packed, module.weight), name
                rounded[name] = packed

    prune_decoder_(
        model, steps, batches, callbacks=LayerCallbacks(on_exit=pack), round_linears=rounding.gptq_rounding(32)
    )
    assert {name.rpartition(".")[2]: len(weight) for name, weight in rounded.items()} == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), 96),
        **{"o_proj": 128, "gate_proj": 256, "up_proj": 256, "down_proj": 128},
    }


def test_rounding_by_calibration_keeps_the_outputs_closer_than_rounding_to_nearest() -> None:
    dense, _ = _text_model()
    ids = torch.randint(0, 90, (8, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = dense(input_ids=ids).logits
    found: dict[str, float] = {}
    for kind in ("gptq", "nearest"):
        model, batches = _text_model()
        if kind == "gptq":
            prune_decoder_(model, (), batches, round_linears=rounding.gptq_rounding(128))
        for _, linear in architecture.decoder_linears(model):
            linear.weight.data = rounding.rounded_weight(linear).dequantize()
        with torch.no_grad():
            found[kind] = float((model(input_ids=ids).logits - wanted).norm() / wanted.norm())
    assert found["gptq"] < 0.95 * found["nearest"], found


def test_eight_bits_are_close_to_sixteen(built: Callable, samples: list) -> None:
    dense, small = built("llava-shapes/fp16"), built("llava-shapes/w8a16")
    for path, linear in architecture.decoder_linears(dense.model):
        values = torchao_tensors.dequantize(small.model.get_submodule(path).weight)
        assert (values - linear.weight).abs().max() <= 0.51 * linear.weight.abs().amax() / 127
    for image, question, _ in samples[:4]:
        assert Engine(small).generate(image, question, 12).text == Engine(dense).generate(image, question, 12).text


@pytest.mark.parametrize(("head_dim", "width", "wanted"), [(16, 256, 128), (16, 320, 64), (16, 352, 32), (20, 256, 32)])
def test_the_group_size_is_the_largest_that_divides_every_width(head_dim: int, width: int, wanted: int) -> None:
    model = tiny_llava(head_dim=head_dim, width=width)
    assert gptq_group_size(model, ()) == wanted
    quantize_(model, "w4a16", token_ids(4))
    sizes = {linear.weight.block_size[1] for _, linear in architecture.decoder_linears(model)}
    assert sizes == {wanted} and model.config.quantization_config.group_size == wanted


def test_a_width_that_no_group_divides_is_refused() -> None:
    narrow = tiny_llava()
    check_shapes(narrow, (PruningStep("heads", 25),), "w4a16", "cpu")
    with pytest.raises(ValueError, match=r"144 inputs .* INT4 \(GPTQ, W4A16\) on a CPU .* multiple of 32: use w8a16"):
        check_shapes(tiny_llava(head_dim=24), (PruningStep("heads", 25),), "w4a16", "cpu")
    architecture.decoder_layers(narrow)[0].down_proj.in_features = 80
    with pytest.raises(ValueError, match="requires multiples of 16 x 32: use w8a16"):
        check_shapes(narrow, (), "w4a16", "cpu")


def test_a_pruned_decoder_is_rounded_in_place_and_saved_by_transformers(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model = tiny_llava(width=384)
    prune_(model, "glu30", token_ids())
    quantize_(model, "w4a16", token_ids())
    model.save_pretrained(tmp_path)
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert stock(input_ids=token_ids(2)).logits.isfinite().all()
    for path, weight in _dense(model).items():
        assert torch.equal(stock.get_submodule(path).weight, weight)
