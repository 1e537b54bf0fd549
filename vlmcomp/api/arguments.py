"""Arguments of the API that several functions take, checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from vlmcomp.data.calibration_data import CheckedSamples, load_calibration_file, open_calibration_samples
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import MAX_NEW_TOKENS

ImageInput: TypeAlias = "str | Path | Image.Image"
CalibrationData: TypeAlias = "str | Path | Iterable[tuple[ImageInput, str, str]]"


def check_length(max_new_tokens: int) -> None:
    """Raises ``ValueError`` for an answer length in tokens that the engine does not allow."""
    if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: it must be 1 to {MAX_NEW_TOKENS}")


def parse_recipe(recipe: str | Recipe, steps: str | None) -> Recipe:
    """The recipe of a text, or of a model's name and its steps. Raises ``ValueError`` for anything else."""
    if steps is None:
        return recipe if isinstance(recipe, Recipe) else Recipe.parse(recipe)
    if isinstance(recipe, Recipe) or "/" in recipe:
        raise ValueError(f"{recipe} already says what to do: leave out steps, or give a model name")
    return Recipe.parse(f"{recipe}/{steps}")


def read_calibration(data: CalibrationData, bad_rows: str) -> CheckedSamples:
    """The samples of a file or an iterable, and the rows that ``bad_rows="skip"`` left out."""
    if isinstance(data, str | Path):
        return load_calibration_file(data, bad_rows)
    return open_calibration_samples(data, bad_rows)
