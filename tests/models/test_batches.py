"""A batch gives the answers of its questions one by one, whatever the settings of the tokenizer's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, GenerationConfig

from tests.support.families import FAMILIES, write
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import processor
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime import generation
from vlmcomp.runtime.engine import Engine

QUESTIONS = ["What color is the shape?", "red?", "Question: is the red circle to the right of a blue shape? yes or no"]
SIZES = [(96, 96), (140, 60), (50, 120)]
SQUARE = {"height": 96, "width": 96}
TOKENS = 6
SETTINGS: dict[str, dict[str, Any]] = {  # what a tokenizer_config.json says; None: not there, as transformers' default
    "missing": {"padding_side": None},
    "right": {"padding_side": "right"},
    "left": {"padding_side": "left"},
    "truncating": {"padding_side": None, "max_length": 8, "truncation": True, "model_max_length": 8, "stride": 2},
    "padding": {"padding_side": "right", "padding": "max_length", "model_max_length": 900, "pad_to_multiple_of": 7},
    "no pad token": {"padding_side": None, "pad_token": None},
    "end token after every text": {"add_bos_token": True, "add_eos_token": True},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VLM]:
    """A family's model in float32, in which the order of summation decides no token."""

    def load(name: str) -> VLM:
        vlm = compress(Recipe(name), device="cpu", source=str(write(name, tmp_path_factory.mktemp(name) / "source")))
        vlm.model.float()
        vlm.compute_dtype = "float32"
        vlm.spec = replace(vlm.spec, single_tile_on_cpu=False)  # as on a GPU
        return vlm

    return cache(load)


def set_tokenizer(folder: Path, settings: dict[str, Any]) -> None:
    """Change tokenizer_config.json; None removes an entry."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def _images() -> list[Image.Image]:
    gradient = Image.linear_gradient("L")
    return [gradient.rotate(60 * i).resize(size).convert("RGB") for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_answers_as_its_questions_alone(
    name: str, source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = source(name)
    images = _images()
    folder = tmp_path / "processor"
    vlm.processor.save_pretrained(folder)
    timed: list[torch.Tensor] = []
    whole = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: timed.append(whole(*a, **k)) or timed[-1])
    engine = Engine(vlm)
    decode = vlm.processor.tokenizer.decode
    single = [engine.generate(i, q, TOKENS, TOKENS).text for i, q in zip(images, QUESTIONS)]
    assert len(set(single)) > 1
    for setting, changes in SETTINGS.items():
        set_tokenizer(folder, changes)
        vlm.processor = processor.load(folder, vlm.model.config)
        assert [engine.generate(i, q, TOKENS, TOKENS).text for i, q in zip(images, QUESTIONS)] == single, setting
        assert engine.generate_batch(images, QUESTIONS, TOKENS) == [
            engine.generate(i, q, TOKENS).text for i, q in zip(images, QUESTIONS)
        ], setting
        engine.time_generate(images, QUESTIONS, TOKENS)
        texts = [decode(ids[-TOKENS:], skip_special_tokens=True).strip() for ids in timed[-1]]
        assert texts == single, setting


GENERATION_CONFIGS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 40, "top_p": 0.9},
    "beams": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
    "several": {"num_return_sequences": 2, "do_sample": True},
    "limits": {"max_length": 3, "min_length": 400, "min_new_tokens": 6, "max_time": 1e-9, "stop_strings": ["a"]},
    "forced end": {"forced_eos_token_id": 2},
    "outputs": {"return_dict_in_generate": True, "output_scores": True, "use_cache": False},
    "searches": {"prompt_lookup_num_tokens": 3, "cache_implementation": "static"},
    "text as padding": {"pad_token_id": 300},
}
OBEYED: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2},
    "suppressed": {"suppress_tokens": list(range(100, 400)), "begin_suppress_tokens": list(range(400, 500))},
    "forbidden": {"bad_words_ids": [[i] for i in range(100, 300)]},
}


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-3b"])
def test_generation_config_decides_neither_strategy_nor_length(
    name: str, source: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Penalties and forbidden tokens are obeyed, in batches and alone alike."""
    vlm = source(name)
    images = _images()
    plain = Engine(vlm).generate_batch(images, QUESTIONS, TOKENS)
    own = vlm.model.generation_config.to_dict()
    for setting, changes in (GENERATION_CONFIGS | OBEYED).items():
        monkeypatch.setattr(vlm.model, "generation_config", GenerationConfig(**own | changes))
        engine = Engine(vlm)
        batch = engine.generate_batch(images, QUESTIONS, TOKENS)
        assert batch == [engine.generate(i, q, TOKENS).text for i, q in zip(images, QUESTIONS)], setting
        assert (batch == plain) == (setting in GENERATION_CONFIGS), setting
        assert engine.generate(images[0], QUESTIONS[0], TOKENS, TOKENS).new_tokens == TOKENS
        engine.time_generate(images, QUESTIONS, TOKENS)


@pytest.mark.parametrize("name", ["paligemma2-3b", "llava-1.5-7b"])
def test_a_window_shorter_than_the_prompt(name: str, source: Callable, tmp_path: Path) -> None:
    """Of Gemma 2, where some layers have it, and of Mistral, where all have."""
    folder = tmp_path / "source"
    shutil.copytree(source(name).model.name_or_path, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["sliding_window"] = 16
    if name == "llava-1.5-7b":
        config["text_config"]["model_type"] = "mistral"
    file.write_text(json.dumps(config))
    vlm = compress(Recipe(name), device="cpu", source=str(folder))
    vlm.model.float()
    vlm.compute_dtype = "float32"
    engine = Engine(vlm)
    images = _images()
    single = [engine.generate(i, q, TOKENS, TOKENS).new_tokens for i, q in zip(images, QUESTIONS)]
    assert single == [TOKENS] * len(QUESTIONS)
    texts = [engine.generate(i, q, TOKENS).text for i, q in zip(images, QUESTIONS)]
    assert engine.generate_batch(images, QUESTIONS, TOKENS) == texts


@pytest.mark.parametrize(
    "name, settings",
    [
        ("smolvlm-256m", {"do_image_splitting": False}),
        ("smolvlm-256m", {"size": {"longest_edge": 96}}),  # six parts and the whole for one image, two for another
        (
            "llava-1.5-7b",
            {"do_center_crop": True, "size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}},
        ),
        ("qwen2.5-vl-3b", {"size": {"shortest_edge": 1024, "longest_edge": 9216}}),
    ],
)
def test_settings_of_the_image_processor_are_obeyed(
    name: str, settings: dict[str, Any], source: Callable, tmp_path: Path
) -> None:
    vlm = source(name)
    vlm.processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"] |= settings
    file.write_text(json.dumps(config))
    stock = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    vlm.processor = processor.load(tmp_path, vlm.model.config)
    engine = Engine(vlm)
    images = _images()
    for image, question in zip(images, QUESTIONS):
        pixels = vlm.encode([image], [question])["pixel_values"]
        assert torch.equal(pixels, stock(images=image, return_tensors="pt")["pixel_values"])
    single = [engine.generate(i, q, TOKENS).text for i, q in zip(images, QUESTIONS)]
    assert engine.generate_batch(images, QUESTIONS, TOKENS) == single
