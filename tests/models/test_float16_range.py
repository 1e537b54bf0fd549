"""A weight that its storage dtype cannot hold is named before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.edited_weights import edited_config, edited_copy
from tests.support.families import write
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.recipe import Recipe

NAME = "llava-1.5-7b"
HUGE = "model.language_model.layers.1.mlp.up_proj.weight"


def _refusal(load: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as refused:
        load()
    return str(refused.value)


@pytest.mark.parametrize("steps, computed", [("fp16", "float32"), ("int8", "float32"), ("int8", "bfloat16")])
@pytest.mark.parametrize(
    "value, sentence", [(2.0**20, "reaches 1.049e+06, and float16 ends at 65504"), (float("nan"), "NaN")]
)
def test_a_weight_beyond_float16_is_named(
    value: float, sentence: str, steps: str, computed: str, tmp_path: Path, monkeypatch
) -> None:
    folder = _huge(tmp_path, value)
    monkeypatch.setattr("vlmcomp.models.loading.compute_dtype", lambda *args: getattr(torch, computed))
    text = _refusal(lambda: compress(Recipe.parse(f"{NAME}/{steps}"), device="cpu", source=str(folder)))
    assert text.startswith(HUGE) and sentence in text


def test_bfloat16_keeps_a_weight_beyond_float16(tmp_path: Path, monkeypatch) -> None:
    """Until a device that computes in float16 loads it."""
    folder = _huge(tmp_path, 2.0**20)
    for module in ("models.loading", "compression.checkpoint"):
        monkeypatch.setattr(f"vlmcomp.{module}.compute_dtype", lambda *args: torch.bfloat16)
    checkpoint.save(compress(Recipe(NAME), device="cpu", source=str(folder)), tmp_path / "out")
    assert checkpoint.load(tmp_path / "out", "cpu").model.get_parameter(HUGE).max() == 2.0**20
    monkeypatch.setattr("vlmcomp.compression.checkpoint.compute_dtype", lambda *args: torch.float16)
    assert HUGE in _refusal(lambda: checkpoint.load(tmp_path / "out", "cpu"))


def test_a_config_whose_dtype_is_too_narrow_is_told(tmp_path: Path) -> None:
    folder = edited_config(_huge(tmp_path, 2.0**20), dtype="float16")
    text = _refusal(lambda: compress(Recipe(NAME), device="cpu", source=str(folder)))
    assert text.startswith(f"{HUGE} contains NaN or infinity as float16") and "config.json" in text


def _huge(folder: Path, value: float) -> Path:
    """A source in bfloat16 of which one weight has ``value``."""
    source = edited_config(write(NAME, folder / "tiny"), dtype="bfloat16")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()
            if name.endswith("layers.1.mlp.up_proj.weight"):
                tensors[name][0, 0] = value

    return edited_copy(source, folder / "huge", edit)
