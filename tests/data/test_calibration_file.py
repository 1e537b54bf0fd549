"""Calibration data of the user: any editor's text, rows that are checked first, and images that count in the record."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from PIL import Image

import vlmcomp
from vlmcomp.cli import main
from vlmcomp.data.calibration_data import load_calibration_file, short_digest

RECIPE = "llava-shapes/glu30+fp16"
ROW = {"image": "red.png", "question": "What color is \u2028 it?", "answer": "red"}


def write(folder: Path, *rows: dict[str, str]) -> Path:
    for color in ("red", "blue", "green"):
        Image.new("RGB", (96, 96), color).save(folder / f"{color}.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:90])
    file = folder / "samples.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_file_is_the_same_in_every_encoding_and_with_every_line_end(mark: bytes, end: str, tmp_path: Path) -> None:
    rows = [ROW, ROW | {"image": "blue.png", "answer": "blue \x85"}]
    file = write(tmp_path, *rows)
    expected = short_digest(load_calibration_file(file)[0])
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_bytes(mark + end.join(["", *lines]).encode(encoding))
    samples, skipped = load_calibration_file(file)
    assert short_digest(samples) == expected and not skipped
    assert [sample[1:] for sample in samples] == [(row["question"], row["answer"]) for row in rows]


def test_bad_rows_are_named_or_skipped(tmp_path: Path) -> None:
    file = write(tmp_path, ROW, ROW | {"image": "cut.png"}, {"image": "red.png"}, ROW, ROW | {"image": "gone.png"})
    with pytest.raises(
        ValueError, match=r"samples.jsonl, line 2: the image cannot be read .*; 3 of 5 rows are bad: .*skip"
    ):
        load_calibration_file(file)
    samples, skipped = load_calibration_file(file, "skip")
    assert len(samples) == 2 and [row.reason.partition(":")[0][-6:] for row in skipped] == [
        "line 2",
        "line 3",
        "line 5",
    ]


def test_the_record_tells_images_and_skipped_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, ROW, ROW | {"image": "cut.png"}, ROW | {"image": "blue.png"})
    words = ["compress", RECIPE, "--device", "cpu", "--calibration-data", str(file)]
    assert main.main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "line 2: the image cannot be read" in capsys.readouterr().err and not (tmp_path / "none").exists()
    records = []
    for image in ("red", "green"):
        Image.new("RGB", (96, 96), image).save(tmp_path / "red.png")
        out = tmp_path / image
        assert main.main([*words, "--bad-rows", "skip", "--out", str(out)]) == 0
        said = capsys.readouterr()
        (step,) = json.loads((out / "recipe.json").read_text())["pruned"]
        assert step["calibration"].startswith("2 samples, ") and step["calibration"].endswith(", 1 bad row skipped")
        assert step["calibration"] in said.out and "skipped: " in said.err and "line 2" in said.err
        records.append(step["calibration"])
    assert records[0] != records[1] and all("sha256:" in record for record in records)


def test_samples_in_memory_are_checked_in_the_same_way(tmp_path: Path) -> None:
    write(tmp_path)
    data = [(tmp_path / f"{name}.png", "What?", "red") for name in ("red", "cut", "blue")]
    with pytest.raises(ValueError, match=r"calibration sample 1: the image cannot be read .*; 1 of 3 rows is bad"):
        vlmcomp.compress(RECIPE, calibration_data=data, device="cpu")
    model = vlmcomp.compress(RECIPE, calibration_data=data, bad_rows="skip", device="cpu")
    assert model.pruning[0].calibration.endswith(", 1 bad row skipped")
