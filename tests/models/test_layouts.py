"""Checkpoints of every family load from every layout of files that real repositories have, and give the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support.families import FAMILIES, write
from tests.support.layouts import layouts
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
