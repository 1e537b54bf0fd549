"""Sweeps with the embedded model in real processes: finished reports are reused, failures are recorded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import made_reports as made
from vlmcomp import hardware
from vlmcomp.evaluation import memory_tracker, remeasure, sweep
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import merge_tasks
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.schema import Memory

ROOT = Path(__file__).resolve().parents[2]
FP16, INT4 = Recipe.parse("llava-shapes/fp16"), Recipe.parse("llava-shapes/int4")
CONFIG = BenchmarkConfig(num_samples=6, device="cpu", encoder="minilm", new_tokens=4, warmup=1, runs=3)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A root with FP16 and INT4 measured, and the lines that the sweep logged."""
    root = tmp_path_factory.mktemp("swept")
    lines: list[str] = []
    sweep.run([FP16, INT4], CONFIG, root=root, log=lines.append)
    return root, lines


def test_a_report_says_everything_about_its_recipe(swept: tuple[Path, list[str]]) -> None:
    root, lines = swept
    base, small = sorted(store.load_all(root), key=lambda r: r.recipe)
    assert (base.recipe, small.recipe) == (str(FP16), str(INT4)) and base.error is small.error is None
    assert set(base.quality) == {"shapes-vqa", "easy-vqa"}
    assert {q.samples for q in base.quality.values()} == {6}
    timed = base.latency
    assert (timed.new_tokens, timed.warmup_runs, len(timed.ttft_ms)) == (4, 1, 3)
    assert len(timed.decode_ms_per_token) == len(timed.end_to_end_ms) == 3 and timed.prompt_tokens > 64
    assert all(e > t > 0 for e, t in zip(timed.end_to_end_ms, timed.ttft_ms, strict=True))
    assert small.size.total_bytes < base.size.total_bytes
    for report in (base, small):
        assert 0.98 < report.size.disk_bytes / report.size.total_bytes < 1.1  # headers, alignment
        assert report.memory.measure == "rss" and report.memory.peak_build_bytes >= report.memory.loaded_bytes * 0.9
        assert report.memory.peak_answer_bytes > 0 and report.build_seconds > 0
        assert report.backend.endswith("(cpu)") and report.dtype_stored and report.dtype_computed
        assert report.versions["torch"] and re.fullmatch(r"sha256:[0-9a-f]{16}", report.revision)
        assert report.weights == "trained here" and report.hardware == hardware.get_hardware("cpu")
    assert len(lines) == 2 and all(re.search(r"ms/token.* MB$", line) for line in lines)


def test_the_stored_rows_give_the_scores_again(swept: tuple[Path, list[str]]) -> None:
    from vlmcomp.data.task_registry import get_task
    from vlmcomp.evaluation.quality import score

    report = next(r for r in store.load_all(swept[0]) if r.recipe == str(FP16))
    rows = store.load_predictions(report, swept[0])
    for name, quality in report.quality.items():
        again = score(get_task(name), rows[name], 0, "minilm")
        assert again.exact_match == pytest.approx(quality.exact_match)
        assert again.composite == pytest.approx(quality.composite, rel=1e-4)


def test_a_second_sweep_measures_nothing_again(swept: tuple[Path, list[str]]) -> None:
    root = swept[0]
    lines: list[str] = []
    before = {f: f.stat().st_mtime_ns for f in root.rglob("*") if f.is_file()}
    reports = sweep.run([FP16, INT4], CONFIG, root=root, log=lines.append)
    assert {f: f.stat().st_mtime_ns for f in root.rglob("*") if f.is_file()} == before
    assert [r.recipe for r in reports] == [str(FP16), str(INT4)]
    assert all(line.endswith("(reused)") for line in lines)


