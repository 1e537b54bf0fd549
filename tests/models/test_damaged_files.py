"""Files that cannot be read are one sentence with the file's name, wherever a model is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import vlmcomp
from tests.support.edited_weights import LFS_POINTER
from tests.support.families import write
from vlmcomp.app.handlers import compare
from vlmcomp.cli.main import main
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.variants import get_or_build

NAME = "llava-1.5-7b"
IMAGE = Path(__file__).resolve().parents[2] / "assets/examples/scene-6.png"
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pointer": (lambda data: LFS_POINTER, "is a git-LFS pointer and not the file itself: run 'git lfs pull'"),
    "empty": (lambda data: b"", "is empty: copy or download it again"),
    "cut": (lambda data: data[: len(data) // 2], "again"),
    "header": (lambda data: data[:4], "again"),
    "overwritten": (lambda data: b"\xff" * len(data), "again"),
    "page": (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "again"),
}
SHARD = "model-00002-of-00005.safetensors"
AS_TENSORS = "save the model's state_dict alone, or use its safetensors files"
FILES = ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json", "generation_config.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source with an index, one with pickled weights, and a built checkpoint, all of the same weights."""
    root = tmp_path_factory.mktemp("folders")
    source = write(NAME, root / "source")
    vlm = compress(Recipe(NAME), device="cpu", source=str(source))
    checkpoint.save(vlm, root / "built")
    pickled = root / "pickled"
    shutil.copytree(root / "built", pickled, ignore=shutil.ignore_patterns("*.safetensors", "recipe.json"))
    torch.save(vlm.model.state_dict(), pickled / "pytorch_model.bin")
    return {"source": source, "pickled": pickled, "built": root / "built"}


def _damaged(folder: Path, copy: Path, file: str, damage: str) -> Path:
    shutil.copytree(folder, copy)
    (copy / file).write_bytes(DAMAGES[damage][0]((copy / file).read_bytes()))
    return copy


