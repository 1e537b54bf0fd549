"""Checkpoints of every family load from every layout of files that real repositories have, and give the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.utils import is_sentencepiece_available

from tests.support.families import FAMILIES, write
from tests.support.layouts import layouts, no_image_token, preprocessor_config
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe

CASES = [(name, layout) for name in FAMILIES for layout in layouts(name)]
QUESTION = "What color is the 1st shape? It's 25 % red\n"
IMAGES = [Image.linear_gradient("L").resize(size).convert("RGB") for size in ((96, 96), (130, 60))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, torch.Tensor]]]:
    """A family's folder as transformers 5 saves it, and what its model gives."""

    def make(name: str) -> tuple[Path, dict[str, torch.Tensor]]:
        folder = write(name, tmp_path_factory.mktemp(name) / "source")
        return folder, outputs(load(name, folder))

    return cache(make)


def load(name: str, folder: Path) -> VLM:
    return compress(Recipe(name), device="cpu", source=str(folder))


@torch.inference_mode()
def outputs(vlm: VLM) -> dict[str, torch.Tensor]:
    """Inputs and logits of two questions about images of different sizes."""
    inputs = vlm.encode(IMAGES, [QUESTION, "red?"])
    return dict(inputs) | {"logits": vlm.model(**inputs).logits}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=f"{name} differs")


@pytest.mark.parametrize("name, layout", CASES)
def test_every_layout_gives_the_same(name: str, layout: str, source: Callable, tmp_path: Path) -> None:
    original, wanted = source(name)
    folder = shutil.copytree(original, tmp_path / "source")
    for step in layouts(name)[layout]:
        step(folder)
    vlm = load(name, folder)
    assert_same(outputs(vlm), wanted)
    checkpoint.save(vlm, tmp_path / "built")
    assert_same(outputs(checkpoint.load(tmp_path / "built", "cpu")), wanted)


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("name", ["blip2-opt-2.7b", "llava-1.5-7b"])
def test_a_tokenizer_without_the_image_token_gets_it(name: str, rows: int, source: Callable, tmp_path: Path) -> None:
    """Behind its last token, where the embedding has a row: as the repositories had it before their processors did."""
    original, wanted = source(name)
    folder = shutil.copytree(original, tmp_path / "source")
    model = AutoModelForImageTextToText.from_pretrained(original)
    count = model.config.get_text_config().vocab_size
    model.resize_token_embeddings(count + rows)
    model.config.image_token_id = count if name == "llava-1.5-7b" else None
    model.save_pretrained(folder, max_shard_size="2MB")
    preprocessor_config(folder)
    no_image_token(folder)
    if not rows:
        with pytest.raises(ValueError, match=rf"<image> is {count} in the tokenizer, and the model knows {count}"):
            load(name, folder)
        return
    vlm = load(name, folder)
    checkpoint.save(vlm, tmp_path / "built")
    for loaded in (vlm, checkpoint.load(tmp_path / "built", "cpu")):
        found = outputs(loaded)
        torch.testing.assert_close(found["logits"][..., :count], wanted["logits"], rtol=0, atol=0)
        assert (found["input_ids"] == count).sum() == (wanted["input_ids"] == 3).sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_where_the_tokenizer_says_if_nothing_else_does(
    name: str, source: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(source(name)[0], tmp_path / "source")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"]):
        part["eos_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))
    vlm = load(name, folder)
    assert vlm.model.generation_config.eos_token_id == vlm.processor.tokenizer.eos_token_id


@pytest.mark.parametrize(
    "missing, sentence",
    [
        (("processor_config.json",), "there is no preprocessor_config.json: copy that of the model"),
        (("tokenizer.json",), "there is no tokenizer.json: copy that of the model"),
        (("tokenizer.json", "tokenizer.model"), "tokenizer.model is only read after pip install sentencepiece"),
    ],
)
@pytest.mark.skipif(is_sentencepiece_available(), reason="can convert tokenizer.model")
def test_missing_files_of_the_processor_are_named(
    missing: tuple[str, ...], sentence: str, source: Callable, tmp_path: Path
) -> None:
    """As in a folder in which a trainer saved the model alone."""
    folder = shutil.copytree(source("llava-1.5-7b")[0], tmp_path / "source")
    (folder / missing[0]).unlink()
    for name in missing[1:]:  # another file is there instead
        (folder / name).write_bytes(b"\n")
    with pytest.raises(ValueError, match=sentence) as refused:
        load("llava-1.5-7b", folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_the_tokenizer_of_another_model_is_refused(source: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(source("llava-1.5-7b")[0], tmp_path / "source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source("smolvlm-256m")[0] / name, folder)
    config = json.loads((folder / "config.json").read_text()) | {"image_token_index": 77}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the image token <image> is 3 in the tokenizer and 77 in config\.json"):
        load("llava-1.5-7b", folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_token_in_a_question_is_text_though_no_file_calls_it_special(
    name: str, source: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(source(name)[0], tmp_path / "source")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["extra_special_tokens"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = (folder / "tokenizer.json").read_text().replace('"special": true', '"special": false')
    (folder / "tokenizer.json").write_text(tokenizer)
    vlm = load(name, folder)
    token = str(vlm.processor.image_token)
    plain, attacked = (vlm.encode(IMAGES[:1], [q])["input_ids"] for q in ("a  b", f"a {token[:3]}{token}{token[3:]} b"))
    image_id = vlm.model.config.image_token_id
    assert (plain == image_id).sum() == (attacked == image_id).sum() > 0
    assert vlm.model(**vlm.encode(IMAGES[:1], [f"{token} {token}"])).logits.isfinite().all()
