"""Presets, chips and controls: whatever they select can be asked."""

from __future__ import annotations

import pytest

from vlmcomp.app import handlers, variant_picker
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe


@pytest.mark.parametrize("model", registry.MODELS)
def test_every_preset_of_every_model_can_be_asked(model: str) -> None:
    for name in variant_picker.PRESETS:
        recipes = handlers.parse_recipes(variant_picker.preset(model, name))
        assert recipes[0] == Recipe(model) and len(recipes) >= handlers.MIN_VARIANTS


def test_presets_by_results_follow_the_results() -> None:
    smallest = variant_picker.preset("llava-shapes", "Smallest")[1]
    assert Recipe.parse(smallest).precision.startswith("int4") and Recipe.parse(smallest).steps


def test_controls_give_any_recipe_and_refuse_what_the_model_cannot_do() -> None:
    assert variant_picker.combine("llava-shapes", "int4", 30, 20, 50) == "llava-shapes/vis50+heads20+glu30+int4"
    assert variant_picker.combine("blip2-opt-2.7b", "w4a16", 10, 0, 0) == "blip2-opt-2.7b/ffn10+w4a16"
    assert variant_picker.combine("llava-shapes", "fp16", 0, 0, 0) == "llava-shapes/fp16"
    with pytest.raises(ValueError, match="vis20 does not fit smolvlm-256m"):
        variant_picker.combine("smolvlm-256m", "int4", 0, 0, 20)


def test_real_models_start_with_what_needs_no_calibration() -> None:
    for spec in registry.MODELS.values():
        recipes = handlers.parse_recipes(handlers.default_variants(spec.name))
        assert spec.bundled or not any(recipe.needs_calibration for recipe in recipes)


def test_variants_that_a_visitor_cannot_wait_for_say_so() -> None:
    assert variant_picker.label("smolvlm-256m/glu30+int4").endswith("(not built here)")
    assert variant_picker.label("smolvlm-256m/int4").endswith("· int4")
    assert variant_picker.label("llava-shapes/glu30+int4").endswith("· glu30+int4")