def _sentence(load: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as refused:
        load()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("file", [*FILES, "recipe.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_sentence(damage: str, file: str, folders: dict, tmp_path: Path) -> None:
    folder = _damaged(folders["built"], tmp_path / "damaged", file, damage)
    text = _sentence(lambda: vlmcomp.load(folder, device="cpu"))
    assert text.startswith(f"the checkpoint in {folder} is damaged: {file} ") and DAMAGES[damage][1] in text


@pytest.mark.parametrize("file", [SHARD, "model.safetensors.index.json", *FILES[1:]])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_source_is_one_sentence(damage: str, file: str, folders: dict, tmp_path: Path) -> None:
    folder = _damaged(folders["source"], tmp_path / "damaged", file, damage)
    text = _sentence(lambda: vlmcomp.compress(f"{NAME}/int8", source=str(folder), device="cpu"))
    assert str(folder) in text and file in text
    assert DAMAGES[damage][1] in text


def test_pickled_weights_load(folders: dict) -> None:
    assert compress(Recipe(NAME), device="cpu", source=str(folders["pickled"]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_pickled_weights_are_one_sentence(damage: str, folders: dict, tmp_path: Path) -> None:
    folder = _damaged(folders["pickled"], tmp_path / "damaged", "pytorch_model.bin", damage)
    text = _sentence(lambda: vlmcomp.compress(f"{NAME}/fp16", source=str(folder), device="cpu"))
    assert "pytorch_model.bin" in text and DAMAGES[damage][1] in text


def test_a_pickle_that_runs_code_is_refused(folders: dict, tmp_path: Path) -> None:
    folder = _damaged(folders["pickled"], tmp_path / "damaged", "pytorch_model.bin", "empty")
    torch.save({"weight": subprocess.Popen}, folder / "pytorch_model.bin")
    for old_format in (True, False):
        content: object
        for content in ({"weight": subprocess.Popen}, {"weight": 3}, [torch.ones(2)], torch.nn.Linear(2, 2)):
            torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old_format)
            text = _sentence(lambda: vlmcomp.compress(f"{NAME}/fp16", source=str(folder), device="cpu"))
            assert text.endswith("pytorch_model.bin holds more than tensors: " + AS_TENSORS), content


def test_pickled_weights_in_the_old_format_load_or_are_one_sentence(folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["pickled"], tmp_path / "source")
    file = folder / "pytorch_model.bin"
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    assert compress(Recipe(NAME), device="cpu", source=str(folder))
    file.write_bytes(file.read_bytes()[:100_000])
    text = _sentence(lambda: compress(Recipe(NAME), device="cpu", source=str(folder)))
    assert "pytorch_model.bin is cut off or damaged: copy or download it again" in text


def test_a_recipe_file_without_what_was_written_is_refused(folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["built"], tmp_path / "damaged")
    for text in ("{}", "[]", "null", '"llava"', '{"recipe": 3}', '{"recipe": "llava-1.5-7b/fp16"}'):
        (folder / "recipe.json").write_text(text)
        assert "is damaged: recipe.json lacks" in _sentence(lambda: checkpoint.load(folder, "cpu")), text


def test_an_index_without_a_map_is_refused(folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["source"], tmp_path / "damaged")
    shards = (3, None, ["b"], {}, "", "config.json", "../model.safetensors", "/model.safetensors")
    maps = ([], 3, None, "x", {}, *({"weight": shard} for shard in shards))
    for text in ("{}", "[]", "3", "null", *(json.dumps({"weight_map": value}) for value in maps)):
        (folder / "model.safetensors.index.json").write_text(text)
        text = _sentence(lambda: compress(Recipe(NAME), device="cpu", source=str(folder)))
        assert "model.safetensors.index.json does not say which file has which tensor" in text


def test_a_folder_without_weights_is_refused(folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["built"], tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    assert "it has no model.safetensors" in _sentence(lambda: checkpoint.load(folder, "cpu"))


@pytest.mark.parametrize("damage", ["pointer", "cut"])
def test_the_command_line_prints_the_sentence(damage: str, folders: dict, tmp_path: Path, capsys) -> None:
    folder = _damaged(folders["built"], tmp_path / "damaged", FILES[0], damage)
    arguments = ["ask", str(folder), "--image", str(IMAGE), "--question", "What is it?", "--device", "cpu"]
    assert main(arguments) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and printed[0].startswith("vlmcomp: the checkpoint in") and FILES[0] in printed[0]


def test_the_app_shows_the_sentence_on_the_card(folders: dict, tmp_path: Path, monkeypatch) -> None:
    folder = _damaged(folders["source"], tmp_path / "damaged", SHARD, "pointer")
    spec = registry.ModelSpec(**vars(registry.get_model_spec(NAME)) | {"source": str(folder)})
    monkeypatch.setitem(registry.MODELS, NAME, spec)
    monkeypatch.setattr("vlmcomp.compression.size_estimate.estimate_memory", lambda recipe: (0, 0))
    *_, last = compare(Image.open(IMAGE), "What is it?", [f"{NAME}/int8"])
    assert last.cards[0].error and "run 'git lfs pull'" in last.cards[0].status


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cached_variant_is_built_again(damage: str, tmp_path: Path, caplog) -> None:
    recipe, cache = Recipe.parse("llava-shapes/int8"), VariantCache(tmp_path, 10**9)
    get_or_build(recipe, "cpu", cache)
    ((entry, _),) = cache.entries()
    file = entry / "model" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage][0](whole))
    assert get_or_build(recipe, "cpu", cache).recipe == recipe
    ((entry, _),) = cache.entries()
    assert "is built again" in caplog.text and (entry / "model" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("damage", ["cut", "empty", "page"])
def test_a_damaged_training_checkpoint_is_one_sentence(damage: str, tmp_path: Path) -> None:
    from vlmcomp.training import trainer

    file = tmp_path / "checkpoint.pt"
    torch.save({"plan": {}, "model": {}}, file)
    file.write_bytes(DAMAGES[damage][0](file.read_bytes()))
    text = _sentence(lambda: trainer.train("llava-shapes", tmp_path / "out", tmp_path, steps=1, tower_steps=1))
    assert text.startswith(f"{file} is damaged, remove it to start again: ")
