"""Where results go is checked before the work that makes them."""

from __future__ import annotations

import argparse
import re
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest

import vlmcomp
from tests.support import made_reports as made
from vlmcomp import files
from vlmcomp.cli.commands import record
from vlmcomp.cli.commands import report as report_command
from vlmcomp.cli.main import main, make_parser
from vlmcomp.compression import pipeline
from vlmcomp.evaluation import runner, sweep
from vlmcomp.experiments import run as experiment_run
from vlmcomp.reporting import figures_matplotlib, results_tables
from vlmcomp.results import store
from vlmcomp.training import trainer

FOLDERS = [  # options that name a folder
    ["compress", "llava-shapes/glu30+int8", "--device", "cpu", "--out"],
    ["bench", "llava-shapes/int8", "--device", "cpu", "--task", "shapes-vqa", "--samples", "2", "--out"],
    ["record", "llava-shapes/int8", "--device", "cpu", "--out"],
    ["report", "--root", "reports", "--plots"],
    ["train", "llava-shapes", "--steps", "1", "--out"],
    ["train", "llava-shapes", "--steps", "1", "--work"],
]
FILES = [["report", "--root", "reports", "--out"], ["experiment", "--part", "cost", "--out"]]
NAMES = {tuple(words): " ".join([words[0], words[-1]]) for words in FOLDERS + FILES}


@pytest.fixture(autouse=True)
def nothing_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long work fails the test; there is a folder of reports."""
    monkeypatch.chdir(tmp_path)
    report = made.scored("llava-shapes/fp16", shapes_vqa=90)
    store.save(report, made.scored_rows(report), tmp_path / "reports")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    def started(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("the work has begun")

    for owner, name in (
        (pipeline, "compress"),
        (sweep, "_run_process"),
        (runner, "benchmark"),
        (record, "get_or_build"),
        (figures_matplotlib, "build_plots"),
        (results_tables, "results_section"),
        (report_command, "rescore"),
        (experiment_run, "run_experiments"),
        (trainer, "Trainer"),
    ):
        monkeypatch.setattr(owner, name, started)


def _refused(words: list[str], capsys: pytest.CaptureFixture) -> str:
    before = sorted(Path.cwd().rglob("*"))
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlmcomp: ") and Path("file").read_text() == "mine"
    assert sorted(Path.cwd().rglob("*")) == before
    return line


@pytest.mark.parametrize("place", ["file", "file/below/it", "link", "/proc/vlmcomp/out"])
@pytest.mark.parametrize("words", FOLDERS, ids=lambda words: NAMES[tuple(words)])
def test_a_folder_that_cannot_be_written_is_refused_first(words: list[str], place: str, capsys) -> None:
    line = _refused([*words, place], capsys)
    assert place in line and ("cannot be written" in line or "is not an empty folder" in line)


@pytest.mark.parametrize("place", ["file/table.md", "reports", "/proc/vlmcomp/table.json"])
@pytest.mark.parametrize("words", FILES, ids=lambda words: NAMES[tuple(words)])
def test_a_file_that_cannot_be_written_is_refused_first(words: list[str], place: str, capsys) -> None:
    line = _refused([*words, place], capsys)
    assert place.partition("/table")[0] in line and ("cannot be written" in line or "is a folder" in line)


def test_every_option_that_names_an_output_is_tried() -> None:
    """--docs rewrites files that it has read before."""
    outputs = {"--out", "--work", "--plots"}
    found = {
        (name, option)
        for name, sub in make_parser()[1].parsers.items()
        for action in sub._actions
        if not isinstance(action, argparse._HelpAction)
        for option in action.option_strings
        if option in outputs
    }
    assert found == {(words[0], words[-1]) for words in FOLDERS + FILES}


def test_a_table_would_overwrite_the_log_of_trials(capsys: pytest.CaptureFixture) -> None:
    assert "study.md" in _refused(["experiment", "--part", "cost", "--out", "study.md"], capsys)


def test_rescored_reports_need_a_folder_that_can_be_written(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    def refuse(folder: Path) -> NoReturn:
        raise OSError(f"{folder} cannot be written")

    monkeypatch.setattr(files, "check_writable", refuse)
    assert "reports cannot be written" in _refused(["report", "--root", "reports", "--rescore"], capsys)
    assert "none.md" in _refused(["report", "--root", "reports", "--rescore", "--docs", "none.md"], capsys)


def test_recordings_that_are_damaged_are_told_before_recording(capsys: pytest.CaptureFixture) -> None:
    from vlmcomp.hardware import get_hardware

    file = Path("reports") / get_hardware("cpu").slug / "examples.json"
    file.parent.mkdir()
    file.write_text("{")
    words = ["record", "llava-shapes/int8", "--device", "cpu", "--out", "reports"]
    assert str(file) in _refused(words, capsys)


def test_the_api_checks_the_folder_of_results_first(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written"):
        vlmcomp.benchmark("llava-shapes/int8", tasks=["shapes-vqa"], device="cpu", results_dir=tmp_path / "file")


@pytest.mark.parametrize(
    "words",
    [
        ["compress", "llava-1.5-7b/glu30+int8", "--device", "cpu", "--out", "small"],
        ["bench", "llava-1.5-7b/int8", "--device", "cpu", "--task", "shapes-vqa", "--out", "results"],
    ],
)
def test_a_disk_that_is_clearly_too_small_is_refused_first(words: list[str], monkeypatch, capsys) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda place: usage(10, 10, 2_000_000_000))
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlmcomp: ")]
    assert "2.0 GB free" in line and re.search(r"needs [67]\.\d GB", line)
