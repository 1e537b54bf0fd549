"""Recorded results: stored whole, drawn as they are, and the same numbers in README, chart and table."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from vlmcomp.cli.main import main
from vlmcomp.data import task_registry
from vlmcomp.data.answer_matching import exact_match
from vlmcomp.evaluation import config, quality, sweep, text_metrics
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid
from vlmcomp.reporting.pareto import non_dominated
from vlmcomp.results import store
from vlmcomp.results.schema import Report
from vlmcomp.runtime.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
REPORTS = store.load_all()


def test_reports_survive_a_round_trip(tmp_path: Path) -> None:
    assert REPORTS
    for report in REPORTS:
        assert Report.from_dict(report.to_dict()) == report
        rows = store.load_predictions(report)
        assert store.load(store.save(report, rows, tmp_path)) == report
        assert store.load_predictions(report, tmp_path) == rows


def test_a_damaged_report_costs_only_itself(tmp_path: Path) -> None:
    files = [store.save(r, {}, tmp_path) for r in REPORTS[:3]]
    files[1].write_text("{")
    assert store.load_all(tmp_path) == [REPORTS[0], REPORTS[2]]
    with pytest.raises(ValueError, match="schema"):
        Report.from_dict({**REPORTS[0].to_dict(), "schema": 99})


def test_every_cell_is_recorded_without_a_failure() -> None:
    found = {r.recipe: r for r in REPORTS}
    for recipe in (recipe for model in grid.bundled_models() for recipe in grid.buildable_recipes(model)):
        report = found[str(recipe)]
        assert report.error is None and report.commit and report.versions["torch"]
        assert report.quality["shapes-vqa"].samples == 2000
        assert len(report.latency.ttft_ms) >= 10


def test_recorded_scores_are_those_of_the_recorded_rows() -> None:
    for report in REPORTS:
        for name, rows in store.load_predictions(report).items():
            hits = [exact_match(r["answer"], r["reference"]) for r in rows]
            assert sum(hits) / len(hits) == pytest.approx(report.quality[name].exact_match, abs=1e-5)
            assert report.quality[name].samples == len(rows)


@pytest.mark.parametrize("model", grid.bundled_models())
def test_every_embedded_model_answers_what_nobody_here_asked(model: str) -> None:
    dense = [r for r in REPORTS if r.recipe == f"{model}/fp16"]
    assert dense and all(r.quality["easy-vqa"].exact_match >= 0.98 for r in dense)


def test_the_default_model_reaches_its_bar() -> None:
    dense = next(r for r in REPORTS if r.recipe == "llava-shapes/fp16")
    assert dense.quality["easy-vqa"].exact_match >= 0.99
    assert dense.quality["shapes-vqa"].exact_match >= 0.85


def test_the_docs_show_what_is_recorded(tmp_path: Path) -> None:
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    for document in documents:
        copy = tmp_path / document.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(document.read_bytes())
    assert main(["report", "--docs", str(tmp_path)]) == 0
    for document in documents:
        assert (tmp_path / document.relative_to(ROOT)).read_text() == document.read_text(), "run: make docs"


def test_pareto_keeps_ties_and_drops_the_dominated() -> None:
    points = [(1, 1), (2, 0), (1, 1), (0, 0), (0, 3)]
    assert non_dominated(points, [lambda a, b: a[0] - b[0], lambda a, b: a[1] - b[1]]) == [
        (1, 1),
        (2, 0),
        (1, 1),
        (0, 3),
    ]


def test_tasks_are_fixed_by_their_version() -> None:
    task = task_registry.get_task("shapes-vqa")
    assert len(task.all_samples) == 2000 and len(task_registry.get_task("easy-vqa").all_samples) == 9673
    assert {r.quality["shapes-vqa"].task_sha256 for r in REPORTS} == {task.sha256}
    assert task.sample(50, 1) == task.sample(50, 1) != task.sample(50, 2)


def test_text_scores_know_right_from_wrong() -> None:
    right, wrong = "There are two red circles.", "The star is blue."
    same = text_metrics.text_scores([right], [right], "minilm")
    other = text_metrics.text_scores([wrong], [right], "minilm")
    assert same.rouge1 == pytest.approx(1) and same.bertscore_f1 == pytest.approx(1, abs=1e-4) and same.meteor > 0.99
    assert other.composite < 0.6 < same.composite
    assert text_metrics.text_scores([""], [right], "minilm").composite == 0
    assert text_metrics.meteor([("yes", "yes")]) == [0.5]


def test_quality_scores_rows_without_a_model(built) -> None:
    task = task_registry.get_task("shapes-vqa")
    scores, rows = quality.measure(Engine(built("llava-shapes/fp16")), task, 24, encoder="minilm")
    again = quality.score(task, rows, 0, "minilm")
    assert scores == again and scores.samples == 24


@pytest.mark.slow
def test_a_sweep_resumes_and_records_failures(tmp_path: Path) -> None:
    plan = config.BenchmarkConfig(
        tasks=("shapes-vqa",), num_samples=4, encoder="minilm", runs=1, warmup=0, new_tokens=4
    )
    recipes = [Recipe.parse("llava-shapes/int4"), Recipe.parse("llava-shapes/heads10+fp16")]
    said: list[str] = []
    first, failed = sweep.run(recipes, plan, root=tmp_path, log=said.append)
    assert first.error is None and first.memory.loaded_bytes >= 0 and first.size.disk_bytes > 0
    assert "rounds to no removal" in failed.error
    before = store.report_path(first.hardware.slug, recipes[0], tmp_path).read_bytes()
    sweep.run(recipes[:1], plan, root=tmp_path, log=said.append)
    assert said[-1].endswith("(reused)")
    assert store.report_path(first.hardware.slug, recipes[0], tmp_path).read_bytes() == before
    rows = store.report_path(first.hardware.slug, recipes[0], tmp_path).with_suffix("").with_name("int4.rows.json.gz")
    assert gzip.decompress(rows.read_bytes())


@pytest.mark.usefixtures("few")
def test_compress_then_ask_gives_the_recipes_answer(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = str(ROOT / "assets/examples/easy-vqa-6.png")
    question = ["--image", image, "--question", "What color is the shape?", "--device", "cpu"]
    assert main(["compress", "llava-shapes/glu30+int8", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "448 of 640" in capsys.readouterr().out
    assert main(["ask", str(tmp_path / "out"), *question]) == 0
    saved = capsys.readouterr().out
    assert main(["ask", "llava-shapes/glu30+int8", *question]) == 0
    assert capsys.readouterr().out == saved != ""


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["ask", "llava-shapes/int5", "--image", "assets/examples/easy-vqa-6.png", "--question", "x"], "did you mean"),
        (["ask", "llava-shapes/int8", "--image", "none.png", "--question", "x"], "no image file"),
        (["compress", "llava-shapes/ffn30+fp16", "--out", "nowhere"], "use glu30"),
        (["bench"], "or --all"),
        (["bench", "llava-shapes/fp16", "--task", "vqa9"], "unknown task"),
        (["train", "gpt"], "cannot be trained"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr(words: list[str], sentence: str) -> None:
    done = subprocess.run([sys.executable, "-m", "vlmcomp", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
