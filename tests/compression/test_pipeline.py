"""What build refuses before it works, and calibration from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.made_models import tiny_llava
from vlmcomp.cli.main import main
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.shape_checks import check_shapes
from vlmcomp.data.calibration_data import load_calibration_file
from vlmcomp.recipe import Recipe

GOOD = {"image": "a.png", "question": "What color is the shape?", "answer": "red"}


def _file(folder: Path, *rows: object) -> Path:
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    file = folder / "samples.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def test_calibration_comes_from_a_file(tmp_path: Path) -> None:
    samples, skipped = load_calibration_file(_file(tmp_path, GOOD, "", GOOD, GOOD))
    assert len(samples) == 3 and not skipped and samples[0][1:] == ("What color is the shape?", "red")
    vlm = compress(Recipe.parse("llava-shapes/glu30+fp16"), device="cpu", calibration_data=samples)
    assert vlm.pruned[0].calibration.startswith("3 samples")


@pytest.mark.parametrize(
    ("rows", "reason"),
    {
        "wrong columns": (
            [{"picture": "a.png", "question": "?", "answer": "red"}],
            "line 1: .* image, question, answer",
        ),
        "without images": ([{"question": "What?", "answer": "red"}], "line 1: .* image, question, answer"),
        "image gone": ([GOOD, GOOD | {"image": "b.png"}], "line 2: there is no image file .*b.png; 1 of 2 rows is bad"),
        "not JSON": ([GOOD, "image,question"], "line 2: it must be a JSON object"),
        "empty answer": ([GOOD | {"answer": " "}], "non-empty"),
        "one sample": ([GOOD], "at least 2 samples"),
        "no sample": ([], "at least 2 samples"),
    }.values(),
)
def test_a_bad_calibration_file_is_one_sentence(
    rows: list, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = _file(tmp_path, *rows), tmp_path / "out"
    words = ["build", "llava-shapes/glu30+fp16", "--device", "cpu", "--out", str(out), "--calibration", str(file)]
    assert main(words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("vlmcomp: ")
    assert re.search(reason, message), message
    assert not out.exists()


def _check(text: str) -> None:
    recipe = Recipe.parse(text)
    check_shapes(tiny_llava(), recipe.steps, recipe.precision, "cpu")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("llava-shapes/heads5+fp16", "no removal or leaves nothing"),
        ("llava-shapes/glu5+fp16", "no removal"),
        ("llava-shapes/heads25+int4", "96 inputs"),
    ],
)
def test_what_the_shape_rules_out_is_refused_before_any_work(recipe: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _check(recipe)


def test_what_the_shape_allows_is_not_refused() -> None:
    for recipe in ("heads50+int4", "heads25+int8", "heads25+glu25+fp16", "glu50+int4"):
        _check(f"llava-shapes/{recipe}")
