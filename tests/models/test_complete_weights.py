"""Tensors that are missing, superfluous or of another shape are refused by name, wherever weights are loaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from tests.support.edited_weights import Tensors, edited_config, edited_copy
from tests.support.families import FAMILIES, write
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import registry
from vlmcomp.models.loading import load
from vlmcomp.recipe import Recipe
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.variants import cache_key, get_or_build

NAME = "llava-shapes"
BUNDLED = Path(registry.get_model_spec(NAME).name_or_path)
NORM = "language_model.model.norm.weight"


def _load_source(folder: Path) -> object:
    return load(registry.get_model_spec(NAME), str(folder), lambda text, fraction: None)


def _load_built(folder: Path) -> object:
    return checkpoint.load(folder, "cpu")


@pytest.fixture(scope="session")
def folders(built: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A built checkpoint by the steps of its recipe; the bundled model for "source"."""

    def folder(steps: str) -> Path:
        if steps == "source":
            return BUNDLED
        saved = tmp_path_factory.getbasetemp() / f"built-{steps}"
        if not saved.exists():
            # a model of its own: others ask theirs questions, after which INT4 cannot be saved
            checkpoint.save(built.__wrapped__(f"{NAME}/{steps}"), saved)
        return saved

    return folder


def _widen(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name]])


