"""Every real family, from a checkpoint in the Hub's layout at tiny width: each technique from building to loading."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.families import FAMILIES, write
from vlmcomp.compression import checkpoint
from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import IMAGE, PAD, calibration_batches, capture_layer_inputs
from vlmcomp.compression.checkpoint import cast_weights_
from vlmcomp.compression.layerwise import LayerEdit, run_layerwise
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.size import count_parameters
from vlmcomp.models import architecture, registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.runtime.engine import Engine

NAMES = list(FAMILIES)
ANY_HEADS = {
    "llava-1.5-7b",
    "paligemma-3b",
    "paligemma2-3b",
    "qwen3-vl-2b",
    "smolvlm-256m",
}  # stock configs name a head width
RECIPES = ("fp16", "int8", "int4", "{mlp}30+fp16", "heads25+fp16", "{mlp}20+int8", "heads25+{mlp}30+int4")
SEEING_LESS = ("vis50+{mlp}20+int8",)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: write(name, tmp_path_factory.mktemp(name)))


def _logits(vlm: VLM, samples: list) -> torch.Tensor:
    with torch.inference_mode():
        return vlm.model(**vlm.encode([samples[0][0]], [samples[0][1]])).logits


@pytest.fixture
def dense(source: Callable, request: pytest.FixtureRequest) -> VLM:
    vlm = compress(Recipe(request.param), device="cpu", source=str(source(request.param)))
    vlm.model.float()
    vlm.compute_dtype = "float32"
    return vlm


CASES = [(name, shape) for name in NAMES for shape in RECIPES]
CASES += [(name, shape) for name in NAMES for shape in SEEING_LESS if name not in ("smolvlm-256m", "qwen3-vl-2b")]


@pytest.mark.parametrize("name, shape", CASES)
def test_what_is_built_is_what_is_loaded(
    name: str, shape: str, source: Callable, samples: list, tmp_path: Path
) -> None:
    recipe = Recipe.parse(f"{name}/{shape.format(mlp=registry.get_model_spec(name).mlp)}")
    vlm = compress(recipe, device="cpu", source=str(source(name)), calibration_data=samples)
    checkpoint.save(vlm, tmp_path / "out")
    wanted, counted = _logits(vlm, samples), count_parameters(vlm.model)
    assert Engine(vlm).generate(samples[0][0], samples[0][1], 4, 4).new_tokens == 4

    loaded = checkpoint.load(tmp_path / "out", "cpu")
    assert torch.equal(_logits(loaded, samples), wanted) and count_parameters(loaded.model) == counted
    assert checkpoint.loads_with_transformers(vlm.model) == (
        "vis" not in shape and ("heads" not in shape or name in ANY_HEADS)
    )
    if checkpoint.loads_with_transformers(vlm.model):
        loaded.model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=vlm.dtype)
        cast_weights_(loaded.model, vlm.dtype)
        assert torch.equal(_logits(loaded, samples), wanted)


@pytest.mark.parametrize("dense", NAMES, indirect=True)
def test_pruned_equals_the_dense_model_with_those_units_zeroed(dense: VLM, samples: list) -> None:
    zeroed = copy.deepcopy(dense)
    steps = [PruningStep("heads", 25), PruningStep(dense.spec.mlp, 30)]
    done = prune_decoder_(
        dense.model, steps, calibration_batches(dense, samples), PruningMethod(score="activation", reconstruct=False)
    )
    assert [(p.kept, p.of) for p in done] == [(6, 8), (448, 640)]
    for layer, twin in zip(architecture.decoder_layers(dense.model), architecture.decoder_layers(zeroed.model)):
        for small, full in ((layer.o_proj, twin.o_proj), (layer.down_proj, twin.down_proj)):
            with torch.no_grad():
                full.weight[:, ~(full.weight[:, :, None] == small.weight[:, None, :]).all(0).any(1)] = 0
    torch.testing.assert_close(_logits(dense, samples), _logits(zeroed, samples), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dense", NAMES, indirect=True)
def test_the_walk_runs_what_the_model_runs(dense: VLM, samples: list) -> None:
    """Layer by layer through the walk, the last layer gives what the whole model's last layer gives; and the target of
    an unchanged model is what its Linears give."""
    model = dense.model
    inputs = dense.encode(*map(list, zip(*samples[:2])))
    whole: list[torch.Tensor] = []
    last = architecture.decoder_layers(model)[-1].block
    handle = last.register_forward_hook(
        lambda m, a, out: whole.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    with torch.no_grad():
        model(**inputs, use_cache=False)
        handle.remove()
        tokens = capture_layer_inputs(model, inputs, torch.ones(inputs["input_ids"].shape, dtype=torch.long))
        stream = tokens.hidden
        for index, layer in enumerate(architecture.decoder_layers(model)):
            stream = tokens.add_deepstack(index, _first(layer.block(stream, **tokens.layer_kwargs[index])))
    torch.testing.assert_close(stream, whole[0], rtol=1e-4, atol=1e-4)

    def check(layer: architecture.DecoderLayer, moments: ActivationStats) -> None:
        bias = 0 if layer.down_proj.bias is None else torch.outer(layer.down_proj.bias, moments.mean)
        wanted = layer.down_proj.weight @ moments.gram + bias
        scale = float(wanted.abs().max())
        torch.testing.assert_close(moments.cross / scale, wanted / scale, rtol=1e-3, atol=1e-3)

    run_layerwise(model, calibration_batches(dense, samples), [LayerEdit(lambda layer: layer.down_proj, check)])


@pytest.mark.parametrize("dense", NAMES, indirect=True)
def test_least_squares_brings_every_family_nearer_to_the_dense_model(dense: VLM, samples: list) -> None:
    calibration, wanted = calibration_batches(dense, samples), _stream(dense, samples)
    errors = []
    for reconstruct in (False, True):
        twin = copy.deepcopy(dense)
        steps = [PruningStep("heads", 25), PruningStep(dense.spec.mlp, 50)]
        prune_decoder_(twin.model, steps, calibration, PruningMethod(reconstruct=reconstruct))
        errors.append((_stream(twin, samples) - wanted).square().mean().item())
    assert errors[1] < errors[0]


def _first(output: torch.Tensor | tuple) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _stream(vlm: VLM, samples: list) -> torch.Tensor:
    """The calibration sequences' last hidden states, padding left out."""
    found: list[torch.Tensor] = []
    decoder = vlm.model.get_submodule(architecture.get_architecture(vlm.model).decoder)
    handle = decoder.register_forward_hook(lambda m, a, out: found.append(out.last_hidden_state))
    inputs = vlm.encode(*map(list, zip(*samples)))
    with torch.no_grad():
        vlm.model(**inputs, use_cache=False)
    handle.remove()
    return found[0][inputs["attention_mask"].bool()]


