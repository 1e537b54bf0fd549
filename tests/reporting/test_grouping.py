"""Tables say what the reports say, and put nothing side by side that does not compare."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import made_reports as made
from vlmcomp.cli import generated_docs
from vlmcomp.cli.commands import compress
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping, results_tables
from vlmcomp.results.schema import Report

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

ROWS = {"fp16": made.rows("red", "blue", "two", "yes"), "int8": made.rows("red", "blue", "two", "red")}


def _rows(report: Report) -> dict[str, list[dict[str, object]]]:
    return ROWS.get(Recipe.parse(report.recipe).name, {})


def _cells(table: str) -> dict[str, dict[str, str]]:
    """A Markdown table by its first column and its head."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_a_row_against_its_baseline() -> None:
    half = replace(made.report().size, weight_bytes={"decoder MLP": 2_000_000})
    small = made.report("llava-shapes/int8", exact=0.5, ms=8.0, size=half)
    table = _cells(results_tables.results_table([small, made.report()], _rows))
    assert list(table) == ["`llava-shapes/fp16`", "`llava-shapes/int8`"]
    row = table["`llava-shapes/int8`"]
    assert row["What"] == "INT8"
    assert (row["Exact match %"], row["Same answer as FP16 %"]) == ("50.0", "75.0")
    assert row["Right to wrong, wrong to right"] == "0, 1"  # by the recorded answers
    assert row["Points to FP16 (95 %)"] == "+25.0 (-52.7 to +80.6)"
    assert (row["Composite %"], row["METEOR %"], row["ROUGE-1 %"], row["BERTScore %"]) == (
        "60.0",
        "40.0",
        "70.0",
        "71.2",
    )
    assert (row["TTFT ms"], row["ms/token"], row["p95"], row["Floor reached %"]) == ("11.0", "8.00", "8.90", "–")
    assert row["Decode speed to FP16 (95 %)"] == "–"  # not timed in turns
    assert (row["Weights MB"], row["% of FP16"]) == ("2.00", "50.0")
    base = table["`llava-shapes/fp16`"]
    assert (base["Points to FP16 (95 %)"], base["% of FP16"]) == ("0.0 (0.0 to 0.0)", "100.0")


def test_without_a_baseline_there_is_nothing_to_relate_to() -> None:
    row = _cells(results_tables.results_table([made.report("llava-shapes/int8")], _rows))["`llava-shapes/int8`"]
    assert {
        row[c] for c in ("Points to FP16 (95 %)", "Same answer as FP16 %", "Decode speed to FP16 (95 %)", "% of FP16")
    } == {"–"}
    assert row["Exact match %"] == "75.0"


def test_a_failure_is_told_in_its_row() -> None:
    bad = made.failed("llava-shapes/int4", "no memory | left\nat all")
    row = _cells(results_tables.results_table([made.report(), bad], _rows))["`llava-shapes/int4`"]
    assert row["What"] == "INT4 (NF4); failed: no memory \\| left at all"
    assert row["Exact match %"] == "–"


def test_baseline_first_then_by_technique_and_strength() -> None:
    names = ["fp16", "int8", "int4", "glu10+fp16", "glu30+fp16", "heads25+fp16", "glu30+int8", "heads25+glu30+int4"]
    reports = [made.report(f"llava-shapes/{name}") for name in reversed(names)]
    assert [Recipe.parse(r.recipe).name for r in grouping.sort_reports(reports)] == names


@pytest.mark.parametrize(
    "other",
    [
        made.report("llava-shapes/int8", hardware=replace(made.HARDWARE, slug="cpu-other-4c")),
        made.report("llava-1.5-7b/int8"),
        made.report("llava-shapes/int8", revision="sha256:4567"),
        made.report("llava-shapes/int8", quality={"shapes-vqa": made.quality(bertscore_encoder="encoder B")}),
        made.report("llava-shapes/int8", quality={"shapes-vqa": made.quality(samples=5)}),
        made.report("llava-shapes/int8", latency=replace(made.report().latency, threads=1)),
    ],
    ids=["hardware", "model", "weights", "encoder", "samples", "threads"],
)
def test_what_does_not_compare_stands_apart(other: Report) -> None:
    reports = [made.report(), other]
    assert sorted(len(g) for g in grouping.comparable_groups(reports)) == [1, 1]
    assert results_tables.results_section(reports, _rows).count("| Recipe | What |") == 2


