"""Arguments of the API that several functions take, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from vlmcomp.api.argument_types import check_count, check_list, check_texts, shown
from vlmcomp.compression.calibration_choice import CalibrationData
from vlmcomp.data.calibration_set import CalibrationSet
from vlmcomp.feedback import format_count
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import MAX_NEW_TOKENS

ImageInput: TypeAlias = "str | Path | Image.Image"


def check_length(max_new_tokens: int) -> None:
    """Raises ``ValueError`` for an answer length in tokens that the engine does not allow."""
    check_count("max_new_tokens", max_new_tokens, 1, MAX_NEW_TOKENS)


def check_batch(images: Sequence[ImageInput], questions: Sequence[str]) -> tuple[list[ImageInput], list[str]]:
    """Both as lists of one length; raises ``ValueError`` if they are none."""
    image_list = check_list("images", images, "paths or PIL images")
    question_list = check_list("questions", questions, "texts")
    if len(image_list) != len(question_list):
        counts = f"{format_count(len(image_list), 'image')} and {format_count(len(question_list), 'question')}"
        raise ValueError(f"{counts}: pass one question for each image")
    return image_list, question_list  # type: ignore[return-value]  # their items are checked where they are read


def parse_recipe(recipe: str | Recipe, steps: str | None = None) -> Recipe:
    """The recipe of a text, or of a model's name and its steps. Raises ``ValueError`` for anything else."""
    check_texts(steps=steps)
    if isinstance(recipe, Recipe) and steps is None:
        return recipe
    if steps is None:
        return registry.parse_recipe(recipe, "source=")  # type: ignore[arg-type]
    name = registry.resolve_hub_id(recipe) if isinstance(recipe, str) else recipe
    if isinstance(name, Recipe) or (isinstance(name, str) and "/" in name):
        raise ValueError(f"{recipe} already says what to do: leave out steps, or give a model name")
    if not isinstance(name, str):
        raise ValueError(f"{shown(recipe)} is not a model name: give one of vlmcomp.list_models()")
    return Recipe.parse(f"{name}/{steps}")


def check_calibration_data(data: CalibrationData | None) -> CalibrationData | None:
    """``data``, if it is sources or samples; raises ``ValueError`` if it is neither."""
    if data is None or isinstance(data, str | Path | CalibrationSet):
        return data
    return check_list("calibration_data", data, "(image, question, answer), or a file of them")
