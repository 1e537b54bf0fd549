"""Settings of processor, tokenizer and generation that contradict the model are overruled, or refused in one sentence,
before the first question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.edited_weights import edited_config
from tests.support.families import FAMILIES, write
from tests.support.layouts import layouts, no_tokenizer_json, vocab_and_merges
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

NAME = "llava-1.5-7b"
BYTE_LEVEL = "blip2-opt-2.7b"
IMAGES = [Image.linear_gradient("L").resize(size).convert("RGB") for size in ((96, 96), (130, 60))]
QUESTIONS = ["What color is the shape?", "red?"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: write(name, tmp_path_factory.mktemp(name) / "source"))


def _load(name: str, folder: Path) -> VLM:
    return compress(Recipe(name), device="cpu", source=str(folder))


def _refusal(name: str, folder: Path) -> str:
    with pytest.raises(ValueError) as refused:
        _load(name, folder)
    text = str(refused.value)
    assert str(folder) in text and "\n" not in text
    return text


def _edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def _edit_image_processor(folder: Path, **settings: Any) -> None:
    file = folder / "processor_config.json"
    _edit(file, image_processor=json.loads(file.read_text())["image_processor"] | settings)


def _answers(vlm: VLM) -> tuple[list[str], list[str], int]:
    """Alone, as a batch, and the length of one of a fixed length."""
    engine = Engine(vlm)
    alone = [engine.generate(image, question, 4).text for image, question in zip(IMAGES, QUESTIONS)]
    return alone, engine.generate_batch(IMAGES, QUESTIONS, 4), engine.generate(IMAGES[0], "red?", 3, 3).new_tokens


IMAGE_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"size": {"height": 48, "width": 48}}) for name in (NAME, BYTE_LEVEL, "paligemma-3b", "qwen2-vl-2b")),
    *((name, {"size": {"longest_edge": 48}}) for name in (NAME, BYTE_LEVEL, "qwen2-vl-2b")),
    *((name, {"size": {"shortest_edge": 48}}) for name in (BYTE_LEVEL, "smolvlm-256m", "qwen3-vl-2b")),
    *((name, {"do_resize": False}) for name in (NAME, BYTE_LEVEL, "paligemma-3b", "qwen2.5-vl-3b")),
    *((name, {"size": None}) for name in (NAME, "smolvlm-256m")),
    *((name, {"crop_size": {"height": 48, "width": 48}, "do_center_crop": True}) for name in (NAME, "paligemma2-3b")),
    *(("smolvlm-256m", {"max_image_size": value}) for value in (None, {"longest_edge": 48}, {"height": 32})),
    ("smolvlm-256m", {"do_pad": False}),
    (NAME, {"image_std": [0, 0, 0]}),
    (NAME, {"image_mean": [0.5]}),
    (NAME, {"rescale_factor": "x"}),
    (NAME, {"resample": 99}),
    ("qwen2-vl-2b", {"image_processor_type": "SiglipImageProcessor"}),
    ("smolvlm-256m", {"image_processor_type": "CLIPImageProcessor"}),
]


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name, settings", IMAGE_SETTINGS)
def test_images_that_the_model_does_not_take_are_refused(
    name: str, settings: dict[str, Any], source: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(source(name), tmp_path / "source")
    _edit_image_processor(folder, **settings)
    assert "preprocessor_config.json" in _refusal(name, folder)


def test_a_built_folder_whose_images_have_another_size_is_refused(source: Callable, tmp_path: Path) -> None:
    checkpoint.save(_load(NAME, source(NAME)), tmp_path / "built")
    _edit_image_processor(tmp_path / "built", size={"height": 48, "width": 48})
    with pytest.raises(ValueError, match="its images have 48 x 48 pixels, and the model takes 96 x 96"):
        checkpoint.load(tmp_path / "built", "cpu")


def _add_tokens(folder: Path, special: bool, **settings: Any) -> None:
    """Three tokens ``<a>``, ``<b>`` and ``<c>`` beyond the embedding matrix, and settings of the tokenizer."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    first = 1 + max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"]))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": special}
    tokenizer["added_tokens"] += [{"id": first + i, "content": f"<{letter}>"} | flags for i, letter in enumerate("abc")]
    file.write_text(json.dumps(tokenizer))
    _edit(folder / "tokenizer_config.json", **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_beyond_the_embedding_matrix(name: str, source: Callable, tmp_path: Path) -> None:
    """Of texts and prompts, and as the only end token to pad with: refused; as a padding token alone: replaced."""
    image_token = "<|image_pad|>" if name.startswith("qwen") else "<image>"
    cases: dict[str, tuple[bool, dict[str, Any]]] = {
        "such as <a>": (False, {}),
        "neither a padding token nor an end token": (True, {"pad_token": None, "eos_token": "<a>"}),
        "but not the image token": (True, {"pad_token": image_token, "eos_token": image_token}),
        "": (True, {"pad_token": "<a>"}),
    }
    for sentence, (special, settings) in cases.items():
        folder = shutil.copytree(source(name), tmp_path / "source", dirs_exist_ok=True)
        _add_tokens(folder, special, **settings)
        if sentence:
            assert sentence in _refusal(name, folder)
            continue
        vlm = _load(name, folder)
        assert vlm.processor.tokenizer.pad_token_id == vlm.processor.tokenizer.eos_token_id
        checkpoint.save(vlm, tmp_path / "built")
        assert _answers(checkpoint.load(tmp_path / "built", "cpu")) == _answers(_load(name, folder))


@pytest.mark.parametrize("name", [NAME, BYTE_LEVEL, "qwen2-vl-2b", "smolvlm-256m"])
def test_the_image_token_is_no_padding(name: str, source: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(source(name), tmp_path / "source")
    image_token = "<|image_pad|>" if name.startswith("qwen") else "<image>"
    _edit(folder / "tokenizer_config.json", pad_token=image_token)
    assert _answers(_load(name, folder)) == _answers(_load(name, source(name)))


IGNORED = [
    *({"pad_token_id": value} for value in (-1, 99_999)),
    *({"eos_token_id": value} for value in (-1, 99_999, [2, 99_999], [-1])),
    {"suppress_tokens": [99_999], "begin_suppress_tokens": [-1]},
    {"forced_eos_token_id": 99_999},
]
REFUSED = [
    *({"pad_token_id": value} for value in ("a", [1], 0.5, True)),
    *({"eos_token_id": value} for value in ("</s>", [[2], "a"], {})),
    {"forced_bos_token_id": 99_999},
    *({"bad_words_ids": value} for value in ([[99_999]], [["a"]])),
]


@pytest.mark.parametrize("name", [NAME, BYTE_LEVEL])
def test_tokens_of_generation_config_that_the_model_does_not_know(name: str, source: Callable, tmp_path: Path) -> None:
    own = {"eos_token_id": 2}  # every setting below means this end token, or none that a random model gives
    folder = shutil.copytree(source(name), tmp_path / "source")
    file = folder / "generation_config.json"
    original = json.loads(file.read_text())
    file.write_text(json.dumps(original | own))
    plain = _answers(_load(name, folder))
    for settings in IGNORED:
        file.write_text(json.dumps(original | own | settings))
        vlm = _load(name, folder)
        assert _answers(vlm) == plain, settings
        known = range(vlm.model.config.get_text_config().vocab_size)
        generation_config = vlm.model.generation_config
        ends = generation_config.eos_token_id
        assert {generation_config.pad_token_id, *(ends if isinstance(ends, list) else [ends])} <= {None, *known}
    for settings in REFUSED:
        file.write_text(json.dumps(original | own | settings))
        assert (
            f"generation_config.json has {next(iter(settings.values()))!r} as" in (text := _refusal(name, folder))
            or "with the token 99999" in text
        )


FORWARD_SETTINGS: list[dict[str, Any]] = [
    {"return_dict": False},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"use_cache": False, "is_encoder_decoder": True},
    {"torchscript": True},
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": "eager"},
]


@pytest.mark.parametrize("name", [NAME, BYTE_LEVEL, "paligemma-3b", "qwen2-vl-2b", "smolvlm-256m"])
def test_config_does_not_decide_what_forward_returns(name: str, source: Callable, tmp_path: Path) -> None:
    plain = _answers(_load(name, source(name)))
    folder = shutil.copytree(source(name), tmp_path / "source")
    original = json.loads((folder / "config.json").read_text())
    for settings in FORWARD_SETTINGS:
        parts = {part: original[part] | settings for part in ("text_config", "vision_config")}
        for changes in (settings, parts):
            (folder / "config.json").write_text(json.dumps(original))
            assert _answers(_load(name, edited_config(folder, **changes))) == plain, changes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_without_the_settings_of_the_tokenizer_is_refused(name: str, source: Callable, tmp_path: Path) -> None:
    """They decide which tokens a text gets, and transformers has other defaults."""
    folder = shutil.copytree(source(name), tmp_path / "source")
    for step in layouts(name)["on the Hub"]:
        step(folder)
    (folder / "tokenizer_config.json").unlink()
    assert "there is no tokenizer_config.json" in _refusal(name, folder)
    if vocab_and_merges in layouts(name)["on the Hub"]:
        no_tokenizer_json(folder)
        assert "there is no tokenizer_config.json" in _refusal(name, folder)


def test_a_processor_config_without_image_processor_is_refused(source: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(source(NAME), tmp_path / "source")
    for value in (None, 3, []):
        _edit(folder / "processor_config.json", image_processor=value)
        assert "there is no preprocessor_config.json: copy that of the model" in _refusal(NAME, folder)


@pytest.mark.parametrize("name", [NAME, BYTE_LEVEL])
def test_settings_that_change_the_choice_hold_for_batches_too(name: str, source: Callable, tmp_path: Path) -> None:
    """Also where a decoder generates by itself."""
    folder = shutil.copytree(source(name), tmp_path / "source")
    plain = _load(name, source(name))
    _edit(folder / "generation_config.json", suppress_tokens=list(range(100, 400)), repetition_penalty=3.0)
    changed = _load(name, folder)
    for vlm in (plain, changed):  # in float32 the order of summation decides no token
        vlm.model.float()
        vlm.compute_dtype = "float32"
    alone, batch, _ = _answers(changed)
    assert alone == batch != _answers(plain)[0]