@pytest.mark.parametrize("dense", NAMES, indirect=True)
def test_calibration_knows_image_and_answer_in_every_family(dense: VLM, samples: list) -> None:
    for tokens in calibration_batches(dense, samples, batch_size=3):
        assert ((tokens.token_types == IMAGE).sum(1) > 0).all() and ((tokens.token_types == 3).sum(1) > 0).all()
        assert tokens.token_types.shape == tokens.hidden.shape[:2] and ((tokens.token_types == PAD).sum(1) == 0).any()


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("qwen2-")])
def test_the_prompt_is_the_chat_templates(name: str, source: Callable) -> None:
    vlm = compress(Recipe(name), device="cpu", source=str(source(name)))
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    told = [{"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}]
    told.append({"role": "user", "content": content})
    text = vlm.processor.apply_chat_template(told, add_generation_prompt=True)
    assert text == vlm.spec.prompt.format(question="What is it?")


@pytest.mark.parametrize("dense", NAMES, indirect=True)
def test_special_tokens_in_a_question_are_only_text(dense: VLM, samples: list) -> None:
    image, special = samples[0][0], " ".join(dense.processor.tokenizer.all_special_tokens)
    plain = dense.encode([image], ["What is it?"])["input_ids"]
    special_too = dense.encode([image], [f"What is {special} it?"])["input_ids"]
    marks = dense.model.config.image_token_id
    assert (plain == marks).sum() == (special_too == marks).sum()


def test_a_step_of_the_wrong_kind_names_the_right_one() -> None:
    for name, step, right in (("blip2-opt-2.7b", "glu30", "ffn30"), ("qwen2-vl-2b", "ffn20", "glu20")):
        with pytest.raises(ValueError, match=f"use {right}"):
            registry.validate_recipe(Recipe.parse(f"{name}/{step}+fp16"))
