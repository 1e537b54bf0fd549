"""A full disk is one sentence wherever files are written, nothing is left half written, and work that can goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import made_reports as made
from tests.support.full_disk import full_disk
from vlmcomp import files
from vlmcomp.api.hub_checkpoint import upload_checkpoint
from vlmcomp.cli import generated_docs
from vlmcomp.cli.main import main
from vlmcomp.compression import checkpoint
from vlmcomp.experiments.trial_log import Trial, TrialLog
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.serving import recorded
from vlmcomp.serving.local import LocalBackend
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.variants import get_or_build
from vlmcomp.training import trainer as training

INT8 = Recipe.parse("llava-shapes/int8")
SMALL = {"tower_steps": 1, "steps": 1, "tower_scenes": 2, "images": 2, "easy_images": 1}


def _everything(folder: Path) -> dict[Path, bytes]:
    """Content of every file below ``folder``, hidden ones included; b"" for a folder."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def _raises_one_sentence(act: Callable[[], object], place: Path) -> None:
    with pytest.raises(OSError, match="File too large") as caught:
        act()
    assert str(place) in str(caught.value)


@pytest.mark.parametrize("max_bytes", [10, 3_000, 1_000_000])  # the settings, the generation config, the weights
def test_a_checkpoint_appears_whole_or_not_at_all(max_bytes: int, built, tmp_path: Path) -> None:
    vlm = built("llava-shapes/int8")
    with full_disk(max_bytes):
        _raises_one_sentence(lambda: checkpoint.save(vlm, tmp_path / "new" / "small"), tmp_path / "new" / "small")
    assert not list(tmp_path.iterdir())
    checkpoint.save(vlm, tmp_path / "new" / "small")
    assert checkpoint.is_checkpoint(tmp_path / "new" / "small")


def test_an_empty_folder_stays_empty(built, tmp_path: Path) -> None:
    with full_disk(1_000_000):
        _raises_one_sentence(lambda: checkpoint.save(built("llava-shapes/int8"), tmp_path), tmp_path)
    assert not list(tmp_path.iterdir())


