"""The matrix of cells and the study's claims: every cell has a fate, and every number is a ratio of two reports."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.made_reports import failed, quality, report, scored, scored_rows
from vlmcomp.cli.main import main
from vlmcomp.models import registry
from vlmcomp.recipe import BASE_PRECISIONS, PruningStep, Recipe
from vlmcomp.reporting import claims, grid
from vlmcomp.results import store
from vlmcomp.results.schema import Report, Size

LLAVA, BLIP2 = "llava-shapes", "blip2-shapes"


def _report(recipe: str, megabytes: int = 100, ms: float = 4.0, exact: float = 0.8, session: str = "one") -> Report:
    size = Size({"decoder MLP": megabytes * 10**6}, {"decoder MLP": 1}, 1)
    scores = {"shapes-vqa": quality(exact=exact, composite=exact / 2), "easy-vqa": quality("easy-vqa", 1.0)}
    made = report(recipe, ms=ms, size=size, quality=scores)
    return replace(made, latency=replace(made.latency, session=session))


@pytest.mark.parametrize("model", registry.MODELS)
def test_every_technique_meets_every_precision_or_is_refused_with_its_alternative(model: str) -> None:
    cells, mlp = grid.recipe_grid(model), registry.get_model_spec(model).mlp
    recipes = grid.buildable_recipes(model)
    steps = {
        (),
        (PruningStep(mlp, 20),),
        (PruningStep(mlp, 30),),
        (PruningStep("heads", 25),),
        (PruningStep("heads", 25), PruningStep(mlp, 30)),
    }
    sees_all = bool(registry.get_model_spec(model).no_token_pruning_reason)
    halves = set() if sees_all else {((PruningStep("vis", 50),), p) for p in ("fp16", "int8")}
    wanted = {(s, p) for s in steps for p in BASE_PRECISIONS} | {((), p) for p in grid.MEASURED_PRECISIONS} | halves
    assert {(r.steps, r.precision) for r in recipes} == wanted and len(recipes) == len(wanted)
    assert [cell.row for cell in cells] == list(grid.ROWS) and len({cell.recipe for cell in cells}) == len(cells)
    for cell in cells:
        assert bool(cell.refused) == (sees_all and any(step.target == "vis" for step in cell.recipe.steps))
        assert cell.recipe.model == model and registry.get_model_spec(model).name in (cell.refused or model)


def test_a_row_is_one_compression_in_every_models_own_spelling() -> None:
    labels = [row.label for row in grid.ROWS]
    assert len(set(labels)) == len(labels) and not any("glu" in label or "ffn" in label for label in labels)
    (row,) = (row for row in grid.ROWS if row.label == "25 % of heads and 30 % of MLP neurons, INT4 (NF4)")
    assert str(row.recipe(LLAVA)) == f"{LLAVA}/heads25+glu30+int4"
    assert str(row.recipe(BLIP2)) == f"{BLIP2}/heads25+ffn30+int4"


def test_every_cell_has_one_fate() -> None:
    models = [LLAVA, BLIP2, "smolvlm-256m"]
    reports = [_report(f"{LLAVA}/fp16"), failed(f"{LLAVA}/int8", "no memory"), _report(f"{BLIP2}/ffn20+int4")]
    (head, *rows), count = grid.coverage(models, reports)
    assert head == ("Compression", *models) and [row[0] for row in rows] == [row.label for row in grid.ROWS]
    states = [state.partition(":")[0] for row in rows for state in row[1:]]
    counts = {state: states.count(state) for state in ("measured", "refused", "failed", "not measured")}
    assert count == ", ".join(f"{number} {state}" for state, number in counts.items())
    assert (counts["measured"], counts["failed"], sum(counts.values())) == (2, 1, 3 * len(grid.ROWS))
    by_label = {row[0]: row[1:] for row in rows}
    assert by_label["FP16"][:2] == ("measured", "not measured")
    assert by_label["INT8"][:2] == ("failed: no memory", "not measured")
    assert by_label["20 % of MLP neurons, INT4 (NF4)"][:2] == ("not measured", "measured")
    assert by_label["50 % of image tokens, INT8"][2].startswith("refused: vis50 does not fit smolvlm-256m")


def test_a_cell_shows_quality_bytes_and_speed_against_its_own_fp16() -> None:
    reports = [
        _report(f"{LLAVA}/fp16"),
        _report(f"{LLAVA}/int4", 40, 5.0, 0.6),
        _report(f"{BLIP2}/fp16", 200, 1.0, 0.5),
        _report(f"{BLIP2}/int4", 150, 0.5, 0.5),
    ]
    text = grid.grid_table([LLAVA, BLIP2], reports)
    assert "| INT4 (NF4) | 75.0 · 40 % · 0.80x | 100.0 · 75 % · 2.00x |" in text
    assert "| 30 % of MLP neurons, FP16 | not measured | not measured |" in text
    apart = [*reports[:1], _report(f"{LLAVA}/int4", 40, 5.0, 0.6, session="another")]
    assert "| INT4 (NF4) | 75.0 · 40 % · – |" in grid.grid_table([LLAVA], apart)


def test_a_report_without_the_main_task_or_with_nothing_right_breaks_no_table() -> None:
    bare = [_report(f"{LLAVA}/fp16"), report(f"{LLAVA}/int8", quality={"easy-vqa": quality("easy-vqa")})]
    none = [_report(f"{LLAVA}/fp16", exact=0.0), _report(f"{LLAVA}/int8", exact=0.0)]
    for reports in (bare, none):
        assert "| INT8 | not measured |" in grid.grid_table([LLAVA], reports)
        assert "| INT8 quality |" in claims.claims_table([LLAVA], reports, lambda r: {})
    assert grid.grid_table([LLAVA], []) == ""


def test_a_claim_is_told_beside_each_family_and_gaps_stay_gaps() -> None:
    glu, heads = f"{LLAVA}/glu30+fp16", f"{LLAVA}/heads25+fp16"
    reports = [
        _report(f"{LLAVA}/fp16"),
        _report(f"{LLAVA}/int4", 50, 2.0, 0.4),
        _report(glu, 80, 3.0, 0.72),
        _report(heads, 90, 4.0, 0.64),
        _report(f"{LLAVA}/heads25+glu30+int4", 45, 1.5, 0.288),
        _report(f"{BLIP2}/fp16"),
    ]
    lines = claims.claims_table([LLAVA, BLIP2], reports, lambda r: {}).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines}
    assert cells["INT4 size"][:3] == ["-74 %", "-50.0 %", "–"] and cells["INT4 size"][3].startswith("holds for 0 of 1:")
    assert cells["30 % of the MLP's neurons removed: ms/token"][:3] == ["-47 %", "-25.0 %", "–"]
    assert cells["INT8 size"][3] == cells["MLP neurons against heads"][3] == "–"  # no answers, so no interval
    assert cells["30 % of the MLP's neurons removed: quality"][1] == "90.0 % kept, composite 90.0 % kept: –"
    assert "`glu30` -20.0 %: 90.0 % kept, `heads25` -10.0 %: 80.0 % kept" in cells["MLP neurons against heads"]
    stacked = [cells[k][1] for k in cells if k.startswith("Stacking")]
    held = [cells[k][3][:14] for k in cells if k.startswith("Stacking")]
    assert held == ["holds for 0 of", "holds for 1 of", "holds for 1 of"]
    assert stacked == ["0.450 / 0.360 = 1.25", "0.375 / 0.375 = 1.00", "0.360 / 0.360 = 1.00"]


@pytest.mark.parametrize(("glu", "heads", "holds"), [(90, 60, 1), (90, 88, 0), (60, 90, 0), (90, 90, 0)])
def test_neurons_lose_less_than_heads_only_where_the_interval_says_so(glu: int, heads: int, holds: int) -> None:
    reports = [scored(f"{LLAVA}/fp16", shapes_vqa=95)]
    reports += [scored(f"{LLAVA}/glu30+fp16", shapes_vqa=glu), scored(f"{LLAVA}/heads25+fp16", shapes_vqa=heads)]
    table = claims.claims_table([LLAVA], reports, scored_rows, "shapes-vqa")
    (line,) = [line for line in table.splitlines() if line.startswith("| MLP neurons against heads")]
    assert f"holds for {holds} of 1: judged by the 95 % interval" in line
    assert f"; {glu - heads:+.1f} points (" in line.replace("; 0.0 points", "; +0.0 points")
    stacked = [line for line in table.splitlines() if line.startswith("| Stacking")]
    assert len(stacked) == 3


def test_what_is_left_by_how_much_is_removed_says_what_the_matrix_says() -> None:
    reports = store.load_all()
    head, _, *lines = claims.pruning_curve_table("vis", [LLAVA, BLIP2], reports, store.load_predictions).splitlines()
    assert head == f"| Removed | {LLAVA} | {BLIP2} |" and lines
    shown = {model: {r.recipe: r for r in grid.comparable_reports(model, reports)} for model in (LLAVA, BLIP2)}
    for line in lines:
        step, *cells = line.strip("| ").split(" | ")
        for model, cell in zip((LLAVA, BLIP2), cells):
            recipe = Recipe.parse(f"{model}/{step.strip('`')}+fp16")
            kept = grid.relative_score(shown[model][str(recipe)], shown[model][str(recipe.baseline)])
            value, low, _, high = cell.replace("(", "").replace(")", "").split()
            assert value == f"{100 * kept:.1f}" and float(low) <= float(value) <= float(high)
    assert claims.pruning_curve_table("vis", [LLAVA], [_report(f"{LLAVA}/fp16")], lambda r: {}) == ""


def test_rows_timed_with_other_threads_share_the_matrix_without_speeds() -> None:
    dense, small = _report(f"{LLAVA}/fp16"), _report(f"{LLAVA}/int4", 40, session="another")
    small = replace(small, latency=replace(small.latency, threads=8))
    assert "| INT4 (NF4) | 100.0 · 40 % · – |" in grid.grid_table([LLAVA], [dense, small])


def test_reports_of_other_hardware_do_not_mix() -> None:
    """Of two machines the one that holds more models is shown, of equals the newer; a row never joins the two."""
    other = {"hardware": report().hardware.__class__("gpu-x", "cuda", "X", 4, 1)}
    mine = [_report(f"{LLAVA}/fp16", 100), _report(f"{BLIP2}/fp16")]
    away = [report(f"{LLAVA}/fp16", **other), report(f"{LLAVA}/int8", **other)]
    assert grid.comparable_reports(LLAVA, mine + away) == mine[:1]
    older, newer = (replace(away[0], date=f"{year}-01-01T00:00:00+00:00") for year in (2000, 2100))
    assert grid.comparable_reports(LLAVA, [mine[0], older]) == mine[:1] and grid.comparable_reports(
        LLAVA, [mine[0], newer]
    ) == [newer]
    assert "| INT8 | not measured | not measured |" in grid.grid_table([LLAVA, BLIP2], mine + away)


def test_bench_all_ends_with_the_fate_of_every_cell(tmp_path: Path, capsys, monkeypatch) -> None:
    """With everything kept from before, ``bench --all`` measures nothing and tells all; the records are real ones."""
    from vlmcomp.evaluation import config, sweep

    asked: list[Recipe] = []

    def run(recipes: list[Recipe], plan: config.BenchmarkConfig, **kwargs: object) -> list[Report]:
        asked.extend(recipes)
        return [r for r in store.load_all() if Recipe.parse(r.recipe) in recipes]

    monkeypatch.setattr(sweep, "run", run)
    assert main(["bench", "--all", "--out", str(tmp_path)]) == 0
    assert asked == [r for m in grid.bundled_models() for r in grid.buildable_recipes(m)]
    said = capsys.readouterr().out
    count = len(grid.ROWS) * len(grid.bundled_models())
    assert re.search(rf"^{count} measured, 0 failed$", said, re.MULTILINE)
    assert all(row.label in said for row in grid.ROWS)
