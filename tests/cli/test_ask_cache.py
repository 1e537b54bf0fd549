"""``ask RECIPE`` takes what was built from the app's cache, unless options change what is built."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.served import BLUE
from vlmcomp.cli.main import main
from vlmcomp.compression import pipeline
from vlmcomp.models import registry

ASK = ["ask", "llava-shapes/glu30+int8", "--image", str(BLUE), "--question", "What color is the shape?"]


def test_what_was_built_once_is_asked_again_without_a_build(
    built, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VLMCOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLMCOMP_CACHE_GB", "1")
    vlm, compressed = built("llava-shapes/glu30+int8"), []
    monkeypatch.setattr(pipeline, "compress", lambda recipe, **settings: compressed.append(settings) or vlm)
    weights = tmp_path / "weights"
    shutil.copytree(registry.get_model_spec("llava-shapes").name_or_path, weights)
    for options, builds in (
        ([], 1),
        ([], 1),
        (["--calibration-data", "shapes"], 2),
        (["--source", str(weights)], 3),
        (["--prompt-template", "<image>{question}"], 4),
        ([], 4),
    ):
        assert main([*ASK, "--device", "cpu", *options]) == 0
        assert capsys.readouterr().out == "The shape is blue.\n" and len(compressed) == builds, options
