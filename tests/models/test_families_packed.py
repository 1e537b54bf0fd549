"""Every real family in W8A16 and W4A16: what is saved is what is loaded, and what stock transformers reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.families import FAMILIES, write
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture, registry
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine


@pytest.mark.parametrize("steps", ["w8a16", "heads25+{mlp}30+w4a16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_saved_loaded_and_stock_weights_are_the_same(name: str, steps: str, samples: list, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    recipe = Recipe.parse(f"{name}/{steps.format(mlp=registry.get_model_spec(name).mlp)}")
    data = samples if recipe.needs_calibration else None
    vlm = compress(recipe, device="cpu", source=str(write(name, tmp_path / "source")), calibration_data=data)
    checkpoint.save(vlm, tmp_path / "out")
    loaded = checkpoint.load(tmp_path / "out", "cpu")
    mine, theirs = vlm.model.state_dict(), loaded.model.state_dict()
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        parts = torchao_tensors.inner_tensors(tensor) or [tensor]
        assert all(map(torch.equal, parts, torchao_tensors.inner_tensors(theirs[key]) or [theirs[key]])), key
    wanted = {
        path: torchao_tensors.dequantize(linear.weight) for path, linear in architecture.decoder_linears(vlm.model)
    }
    if checkpoint.loads_with_transformers(vlm.model):
        inputs = vlm.encode([samples[0][0]], [samples[0][1]])
        stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        with torch.no_grad():
            assert stock(
                **{key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
            )
        found = dict(architecture.decoder_linears(stock))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[path].weight, weight) for path, weight in wanted.items())
    answer = Engine(vlm).generate(samples[0][0], samples[0][1], 4, 4)
    assert answer.new_tokens == 4 and Engine(loaded).generate(samples[0][0], samples[0][1], 4, 4).text == answer.text
