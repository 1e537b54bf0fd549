"""What an ended process leaves: nothing if it could clean up, and otherwise only what the next one deletes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import pytest

from vlmcomp import files
from vlmcomp.compression import checkpoint
from vlmcomp.serving import variant_cache

ROOT = Path(__file__).resolve().parent.parent
_HANG = """
import time, transformers
def hang(*args, **kwargs):
    print("here", flush=True)  # the weights are written, the rest is not
    time.sleep(600)
transformers.ProcessorMixin.save_pretrained = hang
"""
_COMPRESS = f"""
import signal, sys; from vlmcomp.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
{_HANG}
sys.exit(main(["compress", "llava-shapes/fp16", "--out", sys.argv[1], "--device", "cpu"]))
"""


def _start_saving(out: Path) -> subprocess.Popen:
    """A ``vlmcomp compress`` that hangs while it saves."""
    command = [sys.executable, "-c", _COMPRESS, str(out)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "here\n"
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_command_cleans_up(number: int, code: int, tmp_path: Path) -> None:
    child = _start_saving(tmp_path / "small")
    assert list(tmp_path.rglob("model.safetensors"))
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code and not list(tmp_path.iterdir())
    (line,) = [line for line in errors.splitlines() if not line.endswith("...")]
    assert line.startswith("vlmcomp: interrupted")


def test_the_next_start_deletes_what_a_killed_one_left_but_not_what_another_writes(built, tmp_path: Path) -> None:
    killed = _start_saving(tmp_path / "killed")
    (left,) = tmp_path.iterdir()
    writing = _start_saving(tmp_path / "writing")
    try:
        killed.kill()
        killed.communicate()
        checkpoint.save(built("llava-shapes/fp16"), tmp_path / "mine")
        (still,) = [path for path in tmp_path.iterdir() if path.name != "mine"]
        assert still != left and (still / "model.safetensors").exists()
    finally:
        writing.kill()
        writing.communicate()
    files.check_writable(tmp_path / "next")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_sweep_that_is_told_to_end_takes_its_worker_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hang = _HANG.replace('print("here", flush=True)', f"open({str(marker)!r}, 'w').close()")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'vlmcomp.evaluation.worker' in sys.orig_argv:\n{indent(hang, '    ')}"
    )
    command = ["bench", "llava-shapes/fp16", "--weights", "trained", "--task", "shapes-vqa", "--samples", "2"]
    command = [sys.executable, "-m", "vlmcomp", *command, "--device", "cpu", "--out", str(tmp_path / "out")]
    settings = os.environ | {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path / "scratch")}
    sweep = subprocess.Popen(command, cwd=ROOT, env=settings, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not marker.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert list((tmp_path / "scratch").rglob("model.safetensors"))
        sweep.terminate()
        assert sweep.wait(60) == 143
    finally:
        sweep.kill()
        sweep.communicate()
    assert not list((tmp_path / "scratch").iterdir())


def _temporary_name(machine: str, process: int) -> str:
    return f".vlmcomp-{machine}-{process}-abcd1234.tmp"


def test_only_our_own_abandoned_files_are_deleted(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = files.machine_id()
    stay = [_temporary_name(here, os.getpid()), _temporary_name("0" * 8, 1), ".vlmcomp-notes.tmp", "model.tmp"]
    go = [_temporary_name(here, gone.pid), _temporary_name("f" * 8, 1)]
    for name in (*stay, *go):
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / go[1], (1, 1))  # of another machine, and old
    os.utime(tmp_path / stay[2], (1, 1))
    files.write_text(tmp_path / "new", "x")
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "new"}


def test_the_cache_is_clean_after_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path))
    for name in (".half-abc", ".gone-abc"):
        (tmp_path / name / "model").mkdir(parents=True)
    variant_cache.default_cache()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
