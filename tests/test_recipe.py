"""A recipe is its string."""

from __future__ import annotations

import itertools

import pytest

from vlmcomp.models import registry
from vlmcomp.recipe import PRECISIONS, PruningStep, Recipe, base_precision

_STEPS = [
    (),
    (PruningStep("glu", 30),),
    (PruningStep("ffn", 1),),
    (PruningStep("heads", 90),),
    (PruningStep("heads", 25), PruningStep("glu", 30)),
    (PruningStep("vis", 50),),
    (PruningStep("vis", 7), PruningStep("heads", 25), PruningStep("ffn", 30)),
]


@pytest.mark.parametrize("steps, precision", itertools.product(_STEPS, PRECISIONS))
def test_parse_inverts_str(steps: tuple[PruningStep, ...], precision: str) -> None:
    recipe = Recipe("llava-1.5-7b", steps, precision)
    assert Recipe.parse(str(recipe)) == recipe
    assert "/" not in recipe.slug and "+" not in recipe.slug
    assert recipe.baseline == Recipe("llava-1.5-7b")


@pytest.mark.parametrize(
    "text, nearest",
    [
        ("llava-shapes/glu30", "llava-shapes/glu30+fp16"),
        ("llava-shapes/GLU30+int8", "llava-shapes/glu30+int8"),
        ("llava-shapes/glu30+heads25+int8", "llava-shapes/heads25+glu30+int8"),
        ("llava-shapes/nf4", "llava-shapes/int4"),
        ("llava-shapes/glu030+int4", "llava-shapes/glu30+int4"),
        ("llava-shapes/glu95+int4", "llava-shapes/glu90+int4"),
        ("llava-shapes/int5", "llava-shapes/int8"),
        ("llava-shapes/glu30+vis50+int8", "llava-shapes/vis50+glu30+int8"),
        ("llava-shapes/Visual50+int8", "llava-shapes/vis50+int8"),
        ("llava-shapes/vis99+fp16", "llava-shapes/vis90+fp16"),
        ("llava-shapes/int4_torchao", "llava-shapes/int4-torchao"),
        ("llava-shapes/glu30+int8torchao", "llava-shapes/glu30+int8-torchao"),
        ("llava-shapes/glu30+int4+torchao", "llava-shapes/glu30+int4-torchao"),
        ("llava-shapes/nf4-torch-ao", "llava-shapes/int4-torchao"),
        ("llava-shapes/int4-ao", "llava-shapes/int4-torchao"),
        ("llava-shapes/torchao", "llava-shapes/int8-torchao"),
        ("llava-shapes/fp16-torchao", "llava-shapes/fp16"),
        ("llava-shapes/W4A16", "llava-shapes/w4a16"),
        ("llava-shapes/glu30+gptq", "llava-shapes/glu30+w4a16"),
        ("llava-shapes/heads25+w8a8", "llava-shapes/heads25+w8a16"),
        ("llava-shapes/w4a16-torchao", "llava-shapes/w4a16"),
    ],
)
def test_a_wrong_spelling_names_the_right_one(text: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as error:
        Recipe.parse(text)
    assert nearest in str(error.value)
    assert str(Recipe.parse(nearest)) == nearest


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "llava-shapes", "/fp16", "a/", "a/+fp16", "a b/fp16", "a/fp16+", "a/glu30+glu20+fp16"),
        *("a/vis0+fp16", "a/vis50+vis30+fp16"),
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Recipe.parse(text)


def test_names_for_people_and_for_urls_tell_the_libraries_apart() -> None:
    one, other = (Recipe.parse(f"llava-shapes/glu30+int4{library}") for library in ("", "-torchao"))
    removed = "30 % of MLP neurons removed"
    assert (one.label, other.label) == (f"INT4 (NF4), {removed}", f"INT4 (torchao), {removed}")
    assert other.slug == "llava-shapes--glu30-int4-torchao" and other.technique == one.technique == "combined"
    recipes = [Recipe("llava-shapes", steps, p) for steps in _STEPS for p in PRECISIONS]
    assert len({recipe.slug for recipe in recipes}) == len(recipes)
    assert [base_precision(p) for p in PRECISIONS] == ["fp16", *["int8", "int4"] * 3]


def test_the_zoo_refuses_what_the_anatomy_cannot_do() -> None:
    with pytest.raises(ValueError, match="use glu30"):
        registry.validate_recipe(Recipe.parse("llava-shapes/ffn30+fp16"))
    with pytest.raises(ValueError, match="unknown model 'gpt'"):
        registry.validate_recipe(Recipe.parse("gpt/fp16"))
    assert registry.validate_recipe(Recipe.parse("llava-1.5-7b/heads25+glu30+int4")).name == "llava-1.5-7b"
