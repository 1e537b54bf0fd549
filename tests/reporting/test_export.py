"""Flat rows say what the reports say: in Markdown, CSV and JSON, failures included."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import made_reports as made
from vlmcomp.cli.main import main
from vlmcomp.reporting import export
from vlmcomp.reporting.statistics import percentile_95
from vlmcomp.results import store
from vlmcomp.results.schema import COMPONENTS, Report, Roofline

ROOT = Path(__file__).resolve().parents[2]
RECORDED = [r for r in store.load_all() if r.recipe.startswith(("llava-shapes/", "blip2-shapes/"))]
TIMED = replace(
    made.report().latency,
    session="one",
    preprocess_ms=[1.0, 2.0],
    vision_ms=[3.0],
    batch_decode_ms={"4": [8.0, 9.0], "8": [11.0], "16": [20.0]},
    floor=Roofline(1e9, 1e11, 2_000_000, 10**9),
)


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _same(text: str, value: export.Value) -> bool:
    if isinstance(value, float):
        return float(text) == value
    return text == ("" if value is None else str(value))


def test_the_recorded_reports_come_back_value_for_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("json", "csv"):
        assert main(["report", "--format", name, "--out", str(tmp_path / "new" / f"results.{name}")]) == 0
    lines = json.loads((tmp_path / "new" / "results.json").read_text())
    texts = _read((tmp_path / "new" / "results.csv").read_text())
    by_recipe = {(line["hardware"], line["recipe"]): line for line in lines}
    assert len(by_recipe) == len(lines) == len(store.load_all())
    for text, line in zip(texts, lines, strict=True):
        assert list(text) == list(line) and all(_same(text[name], value) for name, value in line.items())
    for report in RECORDED:
        line = by_recipe[report.hardware.slug, report.recipe]
        _holds(line, report)
        rows = store.load_predictions(report)["shapes-vqa"]
        dense = store.load_predictions(replace(report, recipe=f"{line['model']}/fp16"))["shapes-vqa"]
        same = statistics.fmean(a["answer"] == b["answer"] for a, b in zip(rows, dense, strict=True))
        assert line["shapes-vqa.same_answer_as_fp16_share"] == pytest.approx(same)
        low, high = (line[f"shapes-vqa.exact_match_to_fp16_{end}_share"] for end in ("low", "high"))
        assert low <= line["shapes-vqa.exact_match_to_fp16_share"] <= high


def _holds(line: dict[str, export.Value], report: Report) -> None:
    assert (line["commit"], line["date"], line["error"]) == (report.commit, report.date, None)
    assert (line["dtype_stored"], line["dtype_computed"]) == (report.dtype_stored, report.dtype_computed)
    for task, found in report.quality.items():
        for name, value in {"samples": found.samples, "exact_match_share": found.exact_match}.items():
            assert line[f"{task}.{name}"] == value
        parts = (found.composite, found.meteor, found.rouge1, found.bertscore_f1, found.bertscore_encoder)
        names = ("composite_share", "meteor_share", "rouge1_share", "bertscore_f1_share", "bertscore_encoder")
        assert tuple(line[f"{task}.{name}"] for name in names) == parts
    for name in export.TIMES:
        runs = getattr(report.latency, name)
        assert line[f"{name}_median"] == (statistics.median(runs) if runs else None)
        assert line[f"{name}_p95"] == (percentile_95(runs) if runs else None)
    held = {name.removesuffix("_weight_bytes"): line[name] for name in line if name.endswith("_weight_bytes")}
    assert held == {part.replace(" ", "_"): report.size.weight_bytes.get(part, 0) for part in COMPONENTS}
    assert line["weight_bytes"] == sum(held.values()) and line["disk_bytes"] == report.size.disk_bytes
    assert line["answering_peak_memory_bytes"] == report.memory.peak_answer_bytes


def test_a_failed_recipe_has_its_row_in_every_format() -> None:
    reason = 'no memory | left,\n"at all"'
    other = made.report("llava-shapes/int8", revision="sha256:4567")  # two groups: the failed one belongs to both
    lines = export.to_rows([made.report(), other, made.failed("llava-shapes/int4", reason)], lambda r: {})
    (bad,) = (line for line in lines if line["recipe"] == "llava-shapes/int4")
    assert len(lines) == 3 and bad["error"] == reason and bad["precision"] == "int4"
    unknown = ("shapes-vqa.exact_match_share", "weight_bytes", "ttft_ms_p95", "on_frontier")
    assert {bad[name] for name in unknown} == {None}
    assert len({tuple(line) for line in lines}) == 1
    assert [line["error"] for line in json.loads(export.WRITERS["json"](lines))].count(reason) == 1
    assert [t["error"] for t in _read(export.WRITERS["csv"](lines)) if t["precision"] == "int4"] == [reason]
    table = export.WRITERS["markdown"](lines).splitlines()
    assert len(table) == 2 + 3 and any(line.endswith('| no memory \\| left, "at all" |') for line in table)
    assert "vqa_accuracy" not in table[0]  # no row has one


def test_speed_floor_and_batches() -> None:
    fast = replace(TIMED, decode_ms_per_token=[t / 2 for t in TIMED.decode_ms_per_token])
    apart = replace(fast, session="another", floor=None)
    made_of = {"fp16": TIMED, "int8": fast, "int4": apart}
    reports = [made.report(f"llava-shapes/{name}", latency=timed) for name, timed in made_of.items()]
    _, int8, int4 = export.to_rows(reports, lambda r: {})
    assert int8["decode_speed_to_fp16_ratio"] == pytest.approx(2)
    assert int4["decode_speed_to_fp16_ratio"] is None and int4["decode_floor_ms_per_token"] is None
    assert int8["decode_floor_reached_share"] == pytest.approx(2.0 / fast.decode_ms_per_token_median)
    batches = [name for name in int8 if name.startswith("batch") and name.endswith("median")]
    assert batches == [f"batch{size}_decode_ms_per_step_median" for size in (4, 8, 16)]
    assert [int8[name] for name in batches] == [8.5, 11.0, 20.0]
    assert int8["vision_ms_median"] == 3.0 and int8["preprocess_ms_p95"] == pytest.approx(1.95)


def test_choosing_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = replace(made.HARDWARE, slug="cpu-slow-1c")
    for found in (made.report(), made.report("qwen2-vl-shapes/int8"), made.report(hardware=slow)):
        store.save(found, made.rows("red"), tmp_path)
    command = ["report", "--root", str(tmp_path)]

    def shown(*words: str) -> list[tuple[str, str]]:
        assert main([*command, "--format", "csv", *words]) == 0
        return [(line["hardware"], line["recipe"]) for line in _read(capsys.readouterr().out)]

    assert len(shown()) == 3
    assert shown("--model", "qwen2-vl-shapes") == [("cpu-test-2c", "qwen2-vl-shapes/int8")]
    assert shown("--hardware", "cpu-slow-1c") == [("cpu-slow-1c", "llava-shapes/fp16")]
    assert main([*command, "--model", "llava-shapes"]) == 0 and "qwen2" not in capsys.readouterr().out
    for words, says in {
        ("--model", "gpt"): "no reports of --model gpt: choose llava-shapes or qwen2-vl-shapes",
        ("--hardware", "tpu"): "choose cpu-slow-1c or cpu-test-2c",
        ("--readme", "x", "--model", "llava-shapes"): "--readme shows every model",
        ("--plots", "x", "--out", "y"): "--out is for tables",
        ("--plots", "x", "--format", "csv"): "not allowed with",
        ("--format", "xml"): "invalid choice",
    }.items():
        assert main([*command, *words]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
