"""Caches on a full or read-only disk: what needs no cache goes on, and a download says why it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import hub_copies
from tests.support.families import write
from tests.support.full_disk import full_disk
from tests.support.hub_server import connect, serve
from vlmcomp import files, hub
from vlmcomp.data.task_registry import get_task
from vlmcomp.models import download, registry
from vlmcomp.serving import variant_cache

SPEC = registry.get_model_spec("llava-1.5-7b")
ROOT = Path(__file__).resolve().parent.parent


def test_a_download_to_a_full_disk_says_so_and_succeeds_later(tmp_path: Path, monkeypatch) -> None:
    weights = write(SPEC.name, tmp_path / "weights")
    with serve(SPEC.source, weights) as running:
        connect(running, tmp_path / "cache", monkeypatch)
        with full_disk(100_000), pytest.raises(ValueError, match=r"cannot be written to .*: File too large"):
            download.download_weights(SPEC, None, lambda text, fraction: None)
        folder, _ = download.download_weights(SPEC, None, lambda text, fraction: None)
    for file in folder.iterdir():
        assert file.read_bytes() == (weights / file.name).read_bytes()


def test_a_task_whose_texts_cannot_be_cached_is_not_called_damaged(tmp_path: Path, monkeypatch) -> None:
    copy = hub_copies.write("vqav2", tmp_path / "copy")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "texts"))
    with full_disk(100), pytest.raises(OSError, match=r"texts.*File too large|File too large.*texts"):
        get_task(f"vqav2={copy}")
    assert len(get_task(f"vqav2={copy}").sample()) == 6


@pytest.mark.parametrize("cache", ["file/cache", ""])  # below a file, or nowhere: there is no home
def test_without_a_cache_everything_but_the_cache_works(cache: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code = """
import logging; from PIL import Image; from vlmcomp.recipe import Recipe; from vlmcomp.serving import backend
from vlmcomp.evaluation import text_metrics
if not sys.argv[1]:
    from pathlib import Path
    Path.home = classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
recipe = Recipe.parse("llava-shapes/int8")
for _ in range(2):
    *_, answer = backend.create_backend([recipe]).stream(recipe, Image.new("RGB", (96, 96)), "What is it?")
    print(bool(answer.text))
print(text_metrics.meteor([("red", "red")])[0] > 0)
"""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("VLMCOMP", "XDG", "NLTK"))}
    if cache:
        settings[files.CACHE_DIR_ENV] = str(tmp_path / cache)
    settings |= {"TMPDIR": str(tmp_path), "VLMCOMP_BACKEND": "local"}
    command = [sys.executable, "-c", f"import sys{code}", cache]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cache_below_a_file_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "file" / "cache"))
    assert variant_cache.default_cache().entries() == []


def test_a_disk_that_fills_up_is_no_lost_connection() -> None:
    """The Hub's client in Rust raises RuntimeError."""
    error = RuntimeError("Data processing error: IO Error: No space left on device (os error 28)")
    with pytest.raises(ValueError, match=r"user/model cannot be written to .*: No space left on device"):
        hub.raise_hub_error(error, "user/model", "user/model", None, gated=False)
