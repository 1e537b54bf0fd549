"""Folders that trainers of adapters wrote are refused: their weights alone would answer as the base model does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.edited_weights import edited_copy
from tests.support.families import write
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import registry
from vlmcomp.models.source_check import check_source
from vlmcomp.recipe import Recipe

NAME = "llava-1.5-7b"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "mm_projector.bin")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NAME, tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("file", [*ADAPTERS, "checkpoint-10/adapter_config.json"])
@pytest.mark.parametrize("beside", [True, False])
def test_what_trainers_of_adapters_write_is_refused(file: str, beside: bool, tiny: Path, tmp_path: Path) -> None:
    """Whatever else is in the folder, and before weights are downloaded."""
    files = {file, "checkpoint-10/config.json"} | ({"config.json"} if beside else set())
    with pytest.raises(ValueError, match=f"some/source has an adapter \\({file}\\), which is not applied: merge it"):
        check_source(registry.get_model_spec(NAME), "some/source", files, tiny.joinpath)
    folder = edited_copy(tiny, tmp_path / "source", lambda tensors: None) if beside else tmp_path
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"has an adapter .*: merge it"):
        compress(Recipe(NAME), device="cpu", source=str(folder))


def test_the_output_folder_of_a_trainer_names_its_checkpoints(tiny: Path, tmp_path: Path) -> None:
    for number in (10, 20):
        edited_copy(tiny, tmp_path / f"checkpoint-{number}", lambda tensors: None)
    with pytest.raises(ValueError, match=r"a trainer's output: give one of its subfolders, such as checkpoint-20"):
        compress(Recipe(NAME), device="cpu", source=str(tmp_path))
    assert compress(Recipe(NAME), device="cpu", source=str(tmp_path / "checkpoint-20"))
