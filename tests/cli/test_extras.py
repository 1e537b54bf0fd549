"""Missing packages are named with the file of requirements that installs them for what was asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlmcomp.cli.main import main
from vlmcomp.evaluation import extras

ROOT = Path(__file__).resolve().parents[2]


def test_train_names_its_own_requirements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    assert main(["train", "llava-shapes"]) == 2
    assert capsys.readouterr().err == "vlmcomp: vlmcomp train needs easy_vqa: pip install -r requirements-train.txt\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [*extras._EXTRA_OF, "torch", "plotly"])
def test_the_named_file_lists_the_package(module: str) -> None:
    file = extras.import_error_sentence(ImportError(name=module)).rpartition(" ")[2]
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(module.replace("_", "-")) for line in lines)