EDITS = {
    "missing": (lambda tensors: tensors.pop(NORM), r"model\.language_model\.norm\.weight is missing"),
    "all missing": (
        lambda tensors: [tensors.pop(n) for n in list(tensors) if "proj" in n],
        r"\d+ tensors \(.*\.\.\.\)",
    ),
    "superfluous": (
        lambda tensors: tensors.update({NORM.replace("norm", "norm2"): torch.ones(4)}),
        r"norm2\.weight is no part of the model",
    ),
    "another shape": (
        lambda tensors: _widen(tensors, NORM),
        r"norm\.weight is of another shape .*\(384 instead of 192\)",
    ),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("steps", ["source", "fp16", "int8"])
def test_tensors_that_do_not_fit_are_refused_by_name(steps: str, name: str, folders: Callable, tmp_path: Path) -> None:
    edit, sentence = EDITS[name]
    folder = edited_copy(folders(steps), tmp_path / "edited", edit)
    with pytest.raises(ValueError, match=sentence) as refused:
        (_load_source if steps == "source" else _load_built)(folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("steps", ["fp16", "int8", "int4", "int8-torchao", "int4-torchao", "w8a16", "w4a16"])
def test_every_kind_of_tensor_is_needed(steps: str, folders: Callable, tmp_path: Path) -> None:
    names: list[str] = []
    edited_copy(folders(steps), tmp_path / "names", names.extend)
    kinds = {re.sub(r"\d+", "0", name): name for name in names}
    optional = {kind for kind in kinds if kind.endswith("weight_format")}  # bitsandbytes has only one
    for index, name in enumerate(kinds[kind] for kind in sorted(kinds.keys() - optional) if ".up_proj" in kind):
        folder = edited_copy(folders(steps), tmp_path / str(index), lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(ValueError, match=rf"{re.escape(name.split('.layers.')[1])} is missing"):
            _load_built(folder)
    assert index == {"fp16": 0, "int8": 1, "int4": 5}.get(steps, 2)


@pytest.mark.parametrize("steps", ["int8", "int4", "int8-torchao", "int4-torchao", "w8a16", "w4a16"])
def test_packed_tensors_of_another_shape_are_refused(steps: str, folders: Callable, tmp_path: Path) -> None:
    names: list[str] = []
    edited_copy(folders(steps), tmp_path / "names", names.extend)
    for index, name in enumerate(n for n in names if "layers.0.mlp.up_proj" in n and not n.endswith(("format", "nf4"))):
        folder = edited_copy(folders(steps), tmp_path / str(index), lambda tensors, name=name: _widen(tensors, name))
        with pytest.raises(
            ValueError, match=rf"{re.escape(name.split('.layers.')[1])} is of another shape than in the model"
        ):
            _load_built(folder)


def test_a_pruned_folder_with_the_config_of_the_dense_model_is_refused(
    folders: Callable, samples: list, tmp_path: Path
) -> None:
    folder = tmp_path / "pruned"
    checkpoint.save(compress(Recipe.parse(f"{NAME}/glu30+fp16"), device="cpu", calibration_data=samples), folder)
    shutil.copy(folders("fp16") / "config.json", folder)
    edited_config(folder, vlmcomp_recipe=f"{NAME}/glu30+fp16")
    with pytest.raises(ValueError, match=r"tensors \(.*\) are of another shape than in the model"):
        _load_built(folder)


def test_a_recipe_file_of_another_build_is_refused(folders: Callable, tmp_path: Path) -> None:
    for steps, other in (
        ("fp16", "int8"),
        ("int8", "fp16"),
        ("int8", "int4"),
        ("int4", "int8"),
        ("int8", "int4-torchao"),
        ("int8", "w4a16"),
        ("w4a16", "int4-torchao"),
        ("w4a16", "w8a16"),
    ):
        folder = shutil.copytree(folders(steps), tmp_path / f"{steps} as {other}")
        shutil.copy(folders(other) / checkpoint.FILE, folder)
        with pytest.raises(ValueError, match=f"the checkpoint in {folder} is damaged: "):
            _load_built(folder)
    folder = shutil.copytree(folders("fp16"), tmp_path / "another family")
    file = folder / checkpoint.FILE
    file.write_text(file.read_text().replace(NAME, "qwen2-vl-2b"))
    with pytest.raises(ValueError, match=r"recipe\.json is of a qwen2_vl model, and config\.json of a llava model"):
        _load_built(folder)


def test_weights_of_another_depth_are_refused(folders: Callable, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(BUNDLED).text_config.to_dict()
    folder = shutil.copytree(BUNDLED, tmp_path / "edited")
    edited_config(folder, text_config=config | {"num_hidden_layers": config["num_hidden_layers"] - 1})
    with pytest.raises(ValueError, match=r"\d tensors \(.*\) are no part of the model"):
        _load_source(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_older_versions_stored_is_ignored(name: str, tmp_path: Path) -> None:
    """Buffers that are computed now, a tied lm_head with and without its tensor."""
    old = {
        "position_ids": torch.arange(4)[None],
        "rotary_emb.inv_freq": torch.ones(4),
        "rotary_pos_emb.inv_freq": torch.ones(4),
    }

    def edit(tensors: Tensors) -> None:
        parts = {re.sub(r"\.[^.]+$", "", tensor) for tensor in tensors}
        tensors.update({f"{part}.{buffer}": value.clone() for part in parts for buffer, value in old.items()})

    folder = edited_copy(write(name, tmp_path / "new"), tmp_path / "old", edit)
    load(registry.get_model_spec(name), str(folder), lambda text, fraction: None)


def test_an_incomplete_cached_variant_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, cache = Recipe.parse(f"{NAME}/int8"), VariantCache(tmp_path, 10**9)
    get_or_build(recipe, "cpu", cache)
    ((entry, _),) = cache.entries()
    model = entry / "model"
    whole = model.rename(tmp_path / "whole")
    edited_copy(whole, model, lambda tensors: tensors.pop(NORM, None))
    monkeypatch.setattr("vlmcomp.serving.variant_cache._verify", lambda *args: None)  # as if it had been written so
    assert get_or_build(recipe, "cpu", cache).recipe == recipe
    assert "norm.weight is missing" in caplog.text
    assert cache.get(cache_key(recipe, "cpu"), checkpoint.load, lambda text, fraction: None) is not None


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write("llava-1.5-7b", tmp_path / "tiny")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name}, which model.safetensors.index.json lists, is missing"):
        compress(Recipe.parse("llava-1.5-7b/int8"), device="cpu", source=str(folder))