def test_what_compares_stands_together() -> None:
    reports = [made.report(), made.report("llava-shapes/int8"), made.failed("llava-shapes/int4")]
    assert [len(g) for g in grouping.comparable_groups(reports)] == [3]
    assert [len(g) for g in grouping.comparable_groups(reports[2:])] == [1]
    assert "Nothing" in results_tables.results_section([], _rows)


def test_types_stand_beside_the_commonest_answer() -> None:
    table = _cells(results_tables.question_type_table([made.report(), made.failed("llava-shapes/int8")]))
    assert list(table) == ["always the commonest answer", "`llava-shapes/fp16`"]
    assert table["always the commonest answer"]["color (2)"] == "50.0"
    assert table["`llava-shapes/fp16`"]["count (2)"] == "50.0"


def _with_others(recipe: str, exact: float) -> Report:
    others = {
        "vqav2": made.quality("vqav2", exact, samples=1200, vqa_accuracy=exact + 0.05),
        "my-folder": made.quality("my-folder", exact / 2),
    }
    return made.report(recipe, quality=made.report().quality | others)


def test_every_other_task_that_was_measured_is_shown() -> None:
    group = [
        _with_others("llava-shapes/int8", 0.5),
        _with_others("llava-shapes/fp16", 0.6),
        made.failed("llava-shapes/int4"),
    ]
    table = _cells(results_tables.other_tasks_table(group))
    assert list(table) == ["`llava-shapes/fp16`", "`llava-shapes/int8`"]
    row = {name: cell for name, cell in table["`llava-shapes/int8`"].items() if name != "Recipe"}
    assert row == {
        "vqav2 VQA accuracy % (1,200)": "55.0",
        "vqav2 exact match %": "50.0",
        "my-folder exact match % (4)": "25.0",
    }
    assert results_tables.other_tasks_table(group) in results_tables.results_section(group, _rows)


def test_without_other_tasks_there_is_no_table_of_them() -> None:
    assert results_tables.other_tasks_table(
        [made.report()]
    ) == "" and "other tasks" not in results_tables.results_section([made.report()], _rows)


def test_a_task_that_only_some_recipes_were_asked_stands_apart() -> None:
    text = results_tables.results_section([made.report(), _with_others("llava-shapes/int8", 0.5)], _rows)
    assert text.count("| Recipe | What |") == 2 and text.count("vqav2 exact match") == 1


def test_the_caption_names_the_circumstances() -> None:
    text = results_tables.caption([made.report(), made.report("llava-shapes/int8", date="2026-11-26T00:00:00+00:00")])
    for fact in ("Test CPU", "2 cores", "encoder A", "data A", "2 threads", "2026-11-24 to 2026-11-26", "sha256:0123"):
        assert fact in text
    assert "failed" not in results_tables.caption([made.failed("llava-shapes/int8")])


def test_rewriting_touches_the_block_alone_and_is_stable() -> None:
    text = f"# Title\n{BEGIN}\nold\n{END}\nend\n"
    new = generated_docs.replace_block(text, "new | block")
    assert new == f"# Title\n{BEGIN}\n\nnew | block\n\n{END}\nend\n"
    assert generated_docs.replace_block(new, "new | block") == new


@pytest.mark.parametrize(
    "text",
    ["", BEGIN, END + BEGIN, BEGIN * 2 + END, BEGIN + END * 2],
)
def test_markers_must_be_there_once(text: str) -> None:
    with pytest.raises(ValueError, match="results:begin"):
        generated_docs.replace_block(text, "new")


def test_an_account_says_what_was_left_alone() -> None:
    held = {"vision tower": 2_000_000, "decoder attention": 1_000_000, "decoder MLP": 500_000, "other": 0}
    text = compress.build_summary(
        Recipe.parse("llava-shapes/glu30+int8"), made.report().pruned, held, dict.fromkeys(held, 9)
    )
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "kept 448 of 640" in text
    assert lines["vision tower"].endswith("unchanged")
    assert lines["decoder attention"].endswith("int8") and lines["decoder MLP"].endswith("glu30, int8")
    assert "3.500" in lines["total"] and "other" not in lines