def test_retiming_changes_the_times_alone(swept: tuple[Path, list[str]], tmp_path: Path) -> None:
    before = {r.recipe: r for r in store.load_all(swept[0])}
    for report in before.values():
        store.save(report, store.load_predictions(report, swept[0]), tmp_path)
    remeasure.rerun_latency(
        [FP16, INT4, Recipe.parse("llava-shapes/int8")], CONFIG, root=tmp_path
    )  # the last was never measured
    after = {r.recipe: r for r in store.load_all(tmp_path)}
    assert set(after) == set(before)
    for name, report in after.items():
        assert report.latency.ttft_ms != before[name].latency.ttft_ms and len(report.latency.ttft_ms) == CONFIG.runs
        assert replace(report, latency=None, date="") == replace(before[name], latency=None, date="")
        assert store.load_predictions(report, tmp_path) == store.load_predictions(before[name], swept[0])
    store.save(replace(before[str(INT4)], memory=Memory(1, 2, 3, "rss")), root=tmp_path)
    (small,) = remeasure.rerun_memory([INT4], CONFIG, root=tmp_path)
    assert small.memory.peak_build_bytes == 2 and small.quality == before[str(INT4)].quality
    old = before[str(INT4)].memory
    assert small.memory.peak_answer_bytes == pytest.approx(old.peak_answer_bytes, rel=0.1)
    with pytest.raises(ValueError, match="measure the recipes first"):
        remeasure.rerun_latency([Recipe.parse("llava-shapes/int8")], CONFIG, root=tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"num_samples": 7}, {"seed": 1}, {"runs": 4}, {"new_tokens": 5}, {"source": "assets/models/llava-shapes"}],
    ids=lambda c: next(iter(c)),
)
def test_another_config_is_not_answered_by_the_old_report(swept: tuple[Path, list[str]], change: dict) -> None:
    file = store.report_path(hardware.get_hardware("cpu").slug, FP16, swept[0])
    assert sweep.load_if_complete(file, CONFIG) is not None
    assert sweep.load_if_complete(file, replace(CONFIG, tasks=("shapes-vqa",))) is not None
    assert sweep.load_if_complete(file, replace(CONFIG, **change)) is None


def test_failed_damaged_and_foreign_reports_are_measured_again(swept: tuple[Path, list[str]], tmp_path: Path) -> None:
    good = next(r for r in store.load_all(swept[0]) if r.recipe == str(FP16))
    file = store.save(good, None, tmp_path)
    assert sweep.load_if_complete(file, CONFIG) is not None
    store.save(replace(good, revision="sha256:other"), None, tmp_path)
    assert sweep.load_if_complete(file, CONFIG) is None
    store.save(made.failed(str(FP16)), None, tmp_path)
    assert sweep.load_if_complete(file, CONFIG) is None
    file.write_text("{")
    assert sweep.load_if_complete(file, CONFIG) is None
    assert sweep.load_if_complete(tmp_path / "none.json", CONFIG) is None


def test_another_task_is_merged_into_a_report_of_the_same_provenance(
    swept: tuple[Path, list[str]], tmp_path: Path
) -> None:
    old = next(r for r in store.load_all(swept[0]) if r.recipe == str(FP16))
    rows = store.load_predictions(old, swept[0])
    file = store.save(old, rows, tmp_path)
    other = replace(old.quality["easy-vqa"], task="mine")
    new = replace(old, quality={"mine": other, "easy-vqa": replace(other, exact_match=0.5)})
    both, all_rows = merge_tasks(new, {"mine": [], "easy-vqa": []}, tmp_path)
    assert both.quality == {"shapes-vqa": old.quality["shapes-vqa"], **new.quality}
    assert all_rows == {"shapes-vqa": rows["shapes-vqa"], "mine": [], "easy-vqa": []}
    store.save(replace(old, versions={"torch": "1"}), rows, tmp_path)
    assert merge_tasks(new, {"mine": []}, tmp_path) == (new, {"mine": []})
    before = file.read_bytes()
    with pytest.raises(ValueError, match="also contains easy-vqa, measured by another version"):
        sweep.run([FP16], replace(CONFIG, tasks=("shapes-vqa",), num_samples=7), root=tmp_path, log=print)
    assert file.read_bytes() == before


