"""Benchmarks, comparisons and recommendations from Python agree with the command line's."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vlmcomp
from vlmcomp.cli.main import main
from vlmcomp.results import store

ROOT = Path(__file__).resolve().parents[2]
MACHINE = "cpu-amd-epyc-2c"
RECIPES = ("llava-shapes/glu30+int8", "llava-shapes/fp16")


def test_import_loads_no_torch() -> None:
    code = (
        "import sys, vlmcomp; vlmcomp.list_models(); vlmcomp.Recipe.parse('llava-shapes/int8'); dir(vlmcomp); "
        "sys.exit(' '.join({'torch', 'transformers', 'bitsandbytes', 'torchao'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    assert set(vlmcomp.__all__) <= set(dir(vlmcomp))
    for name in vlmcomp.__all__:
        value = getattr(vlmcomp, name)
        assert name == "__version__" or inspect.getdoc(value), name
        if inspect.isfunction(value):
            assert "->" in str(inspect.signature(value)), name
            assert all(word in (value.__doc__ or "") for word in ("Example:",)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        vlmcomp.nothing  # noqa: B018


def test_a_benchmark_is_stored_only_where_it_is_told_to(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime for path in store.PRECOMPUTED.rglob("*")}
    result = vlmcomp.benchmark(
        "llava-shapes/int8", tasks=["shapes-vqa"], num_samples=4, device="cpu", results_dir=tmp_path / "results"
    )
    assert {path: path.stat().st_mtime for path in store.PRECOMPUTED.rglob("*")} == before
    (stored,) = store.load_all(tmp_path / "results")
    assert (stored.recipe, stored.date, stored.size) == ("llava-shapes/int8", result.report.date, result.report.size)
    assert store.load_predictions(stored, tmp_path / "results") == result.predictions
    assert "llava-shapes/int8: shapes-vqa" in str(result)
    again = vlmcomp.compare("llava-shapes/int8", result, results_dir=tmp_path / "results")
    assert again.quality["shapes-vqa"].agreement == 1.0 and again.quality["shapes-vqa"].num_samples == 4
    assert str(again) == again.verdict


@pytest.mark.parametrize("settings", [{"tasks": ["none"]}, {"tasks": []}, {"num_samples": 0}])
def test_a_benchmark_of_nothing_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError):
        vlmcomp.benchmark("llava-shapes/int8", device="cpu", **settings)


def test_recipes_and_reports_compare_as_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *RECIPES]) == 0
    printed = capsys.readouterr().out
    by_name = vlmcomp.compare(*RECIPES, hardware=MACHINE)
    assert f"On {MACHINE}. {by_name.verdict}" in printed
    reports = {r.recipe: r for r in store.load_all() if r.hardware.slug == MACHINE}
    by_report = vlmcomp.compare(reports[RECIPES[0]], vlmcomp.Recipe.parse(RECIPES[1]))
    assert by_report == by_name
    assert set(by_name.quality) == {"shapes-vqa", "easy-vqa"} and by_name.speedup is not None


def test_what_was_not_measured_does_not_compare(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="several machines"):
        vlmcomp.compare(*RECIPES)
    with pytest.raises(ValueError, match="no machine that measured both"):
        vlmcomp.compare(*RECIPES, results_dir=tmp_path)
    with pytest.raises(ValueError, match="is not a recipe"):
        vlmcomp.compare("llava-shapes", RECIPES[1])


def test_recommendations_are_the_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--memory", "70MB", "--loss", "2", "--for", "memory"]) == 0
    printed = capsys.readouterr().out
    found = vlmcomp.recommend(memory="70MB", max_accuracy_drop=2.0)
    assert found.best is not None and printed.startswith(f"{found.best.recipe}\n{found.reason}")
    assert vlmcomp.recommend(memory="1KB").best is None
    assert not vlmcomp.recommend(model="llava-1.5-7b", memory="8GB").measured
    with pytest.raises(ValueError, match="no reports of the hardware"):
        vlmcomp.recommend(memory="8GB", hardware="abacus")
