"""A report is reused, and its scores are kept, only for recipes that were calibrated on the same data."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support import made_reports
from vlmcomp.data.calibration_set import load_sources
from vlmcomp.evaluation import provenance
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.schema import PruningResult, Report

CONFIG = BenchmarkConfig(tasks=("shapes-vqa",))


def _report(recipe: str, calibration: str) -> Report:
    result = PruningResult("glu30", 30, 30.0, 448, 640, "MLP neurons a layer", "a score", calibration)
    return made_reports.report(recipe, pruned=[result] if "glu" in recipe else [], backend=f"x, {calibration}")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for color in ("red", "blue"):
        Image.new("RGB", (96, 96), color).save(tmp_path / f"{color}.png")
    file = tmp_path / "mine.jsonl"
    rows = (f'{{"image": "{color}.png", "question": "What color?", "answer": "{color}"}}' for color in ("red", "blue"))
    file.write_text("\n".join(rows))
    return file


@pytest.mark.parametrize("recipe", ["llava-shapes/glu30+int8", "llava-1.5-7b/glu30+int8", "llava-1.5-7b/w4a16"])
def test_calibrated_alike(recipe: str, mine: Path) -> None:
    own = load_sources(str(mine), 8, progress=lambda text, fraction: None).description
    by_data = {
        None: "real mixture" if recipe.startswith("llava-1.5") else "drawn scenes",
        "shapes": "drawn scenes",
        str(mine): own,
    }
    for measured in ("real mixture, sha256:01", "drawn scenes", own, f"{own}, answers of the original model"):
        report = _report(recipe, f"8 samples, 900 tokens, {measured}")
        for data, name in by_data.items():
            config = BenchmarkConfig(CONFIG.tasks, calibration_data=data)
            assert provenance.is_calibrated_alike(report, config) == (
                measured == name or measured.startswith(f"{name}, sha")
            ), (measured, data)
    given = _report(recipe, f"8 samples, 900 tokens, {own}")
    assert not provenance.is_calibrated_alike(given, BenchmarkConfig(calibration_data=str(mine), answers="self"))


def test_a_recipe_without_calibration_is_the_same_on_any_data() -> None:
    report = made_reports.report("llava-shapes/int8", pruned=[])
    assert all(
        provenance.is_calibrated_alike(report, BenchmarkConfig(calibration_data=data)) for data in (None, "shapes")
    )


def test_published_reports_are_of_the_default_data() -> None:
    assert all(provenance.is_calibrated_alike(report, CONFIG) for report in store.load_all())


def test_resumed_answers_are_of_the_same_data(mine: Path) -> None:
    recipe = Recipe.parse("llava-shapes/glu30+int8")
    found = {
        provenance.calibration_description(recipe, BenchmarkConfig(calibration_data=data))
        for data in (None, str(mine), f"shapes,{mine}*3")
    }
    assert len(found) == 3 and "drawn scenes" in found