def test_a_failure_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    lines: list[str] = []
    config = replace(CONFIG, source=str(tmp_path / "no-weights"))
    reports = sweep.run([FP16, INT4], config, root=tmp_path, log=lines.append)
    assert [r.recipe for r in reports] == [str(FP16), str(INT4)]
    assert all("cannot be loaded" in r.error and r.size is None and not r.quality for r in reports)
    assert [r.error for r in store.load_all(tmp_path)] == [r.error for r in reports]
    assert all("failed" in line for line in lines)


def test_a_killed_process_is_a_recorded_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\nkill -KILL $$\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))  # stands for a child that the kernel ends for its memory
    (report,) = sweep.run([FP16], CONFIG, root=tmp_path, log=lambda line: None)
    assert "SIGKILL" in report.error and "memory" in report.error
    assert store.load_all(tmp_path) == [report]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_keeps_what_is_finished(
    sent: signal.Signals, swept: tuple[Path, list[str]], tmp_path: Path
) -> None:
    done = next(r for r in store.load_all(swept[0]) if r.recipe == str(FP16))
    store.save(done, store.load_predictions(done, swept[0]), tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from vlmcomp.evaluation import sweep\n"
        "from vlmcomp.evaluation.config import BenchmarkConfig\n"
        "from vlmcomp.recipe import Recipe\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job is started to ignore it
        f"sweep.run([Recipe.parse('{FP16}'), Recipe.parse('{INT4}')], {CONFIG!r}, root=Path(sys.argv[1]),\n"
        "          log=lambda line: print(line, flush=True))"
    )
    sweep = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert sweep.stdout.readline().strip().endswith("(reused)")  # the first is there
    until = time.monotonic() + 60
    while not _children_measuring(tmp_path) and time.monotonic() < until:  # until the second is under way
        time.sleep(0.1)
    sweep.send_signal(sent)
    assert sweep.wait(60) != 0
    sweep.stdout.close()
    until = time.monotonic() + 60
    while _children_measuring(tmp_path) and time.monotonic() < until:  # one whose sweep was killed ends by itself
        time.sleep(0.2)
    assert {f: f.read_bytes() for f in tmp_path.rglob("[!.]*") if f.is_file()} == before
    assert not _children_measuring(tmp_path)


def _children_measuring(root: Path) -> list[str]:
    import psutil

    commands = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    return [c for c in commands if "vlmcomp.evaluation.worker" in c and str(root) in c and str(os.getpid()) not in c]


def test_a_bad_config_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for config, words in (
        (replace(CONFIG, tasks=("vqa",)), "unknown task"),
        (replace(CONFIG, tasks=()), "needs a task"),
        (replace(CONFIG, num_samples=0), "at least one"),
        (replace(CONFIG, encoder="bert"), "unknown BERTScore encoder"),
    ):
        with pytest.raises(ValueError, match=words):
            sweep.run([FP16], config, root=tmp_path)
    with pytest.raises(ValueError, match="use glu30"):
        sweep.run([FP16, Recipe.parse("llava-shapes/ffn30+int8")], CONFIG, root=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="give another folder"):
        sweep.run([FP16], CONFIG, root=Path(__file__))  # no folder


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon"),
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763"),
        ("AMD EPYC", "amd-epyc"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("Apple M2", "apple-m2"),
        ("", "unknown"),
    ],
)
def test_hardware_names_make_folders(name: str, slug: str) -> None:
    assert hardware.hardware_slug(name) == slug


def test_the_tracker_follows_allocations() -> None:
    tracker = memory_tracker.MemoryTracker("cpu")
    block = bytearray(os.urandom(1)) * 60_000_000
    assert tracker.current() > 40_000_000
    del block
    assert tracker.current() < 30_000_000 and tracker.peak() > 40_000_000
    tracker.reset()
    assert tracker.peak() < 30_000_000
