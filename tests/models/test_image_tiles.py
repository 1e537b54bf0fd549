"""SmolVLM reads one tile of an image on a CPU and all of them elsewhere; its files keep the processor's own setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from tests.support.families import write
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe


def test_one_tile_on_a_cpu_and_all_of_them_elsewhere(tmp_path: Path) -> None:
    vlm = compress(Recipe("smolvlm-256m"), device="cpu", source=str(write("smolvlm-256m", tmp_path / "source")))
    images, questions = [Image.new("RGB", (96, 64))], ["What is it?"]
    one = vlm.encode(images, questions)
    assert one["pixel_values"].shape[1] == 1 and vlm.image_note == "image read as one tile"
    assert (one["input_ids"] == vlm.model.config.image_token_id).sum() == vlm.processor.image_seq_len

    checkpoint.save(vlm, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved", "cpu")
    loaded.spec = replace(loaded.spec, single_tile_on_cpu=False)
    assert loaded.encode(images, questions)["pixel_values"].shape[1] > 1 and not loaded.image_note


def test_only_models_that_cut_images_are_told_anything() -> None:
    for spec in registry.MODELS.values():
        assert bool(spec.image_settings("cpu")) == (spec.family == "idefics3") == bool(spec.image_note("cpu"))
        assert not spec.image_settings("cuda") and not spec.image_note("cuda")