def test_so_does_one_whose_tokenizer_does_not_fit(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = built("llava-shapes/fp16")
    save_pretrained = vlm.processor.save_pretrained

    def save_on_a_full_disk(folder: Path) -> None:
        with full_disk(5_000):
            save_pretrained(folder)

    monkeypatch.setattr(vlm.processor, "save_pretrained", save_on_a_full_disk)
    _raises_one_sentence(lambda: checkpoint.save(vlm, tmp_path / "small"), tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_an_upload_leaves_no_staged_files(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with full_disk(1_000_000), pytest.raises(OSError, match="File too large"):
        upload_checkpoint(built("llava-shapes/int8"), "user/small", private=True)
    assert not list(tmp_path.iterdir())


def test_the_app_answers_although_its_cache_is_full(tmp_path: Path, samples: list, caplog) -> None:
    cache = VariantCache(tmp_path / "cache", 10**9)
    backend = LocalBackend(cache, lambda: 10**10)
    image, question, _ = samples[0]
    expected = list(LocalBackend(None, lambda: 10**10).stream(INT8, image, question))[-1].text
    with full_disk(1_000_000):
        *_, answer = backend.stream(INT8, image, question)
    assert answer.text == expected
    assert [r.message for r in caplog.records if "is not cached" in r.message and "File too large" in r.message]
    assert [path.name for path in cache.root.iterdir()] == [".lock"]
    backend.manager.evict_idle()
    *_, answer = backend.stream(INT8, image, question)
    assert answer.text == expected and len(cache.entries()) == 1


def test_a_model_that_could_not_be_saved_is_unchanged(samples: list, tmp_path: Path) -> None:
    vlm = get_or_build(INT8, "cpu")
    inputs = vlm.encode([samples[0][0]], [samples[0][1]])
    with torch.inference_mode():
        expected = vlm.model(**inputs).logits
        with full_disk(1_000_000), pytest.raises(OSError):
            checkpoint.save(vlm, tmp_path / "small")
        assert torch.equal(vlm.model(**inputs).logits, expected)


@pytest.mark.parametrize("name", ["history.json", "checkpoint.pt"])
def test_training_keeps_the_last_whole_checkpoint(name: str, tmp_path: Path) -> None:
    out, work = tmp_path / "model", tmp_path / "work"
    training.train("llava-shapes", out, work, **SMALL)
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    state["done"]["answers"] = 0
    state["history"] *= 20_000 if name == "history.json" else 1
    torch.save(state, work / "checkpoint.pt")
    before = _everything(tmp_path)
    with full_disk(1_000_000):
        _raises_one_sentence(lambda: training.train("llava-shapes", out, work, **SMALL), work / name)
    after = _everything(tmp_path)
    assert after.keys() == before.keys() and all(after[p] == before[p] for p in after if p.name != "history.json")


def test_a_trained_model_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path) -> None:
    out, work = tmp_path / "model", tmp_path / "work"
    training.train("llava-shapes", out, work, **SMALL)
    (out / "notes.txt").write_text("mine")
    before = _everything(tmp_path)
    with full_disk(1_000_000):  # resumed at its end, training writes only the model
        _raises_one_sentence(lambda: training.train("llava-shapes", out, work, **SMALL), out)
    assert _everything(tmp_path) == before


def test_a_report_and_its_predictions_change_together(tmp_path: Path) -> None:
    report = made.report("llava-shapes/int8")
    store.save(report, {"shapes-vqa": [{"answer": "0"}]}, tmp_path)
    before = _everything(tmp_path)
    with full_disk(500), pytest.raises(OSError, match="File too large"):  # room for the predictions, not for the report
        store.save(report, {"shapes-vqa": [{"answer": "1"}]}, tmp_path)
    assert _everything(tmp_path) == before


def test_docs_are_all_updated_or_none(tmp_path: Path) -> None:
    reports = [made.report("llava-shapes/fp16"), made.report("llava-shapes/int8")]
    block = "<!-- results:begin -->\n<!-- results:end -->\n"
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(block)
    (tmp_path / "docs" / "results.md").write_text(block + "x" * 50_000)
    before = _everything(tmp_path)
    with full_disk(40_000), pytest.raises(OSError, match="File too large"):
        generated_docs.update_folder(tmp_path, reports, tmp_path)
    assert _everything(tmp_path) == before


def test_a_log_of_trials_and_recorded_answers_stay_as_they_were(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "study.json")
    log.add(Trial("cost", "a", "second order"), {"prune_seconds": 1.0})
    rows = [{"recipe": str(INT8), "answer": "x" * 5_000}]
    file = recorded.save(rows, "cpu", tmp_path)
    before = _everything(tmp_path)
    with full_disk(500):
        added = {"prune_seconds": 2.0}
        _raises_one_sentence(lambda: log.add(Trial("cost", "b", "second order"), added), tmp_path / "study.json")
        _raises_one_sentence(lambda: recorded.save(rows, "cpu", tmp_path), file)
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("name", ["compress", "table", "plots", "rescored"])
def test_the_command_line_says_it_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for recipe in ("llava-shapes/fp16", "llava-shapes/int8"):
        report = made.scored(recipe, shapes_vqa=90)
        store.save(report, made.scored_rows(report), tmp_path / "reports")
    commands = {
        "compress": ["compress", "llava-shapes/int8", "--out", str(tmp_path / "small"), "--device", "cpu"],
        "table": ["report", "--root", str(tmp_path / "reports"), "--out", str(tmp_path / "table.md")],
        "plots": ["report", "--root", str(tmp_path / "reports"), "--plots", str(tmp_path / "plots")],
        "rescored": ["report", "--root", str(tmp_path / "reports"), "--rescore", "--bertscore-model", "minilm"],
    }
    before = _everything(tmp_path)
    with full_disk(200):
        assert main(commands[name]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("...")]
    assert line.startswith("vlmcomp: ") and line.endswith(": File too large")
    assert {p: d for p, d in _everything(tmp_path).items() if p.name != "plots"} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # the output fails where it ends, or where it is printed
def test_output_to_a_full_disk_is_one_sentence(unbuffered: str) -> None:
    command = [sys.executable, "-m", "vlmcomp", "models"]
    settings = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=settings, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("vlmcomp: ") and done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


def test_a_pipe_is_written_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    files.write_text(pipe, "all of it")
    assert reader.communicate(timeout=60)[0] == "all of it"
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_errors_of_libraries_in_other_languages_are_recognized() -> None:
    assert files.disk_error(RuntimeError("I/O error: No space left on device (os error 28)")) is not None
    assert files.disk_error(ValueError("no such file (os error 2)")) is None
    outer = RuntimeError("PytorchStreamWriter failed")
    outer.__context__ = OSError(28, "No space left on device")
    found = files.disk_error(outer)
    assert found is not None and found.errno == 28
