"""What a recipe is calibrated on: the user's data, or the default of its model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from vlmcomp.data.calibration_set import CalibrationSet, check_answers, default_source, load_sources, own_samples
from vlmcomp.data.calibration_source import GIVEN
from vlmcomp.feedback import Progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe

CalibrationData: TypeAlias = "str | Path | Iterable[Any] | CalibrationSet"


def choose_calibration(
    recipe: Recipe,
    data: CalibrationData | None = None,
    *,
    answers: str = GIVEN,
    bad_rows: str = "error",
    progress: Progress | None = None,
) -> CalibrationSet | None:
    """The samples that ``recipe`` is built by.

    Args:
        recipe: decides whether there are any, and the default.
        data: sources as ``parse_sources`` reads them, an iterable of (image, question, answer), or a set, which is
            returned. Default: the mixture for a model from the Hub, drawn scenes for a bundled one.
        answers: ``given``, or ``self`` for those that the original model will write.
        bad_rows: what to do with rows that cannot be used, one of ``BAD_ROWS``.
        progress: called with what is done, and the fraction done.

    Returns:
        None for a recipe that needs no calibration.

    Raises:
        ValueError: data or answers for such a recipe, or data that do not exist or cannot be used.
    """
    check_answers(answers)
    if not recipe.needs_calibration:
        if data is not None or answers != GIVEN:
            raise ValueError(f"{recipe} removes nothing: calibration data is for recipes that prune, and for w4a16")
        return None
    if isinstance(data, CalibrationSet):
        return data
    if data is not None and not isinstance(data, str | Path):
        return own_samples(data, bad_rows, answers)
    spec = registry.get_model_spec(recipe.model)
    return load_sources(
        str(data) if data is not None else default_source(spec.bundled),
        spec.num_calibration_samples,
        bad_rows=bad_rows,
        answers=answers,
        progress=progress or (lambda text, fraction: None),
    )
