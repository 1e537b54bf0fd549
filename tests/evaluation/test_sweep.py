"""Sweeps that are killed, share a folder, or run out of disk: finished answers stay, and nothing is damaged."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vlmcomp import hardware
from vlmcomp.data import task_registry
from vlmcomp.evaluation import quality, sweep, worker
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import prediction_logs
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import statistics as paired_statistics
from vlmcomp.results import store
from vlmcomp.results.journal import PredictionLog
from vlmcomp.runtime.engine import Engine

FP16, INT8 = Recipe.parse("llava-shapes/fp16"), Recipe.parse("llava-shapes/int8")
SLUG = hardware.get_hardware("cpu").slug
CONFIG = BenchmarkConfig(
    ("shapes-vqa",),
    num_samples=48,
    device="cpu",
    encoder="minilm",
    batch_size=4,
    max_new_tokens=16,
    new_tokens=4,
    warmup=0,
    runs=1,
)
START = (
    "import sys; from pathlib import Path; from vlmcomp.evaluation import sweep\n"
    "from vlmcomp.evaluation.config import BenchmarkConfig\n"
    "from vlmcomp.recipe import Recipe\n"
    "sweep.run([Recipe.parse(r) for r in sys.argv[2:]], {config!r}, root=Path(sys.argv[1]), log=print)"
)


def start(root: Path, *recipes: Recipe, config: BenchmarkConfig = CONFIG, **options: object) -> subprocess.Popen:
    order = [sys.executable, "-c", START.format(config=config), str(root), *map(str, recipes)]
    return subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished sweep of FP16. Tests that write work in a copy."""
    root = tmp_path_factory.mktemp("finished")
    sweep.run([FP16], CONFIG, root=root, log=lambda line: None)
    return root


def partial(root: Path) -> list[Path]:
    return list(root.rglob(".*.partial"))


def test_a_prediction_log_returns_whole_batches_of_the_same_header(tmp_path: Path) -> None:
    file, batches = tmp_path / "rows", [[{"id": "a", "answer": "ü\n"}], [{"id": "b"}, {"id": "c"}]]
    first = PredictionLog(file, {"seed": 0})
    for batch in batches:
        first.append(batch)
    assert PredictionLog(file, {"seed": 0}).batches == batches
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        found = PredictionLog(file, {"seed": 0})
        assert found.batches == batches[: len(found.batches)]
        found.append([])
        assert PredictionLog(file, {"seed": 0}).batches == [*batches[: len(found.batches) - 1], []]
    file.write_bytes(whole)
    assert PredictionLog(file, {"seed": 1}).batches == []
    first.delete()
    assert not file.exists()


def test_logged_answers_are_reused(tmp_path: Path, built) -> None:
    engine, samples = Engine(built(str(FP16))), task_registry.get_task("shapes-vqa").sample(6)
    whole = quality.predict(engine, samples, 2, 16)
    log = PredictionLog(tmp_path / "rows", {})
    fractions: list[float] = []
    marked = [row | {"answer": "as recorded"} for row in whole[:4]]
    log.append(marked[:2])
    log.append(marked[2:])
    assert quality.predict(engine, samples, 2, 16, fractions.append, log) == marked + whole[4:]
    assert fractions == [1.0] and len(log.batches) == 3


def test_a_killed_sweep_loses_the_batch_in_flight_alone(tmp_path: Path, finished: Path) -> None:
    (uncut,) = store.load_all(finished)
    killed = tmp_path / "killed"
    process = start(killed, FP16)
    until = time.monotonic() + 300
    while not any(f.read_text().count("\n") > 3 for f in partial(killed)) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (path,) = partial(killed)
    time.sleep(1.0)  # its child ends at its next progress line
    logged = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert logged and not list(killed.rglob("*.json"))
    logged[0][0]["answer"] = "as recorded"
    head = path.read_text().split("\n")[0]
    path.write_text("\n".join([head, *map(json.dumps, logged), '[{"torn']))
    (resumed,) = sweep.run([FP16], CONFIG, root=killed, log=lambda line: None)
    rows, uncut_rows = (
        store.load_predictions(r, root)["shapes-vqa"] for r, root in ((resumed, killed), (uncut, finished))
    )
    assert rows[0]["answer"] == "as recorded" and rows[1:] == uncut_rows[1:]
    assert not partial(killed)


def test_a_report_leaves_no_log(tmp_path: Path, finished: Path) -> None:
    """Neither does a sweep that was told to end after its worker had saved, nor one before the next."""
    job = {"recipe": str(FP16), "root": str(tmp_path), "config": asdict(CONFIG)}
    assert worker._main(json.loads(json.dumps(job))) == 0
    (report,) = store.load_all(tmp_path)
    assert report.error is None and not partial(tmp_path)
    log = prediction_logs(FP16, CONFIG, tmp_path)(task_registry.get_task("shapes-vqa"))
    log.append([{"id": "1"}])
    lines: list[str] = []
    sweep.run([FP16], CONFIG, root=tmp_path, log=lines.append)
    assert lines[0].endswith("(reused)") and not partial(tmp_path)


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work(tmp_path: Path) -> None:
    both = [start(tmp_path, FP16, INT8), start(tmp_path, INT8, FP16)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    lines = [line for out, _ in outputs for line in out.splitlines()]
    assert len(lines) == 4 and sum(line.endswith("(reused)") for line in lines) == 2
    assert {r.recipe for r in store.load_all(tmp_path)} == {str(FP16), str(INT8)}
    assert all(r.error is None for r in store.load_all(tmp_path)) and not partial(tmp_path)


def test_a_full_disk_is_reported_in_a_sentence_and_is_no_failure_of_the_recipe(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = {f: f.read_bytes() for f in tmp_path.rglob("[!.]*") if f.is_file()}
    limit = 3_000_000  # bytes of any file: the checkpoint is larger
    process = start(tmp_path, INT8, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "OSError: a file cannot be written" in error and "results are stored" in error
    assert {f: f.read_bytes() for f in tmp_path.rglob("[!.]*") if f.is_file()} == before


def test_saving_to_a_full_disk_leaves_what_was_there(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    code = (
        "import resource, sys; from pathlib import Path; from vlmcomp.results import store\n"
        "report = store.load_all(Path(sys.argv[1]))[0]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "store.save(report, {'shapes-vqa': [{'answer': str(i)} for i in range(999)]}, Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "File too large" in done.stderr and done.returncode == 1
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_a_quick_sweep_reuses_the_report_of_more_questions(finished: Path) -> None:
    (report,) = store.load_all(finished)
    file = store.report_path(SLUG, FP16, finished)
    quick = replace(CONFIG, num_samples=CONFIG.num_samples - 1, quick=True)
    assert sweep.load_if_complete(file, quick) == report
    assert sweep.load_if_complete(file, replace(quick, quick=False)) is None
    assert sweep.load_if_complete(file, replace(quick, num_samples=CONFIG.num_samples + 1)) is None


@pytest.mark.parametrize("changed", [0.02, 0.1])
def test_what_is_resolvable_is_where_the_interval_leaves_zero(changed: float) -> None:
    samples = 2000
    half = paired_statistics.minimum_detectable_difference(samples, changed)
    count, net = round(changed * samples), round(half * samples)
    flips = [1.0] * ((count + net) // 2) + [-1.0] * ((count - net) // 2)
    found = paired_statistics.mean_interval(flips + [0.0] * (samples - len(flips)))
    assert found.low == pytest.approx(0, abs=0.15 * half) and found.value == pytest.approx(half, rel=0.05)
