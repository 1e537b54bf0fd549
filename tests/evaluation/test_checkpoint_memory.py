"""Memory is that of a process that loaded the saved checkpoint: what was removed is not needed any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmcomp.compression import checkpoint
from vlmcomp.evaluation.checkpoint_memory import measure_memory


def test_a_pruned_model_needs_no_more_than_the_dense_one(built: Callable, tmp_path: Path) -> None:
    peaks = []
    for number, recipe in enumerate(("llava-shapes/fp16", "llava-shapes/glu50+fp16")):
        checkpoint.save(built(recipe), tmp_path / str(number))
        loaded, peak = measure_memory(tmp_path / str(number), Image.new("RGB", (96, 96)), "What is it?", 4)
        assert 0 < loaded < peak
        peaks.append(peak)
    assert peaks == sorted(peaks, reverse=True)


def test_a_checkpoint_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the saved checkpoint could not be measured: "):
        measure_memory(tmp_path / "empty", Image.new("RGB", (8, 8)), "What is it?", 1)
