"""The cached default calibration data is what would be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmcomp import files
from vlmcomp.data import drawn_samples
from vlmcomp.data.calibration_data import short_digest, synthetic_calibration_data

WANTED = short_digest(synthetic_calibration_data(5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path))
    return tmp_path / drawn_samples.FOLDER


def _no_drawing(*args: object) -> None:
    raise AssertionError("drawn again")


def _digest() -> str:
    return short_digest(drawn_samples.default_calibration_data(5))


def test_the_second_time_reads_what_the_first_has_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _digest() == WANTED
    monkeypatch.setattr(drawn_samples, "synthetic_calibration_data", _no_drawing)
    assert _digest() == WANTED


def test_other_code_draws_anew_and_leaves_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_samples.default_calibration_data(5)
    monkeypatch.setattr(drawn_samples, "_code_digest", lambda: "0" * 12)
    assert _digest() == WANTED
    assert [file.stem for file in folder.iterdir()] == [f"shapes-5-0-{'0' * 12}"]


@pytest.mark.parametrize("damage", ["empty", "flip", "cut"])
def test_a_damaged_file_is_drawn_again(folder: Path, damage: str) -> None:
    drawn_samples.default_calibration_data(5)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    file.write_bytes({"empty": b"", "flip": flipped, "cut": content[:middle]}[damage])
    assert _digest() == WANTED == _digest()


def test_without_a_folder_to_write_to_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "file"))
    assert _digest() == WANTED
