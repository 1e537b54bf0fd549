"""Memory is that of a process that loaded the saved checkpoint: what was removed is not needed any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.evaluation.checkpoint_memory import measure_memory
from vlmcomp.recipe import Recipe


def test_pruned_and_quantized_models_need_no_more_than_the_dense_one(built: Callable, tmp_path: Path) -> None:
    peaks = []
    int4 = compress(Recipe.parse("llava-shapes/int4"), device="cpu")  # the one of other tests has repacked its weights
    for number, vlm in enumerate((built("llava-shapes/fp16"), built("llava-shapes/glu50+fp16"), int4)):
        checkpoint.save(vlm, tmp_path / str(number))
        loaded, peak = measure_memory(tmp_path / str(number), Image.new("RGB", (96, 96)), "What is it?", 4)
        assert 0 < loaded < peak
        peaks.append(peak)
    assert peaks == sorted(peaks, reverse=True)


def test_a_checkpoint_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the saved checkpoint could not be measured: "):
        measure_memory(tmp_path / "empty", Image.new("RGB", (8, 8)), "What is it?", 1)
