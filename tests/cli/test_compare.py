"""``compare``: on every machine and task, or on those that were chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import vlmcomp
from tests.support import made_reports as made
from vlmcomp.cli.main import main
from vlmcomp.results import store

RECIPES = ["llava-shapes/int8", "llava-shapes/fp16"]
OTHER = replace(made.HARDWARE, slug="cpu-other-4c")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for hardware in (made.HARDWARE, OTHER):
        for recipe in RECIPES:
            report = replace(made.scored(recipe, shapes_vqa=90, easy_vqa=80), hardware=hardware)
            store.save(report, made.scored_rows(report), tmp_path)
    return tmp_path


def _compared(root: Path, capsys: pytest.CaptureFixture, *options: str) -> str:
    assert main(["compare", *RECIPES, "--root", str(root), *options]) == 0
    return capsys.readouterr().out


def test_machine_and_task_are_chosen(root: Path, capsys: pytest.CaptureFixture) -> None:
    everything = _compared(root, capsys)
    assert everything.count("On cpu-") == 2 and everything.count("easy-vqa") == everything.count("shapes-vqa") == 2
    assert _compared(root, capsys, "--hardware", OTHER.slug).count(f"On {OTHER.slug}.") == 1
    on_task = _compared(root, capsys, "--task", "easy-vqa")
    assert on_task.count("easy-vqa") == 2 and "shapes-vqa" not in on_task


@pytest.mark.parametrize("option", ["--hardware", "--task"])
def test_what_was_not_measured_is_refused(option: str, root: Path, capsys: pytest.CaptureFixture) -> None:
    for folder, says in ((root, "choose "), (root / "none", "there are none, so run 'vlmcomp bench' first")):
        assert main(["compare", *RECIPES, "--root", str(folder), option, "x"]) == 2
        err = capsys.readouterr().err
        assert f"no reports of {option} x: {says}" in err and err.count("\n") == 1


def test_the_api_takes_a_task_too(root: Path) -> None:
    found = vlmcomp.compare(*RECIPES, results_dir=root, hardware=OTHER.slug, task="easy-vqa")
    assert list(found.quality) == ["easy-vqa"] and "shapes-vqa" not in found.verdict
    with pytest.raises(ValueError, match="do not have the task gqa in common"):
        vlmcomp.compare(*RECIPES, results_dir=root, hardware=OTHER.slug, task="gqa")
    best = vlmcomp.recommend(memory="8GB", results_dir=root, hardware=OTHER.slug, task="easy-vqa")
    assert "easy-vqa" in best.basis
    with pytest.raises(ValueError, match="was not measured on gqa"):
        vlmcomp.recommend(memory="8GB", results_dir=root, hardware=OTHER.slug, task="gqa")
