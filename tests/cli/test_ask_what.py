"""What ``ask`` and ``compress`` say about a model or a source that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmcomp.cli.main import main

ASKED = ["--image", "none.png", "--question", "a?"]
FOLDER = "there is no folder {}, and no model of that name: give a folder that 'vlmcomp compress' wrote, or a recipe"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "small", *ASKED], FOLDER.format("small")),
        (["ask", "runs/small", *ASKED], FOLDER.format("runs/small")),
        (["ask", "/tmp/none/small", *ASKED], FOLDER.format("/tmp/none/small")),
        (["ask", "gpt-4/int8", *ASKED], FOLDER.format("gpt-4/int8")),
        (["ask", "llava-shapes", *ASKED], "'llava-shapes' is not a recipe: write MODEL/STEPS+PRECISION"),
        (["ask", "llava-shapes/nf4", *ASKED], "did you mean llava-shapes/int4?"),
        (["ask", "here", *ASKED], "here is not a vlmcomp checkpoint: it has no recipe.json"),
        (["ask", "here", *ASKED, "--source", "here"], "here has weights and a prompt template of its own"),
        (["ask", "llava-shapes/int8", *ASKED, "--source", "none"], "loaded from none: there is no such folder"),
        (["compress", "llava-shapes/int8", "--out", "x", "--source", "none"], "there is no such folder"),
        (
            ["compress", "llava-shapes/glu30+int8", "--out", "x", "--calibration-data", "none.jsonl"],
            "the calibration file none.jsonl cannot be read: there is no such file",
        ),
    ],
    ids=str,
)
def test_what_is_not_there_is_one_sentence(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err, err
