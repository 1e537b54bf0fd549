"""Every checkpoint says what it is, where its weights come from, under which license, and how it is loaded."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from vlmcomp.compression import checkpoint, model_card
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe


def _vlm(name: str) -> VLM:
    """Without a model: a card is made of the facts beside it."""
    recipe = Recipe.parse(name)
    spec = registry.validate_recipe(recipe)
    facts = {"storage_dtype": "int4 decoder, rest float16", "compute_dtype": "float16", "quantization_backend": "NF4"}
    return VLM(None, None, recipe, spec, **facts)  # type: ignore[arg-type]


@pytest.mark.usefixtures("few")
def test_a_saved_checkpoint_has_a_card_of_what_was_done(tmp_path: Path) -> None:
    vlm = compress(Recipe.parse("llava-shapes/heads25+glu30+int8"), device="cpu")
    checkpoint.save(vlm, tmp_path / "small")
    card = ModelCard.load(tmp_path / "small" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert set(card.data.tags) == {"vlmcomp", "heads25", "glu30", "int8"} and card.data.base_model is None
    assert "`llava-shapes/heads25+glu30+int8`" in card.text and "Apache-2.0" in card.text
    for result in vlm.pruned:
        assert f"{result.step}: kept {result.kept} of {result.of} {result.unit}" in card.text
        assert result.calibration in card.text
    assert vlm.quantization_backend in card.text and "from_pretrained" in card.text
    loaded = checkpoint.load(tmp_path / "small", device="cpu")
    assert model_card.render(loaded, "") == (tmp_path / "small" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", registry.MODELS.values(), ids=lambda spec: spec.name)
def test_the_front_matter_names_source_and_license(spec: registry.ModelSpec) -> None:
    vlm = _vlm(f"{spec.name}/int4")
    card = ModelCard(model_card.render(vlm, "it is too narrow"))
    assert card.data.license in {"apache-2.0", "mit", "llama2", "gemma", "other"}
    assert (card.data.license == "other") == bool(card.data.get("license_link"))
    assert card.data.base_model == (None if spec.bundled else spec.source) and spec.license in card.text
    assert "it is too narrow" in card.text and "from_pretrained" not in card.text


def test_other_weights_have_their_own_license() -> None:
    for source, base in (("me/mine", "me/mine"), ("mine", None)):
        vlm = dataclasses.replace(_vlm("llava-1.5-7b/int4"), source=source, revision="abc")
        card = ModelCard(model_card.render(vlm, ""))
        assert card.data.license is None and card.data.base_model == base
        assert source in card.text and "commit abc" in card.text and not re.search("Llama 2", card.text)
