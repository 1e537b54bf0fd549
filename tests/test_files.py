"""Files: digests over contents, and the cache folder that the environment names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vlmcomp import files


def test_a_digest_is_over_the_contents_in_order(tmp_path: Path) -> None:
    contents = {"a": b"first", "b": b"", "c": bytes(5_000_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    read: list[int] = []
    expected = hashlib.sha256(b"".join(contents.values())).hexdigest()
    assert files.sha256_of_files(paths, read.append) == expected and sum(read) == 5_000_005
    assert files.short_digest(paths) == f"sha256:{expected[:16]}"
    assert files.sha256_of_files(paths[::-1]) != expected


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(files.CACHE_DIR_ENV)
    assert files.cache_dir() == tmp_path / "vlmcomp"
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "other"))
    assert files.cache_dir() == tmp_path / "other"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        files.check_writable(tmp_path / "file" / "below")


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_writers_of_one_folder_the_first_wins(exists: bool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
    with pytest.raises(OSError, match="not empty"):
        with files.new_folder(folder) as second:
            with files.new_folder(folder) as first:
                (first / "a").write_text("first")
            (second / "a").write_text("second")
            (second / "b").write_text("second")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("a", "first")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
