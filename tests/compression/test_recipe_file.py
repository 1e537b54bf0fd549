"""recipe.json must be that of the weights beside it: it decides the prompt, the image tokens and the libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.recipe import Recipe

NAME = "llava-shapes"


@pytest.fixture(scope="module", params=["fp16", "glu30+int8", "vis50+fp16", "vis50+heads25+fp16"])
def built(request: pytest.FixtureRequest, samples: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built folder; its name is that of its recipe."""
    recipe = Recipe.parse(f"{NAME}/{request.param}")
    vlm = compress(recipe, device="cpu", calibration_data=samples if recipe.needs_calibration else None)
    checkpoint.save(vlm, folder := tmp_path_factory.mktemp("built") / request.param)
    assert checkpoint.load(folder, "cpu").recipe == recipe
    return folder


def _with_recipe(folder: Path, copy: Path, recipe: str) -> Path:
    shutil.copytree(folder, copy)
    file = copy / checkpoint.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"recipe": recipe}))
    return copy


def test_another_model_or_other_steps_are_refused(built: Path, tmp_path: Path) -> None:
    others = [f"llava-1.5-7b/{built.name}", f"{NAME}/vis30+{built.name.removeprefix('vis50+')}", f"{NAME}/glu50+fp16"]
    others += [f"{NAME}/fp16", f"{NAME}/{built.name.removeprefix('vis50+')}", f"{NAME}/int8"]
    for number, recipe in enumerate(others):
        if recipe == f"{NAME}/{built.name}":
            continue
        folder = _with_recipe(built, tmp_path / str(number), recipe)
        with pytest.raises(ValueError, match=r"is damaged: recipe\.json says ") as refused:
            checkpoint.load(folder, "cpu")
        assert recipe in str(refused.value)


def test_folders_of_older_versions_load_and_are_checked_by_their_steps(built: Path, tmp_path: Path) -> None:
    """Their config.json does not name the recipe."""
    folder = shutil.copytree(built, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("vlmcomp_recipe") == f"{NAME}/{built.name}"
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(folder, "cpu").recipe.name == built.name
    folder = _with_recipe(folder, tmp_path / "edited", f"{NAME}/vis20+{built.name.removeprefix('vis50+')}")
    with pytest.raises(ValueError, match="and lists other steps as pruned"):
        checkpoint.load(folder, "cpu")


def test_a_dense_folder_gives_its_recipe_to_no_build(tmp_path: Path) -> None:
    checkpoint.save(compress(Recipe(NAME), device="cpu"), tmp_path / "dense")
    vlm = compress(Recipe.parse(f"{NAME}/int8"), device="cpu", source=str(tmp_path / "dense"))
    checkpoint.save(vlm, tmp_path / "int8")
    assert checkpoint.load(tmp_path / "int8", "cpu").recipe == vlm.recipe
