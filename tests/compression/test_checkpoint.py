"""Saved equals loaded, by our loader and by the stock one, for every technique."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression import checkpoint
from vlmcomp.compression.calibration import text_batches
from vlmcomp.compression.checkpoint import cast_weights_
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import prune_decoder_
from vlmcomp.compression.quantization.bitsandbytes import is_cpu_repacked
from vlmcomp.compression.quantization.quantize import quantize_layer_, set_quantization_config
from vlmcomp.compression.size import count_parameters, weight_bytes
from vlmcomp.models import architecture
from vlmcomp.models.dtypes import round_to_float16
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

RECIPES = ["fp16", "int8", "int4", "glu30+fp16", "heads25+fp16", "heads25+int8", "heads50+glu30+int4"]


def _logits(vlm: VLM, samples: list) -> torch.Tensor:
    image, question, _ = samples[0]
    inputs = vlm.processor(images=image, text=vlm.spec.prompt.format(question=question), return_tensors="pt")
    with torch.inference_mode():
        return vlm.model(**inputs.to(vlm.device, vlm.model.dtype)).logits


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", RECIPES)
def test_saved_equals_loaded(name: str, samples: list, tmp_path: Path) -> None:
    vlm = compress(Recipe.parse(f"llava-shapes/{name}"), device="cpu")
    checkpoint.save(vlm, tmp_path / "out")
    held, logical = weight_bytes(vlm.model), count_parameters(vlm.model)
    wanted, answers = _logits(vlm, samples), [Engine(vlm).generate(i, q, 12).text for i, q, _ in samples]

    loaded = checkpoint.load(tmp_path / "out", device="cpu")
    assert weight_bytes(loaded.model) == held and count_parameters(loaded.model) == logical
    assert (loaded.recipe, loaded.pruned, loaded.quantization_backend) == (
        vlm.recipe,
        vlm.pruned,
        vlm.quantization_backend,
    )
    assert torch.equal(_logits(loaded, samples), wanted)
    assert [Engine(loaded).generate(i, q, 12).text for i, q, _ in samples] == answers

    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=vlm.dtype)
    cast_weights_(stock, vlm.dtype)
    loaded.model, loaded.processor = stock, AutoProcessor.from_pretrained(tmp_path / "out")
    assert torch.equal(_logits(loaded, samples), wanted)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "int8-torchao", "int4-torchao", "w8a16"])
def test_what_was_loaded_is_saved_as_it_was(precision: str, tmp_path: Path) -> None:
    checkpoint.save(compress(Recipe.parse(f"llava-shapes/{precision}"), device="cpu"), tmp_path / "built")
    checkpoint.save(checkpoint.load(tmp_path / "built", device="cpu"), tmp_path / "again")
    built, again = (load_file(tmp_path / name / "model.safetensors") for name in ("built", "again"))
    assert built.keys() == again.keys() and all(torch.equal(built[name], again[name]) for name in built)
    assert (tmp_path / "built/recipe.json").read_text() == (tmp_path / "again/recipe.json").read_text()


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_a_llama_decoder_with_six_of_eight_heads_loads_as_mistral(precision: str, tmp_path: Path) -> None:
    """Six heads do not divide a hidden size of 256, which Llama's config refuses."""
    vlm, ids = compress(Recipe.parse("llava-shapes/fp16"), device="cpu"), token_ids(4)
    vlm.model = tiny_llava(head_dim=32, vocabulary=len(vlm.processor.tokenizer))
    vlm.processor.image_processor.size = {"height": 24, "width": 24}  # of this model
    for parameter in vlm.model.parameters():  # not the rotary buffers, which stock loaders keep in float32
        parameter.data = parameter.data.half().to(vlm.dtype)
    vlm.recipe = Recipe.parse(f"llava-shapes/heads25+glu50+{precision}")
    vlm.pruned = prune_decoder_(vlm.model, vlm.recipe.steps, text_batches(vlm.model, ids))
    round_to_float16(vlm.model)
    if precision != "fp16":
        for layer in architecture.decoder_layers(vlm.model):
            quantize_layer_(layer, precision, vlm.dtype)
        set_quantization_config(vlm.model, precision, vlm.dtype)
    checkpoint.save(vlm, tmp_path / "out")
    assert vlm.model.config.text_config.model_type == "llama"
    with torch.no_grad():
        wanted = vlm.model(input_ids=ids).logits
        loaded = checkpoint.load(tmp_path / "out", device="cpu").model
        assert loaded.config.text_config.model_type == "mistral"
        assert torch.equal(loaded(input_ids=ids).logits, wanted)


def test_an_int4_model_that_has_answered_on_such_a_cpu_is_not_saved(samples: list, tmp_path: Path) -> None:
    vlm = compress(Recipe.parse("llava-shapes/int4"), device="cpu")
    assert not is_cpu_repacked(vlm.model)
    Engine(vlm).generate(samples[0][0], samples[0][1], 4)
    if not is_cpu_repacked(vlm.model):
        pytest.skip("this CPU has no AVX512-BF16: bitsandbytes repacks nothing here")
    with pytest.raises(ValueError, match="build it again"):
        checkpoint.save(vlm, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_left_alone(built, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not an empty folder"):
        checkpoint.save(built("llava-shapes/fp16"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled_where_it_is(built, tmp_path: Path) -> None:
    """A mounted folder can be neither replaced nor renamed."""
    out = tmp_path / "mounted"
    out.mkdir()
    identity = out.stat().st_ino
    (tmp_path / "to").symlink_to(out)
    checkpoint.save(built("llava-shapes/fp16"), tmp_path / "to")
    assert out.stat().st_ino == identity and checkpoint.is_checkpoint(out) and (tmp_path / "to").is_symlink()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_an_interrupted_build_leaves_nothing(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = built("llava-shapes/fp16")

    def interrupted(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()  # the weights are written when the user loses patience
        raise KeyboardInterrupt

    monkeypatch.setattr(vlm.processor, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(vlm, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_foreign_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a vlmcomp checkpoint"):
        checkpoint.load(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path)


def test_quantization_touches_the_decoder_alone(built) -> None:
    dense, small = weight_bytes(built("llava-shapes/fp16").model), weight_bytes(built("llava-shapes/int4").model)
    for part in ("vision tower", "projector", "embeddings", "lm_head", "other"):
        assert dense[part] == small[part], part
    for part in ("decoder attention", "decoder MLP"):
        assert 0.25 < small[part] / dense[part] < 0.29, part
    assert count_parameters(built("llava-shapes/fp16").model) == count_parameters(built("llava-shapes/int4").model)
    assert sum(dense.values()) == 2 * sum(count_parameters(built("llava-shapes/fp16").model).values())
