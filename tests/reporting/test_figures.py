"""Plots show the reports' own numbers, in every kind of picture, and the README's pictures are of today's results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.support import made_reports as made
from vlmcomp.cli import generated_docs
from vlmcomp.cli.main import main
from vlmcomp.models import registry
from vlmcomp.reporting import figures, figures_matplotlib, figures_plotly, grouping
from vlmcomp.reporting.figures import Plot, Point
from vlmcomp.reporting.grid import comparable_reports
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.pareto import pareto_frontier
from vlmcomp.results import store
from vlmcomp.results.schema import Latency, PruningResult, Report, Roofline

ROOT = Path(__file__).resolve().parents[2]
SHOWN = comparable_reports(registry.DEFAULT_MODEL, store.load_all())
DRAWN = {plot.name: plot for plot in figures.build_plots(SHOWN, store.load_predictions)}


def _points(plot: Plot) -> dict[str, Point]:
    return {str(point.recipe): point for panel in plot.panels for point in panel.points}


def test_the_points_are_the_reports() -> None:
    expected = {
        "quality-latency": lambda r: (r.latency.decode_ms_per_token_median, r.quality["shapes-vqa"].exact_match),
        "quality-size": lambda r: (r.size.total_bytes / 1e6, r.quality["shapes-vqa"].exact_match),
    }
    for name, goals in {"quality-latency": ["quality", "latency"], "quality-size": ["quality", "memory"]}.items():
        found = _points(DRAWN[name])
        assert set(found) == {r.recipe for r in SHOWN}
        for report in SHOWN:
            point, (x, share) = found[report.recipe], expected[name](report)
            assert (point.x, point.y) == (pytest.approx(x), pytest.approx(100 * share))
            assert point.y_bounds is None or point.y_bounds[0] <= point.y <= point.y_bounds[1]
        best = {r.recipe for r in pareto_frontier(SHOWN, store.load_predictions, goals)}
        assert {name for name, point in found.items() if point.on_frontier} == best
    dense = next(r for r in SHOWN if r.recipe == f"{registry.DEFAULT_MODEL}/fp16").quality["shapes-vqa"].exact_match
    pruned = {r.recipe: r for r in SHOWN if len(r.pruned) == 1 and r.recipe.endswith("+fp16")}
    kept = _points(DRAWN["kept-pruned"])
    assert set(kept) == set(pruned) != set()
    for name, point in kept.items():
        share = pruned[name].quality["shapes-vqa"].exact_match / dense
        assert (point.x, point.y) == (pruned[name].pruned[0].real_percent, pytest.approx(100 * share))


@pytest.mark.parametrize("name", DRAWN)
def test_both_kinds_of_picture_hold_every_point(name: str) -> None:
    plot = DRAWN[name]
    wanted = sorted((point.x, point.y) for point in _points(plot).values())
    axes = figures_matplotlib.figure(plot).axes[0]
    scattered = [tuple(p) for c in axes.collections if hasattr(c, "get_sizes") for p in c.get_offsets().tolist()]
    assert sorted(scattered) == wanted
    traces = [t for t in figures_plotly.figure(plot).data if t.mode == "markers"]
    assert sorted((x, y) for t in traces for x, y in zip(t.x, t.y, strict=True)) == wanted
    assert {t.name for t in traces} <= set(COLORS)
    for trace in traces:
        assert trace.marker.color == COLORS[trace.name]
        for x, y, text in zip(trace.x, trace.y, trace.hovertext, strict=True):
            point = _points(plot)[text.partition("</b>")[0].removeprefix("<b>")]
            assert (point.x, point.y) == (x, y) and f"{y:.4g}" in text and point.recipe.technique == trace.name


def test_the_readmes_pictures_are_of_what_is_recorded() -> None:
    shown = {
        (document.parent / path, name)
        for document in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
        for path, name in re.findall(rf"\]\(([\w./-]*?({'|'.join(figures.NAMES)})\.png)\)", document.read_text())
    }
    assert {name for _, name in shown} <= set(DRAWN) and shown
    for file, name in shown:
        assert file.stat().st_size < 150_000
        with Image.open(file) as image:
            assert image.info["Source"] == DRAWN[name].digest, "run: make docs"


def test_names_are_those_of_the_plots() -> None:
    floored = [replace(r, latency=replace(r.latency, floor=Roofline(1e9, 1e11, 10**6, 10**9))) for r in SHOWN]
    assert tuple(p.name for p in figures.build_plots(floored, lambda r: {})) == figures.NAMES


def _timed(step: float, session: str, floor: Roofline | None = None) -> Latency:
    steps = [step, step * 1.01, step * 0.99]
    return Latency(32, 80, 2, 2, [1.0] * 3, steps, steps, session=session, floor=floor)


FLOOR = Roofline(1e9, 1e11, 2_000_000, 10**9)  # 2 ms a token
MADE = [
    made.report("llava-shapes/fp16", 0.75, latency=_timed(8.0, "one", FLOOR)),
    made.report("llava-shapes/glu30+fp16", 0.6, latency=_timed(4.0, "one", FLOOR)),
    made.report("llava-shapes/int8", 0.5, latency=_timed(16.0, "one", FLOOR), pruned=[]),
    made.failed("llava-shapes/int4"),
]


def _none(report: Report) -> dict[str, store.Predictions]:
    return {}


def test_the_floor_and_the_line_of_the_frontier() -> None:
    found = {plot.name: plot for plot in figures.build_plots(MADE, _none)}
    points = _points(found["floor-reached"])
    assert {(point.x, point.y) for point in points.values()} == {(2.0, 8.0), (2.0, 4.0), (2.0, 16.0)}
    shares = [line.name for line in found["floor-reached"].panels[0].lines]
    assert shares == ["100 %", "50 %", "20 %", "10 %"]  # 2 / 16 lies between the last two
    for line in found["floor-reached"].panels[0].lines:
        assert {round(100 * x / y) for x, y in line.points} == {int(line.name.split()[0])}
    (line,) = found["quality-latency"].panels[0].lines
    assert line.points == ((4.0, pytest.approx(60.0)), (8.0, 75.0), (16.0, 75.0))


def test_without_turns_there_is_no_line_and_the_note_says_so() -> None:
    apart = [replace(r, latency=r.latency and replace(r.latency, session=r.recipe)) for r in MADE]
    for reports, lines in ((MADE, 1), (apart, 0)):
        plot = figures.build_plots(reports, _none)[0]
        assert len(plot.panels[0].lines) == lines and ("not taken in turns" in plot.note) == (not lines)


def test_machines_and_models_do_not_mix() -> None:
    slow = [replace(r, hardware=replace(made.HARDWARE, slug="cpu-slow-1c")) for r in MADE]
    other = made.report("qwen2-vl-shapes/fp16", pruned=[PruningResult("glu30", 30, 30.0, 1, 2, "", "", "")])
    with pytest.raises(ValueError, match="share no axis"):
        figures.build_plots(MADE + slow, _none)
    assert grouping.largest_machine([*slow, *MADE, other]) == [*MADE, other]
    titles = [panel.title for panel in figures.build_plots([*MADE, other], _none)[0].panels]
    assert titles == ["llava-shapes", "qwen2-vl-shapes"]
    alone = replace(MADE[2], latency=replace(MADE[2].latency, new_tokens=8))
    found = {plot.name: plot for plot in figures.build_plots([*MADE[:2], alone], _none)}
    for name, count in {"quality-latency": 2, "floor-reached": 2, "quality-size": 3}.items():
        assert len(_points(found[name])) == count  # other times share no axis, sizes do
    random = [replace(r, weights="random: architecture only", quality={}) for r in MADE]
    (only,) = figures.build_plots(random, _none)
    assert only.name == "floor-reached" and only.panels[0].title == "llava-shapes (random weights)"


def test_the_command_writes_the_same_bytes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = made.report(hardware=replace(made.HARDWARE, slug="cpu-slow-1c"))
    for report in [*MADE, slow]:
        store.save(report, {}, tmp_path / "results")
    command = ["report", "--root", str(tmp_path / "results"), "--plots"]
    for folder in ("one", "two"):
        assert main([*command, str(tmp_path / folder)]) == 0
    said = capsys.readouterr().out
    assert "for the others give --hardware cpu-slow-1c" in said
    assert "left out, because they failed or do not compare with the others: llava-shapes/int4\n" in said
    files = sorted(f.name for f in (tmp_path / "one").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in figures.NAMES for kind in ("png", "svg", "html"))
    for name in files:
        data = (tmp_path / "one" / name).read_bytes()
        assert data == (tmp_path / "two" / name).read_bytes()
        assert not name.endswith("html") or b'src="http' not in data
    assert main([*command, str(tmp_path / "three"), "--hardware", "cpu-slow-1c"]) == 0
    store.save(made.failed("blip2-shapes/int8"), None, tmp_path / "failed")
    assert main(["report", "--root", str(tmp_path / "failed"), "--plots", str(tmp_path / "none")]) == 2
    assert "nothing was measured that could be drawn" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_readme_gets_the_plots_that_it_shows_and_no_other(tmp_path: Path) -> None:
    text = "![a](pictures/quality-size.png) ![b](app.png) `quality-latency.png`"
    (picture,) = generated_docs.render_figures(text, MADE, tmp_path).items()
    assert picture[0] == "pictures/quality-size.png" and picture[1].startswith(b"\x89PNG")
    assert generated_docs.render_figures("no picture", MADE, tmp_path) == {}
    with pytest.raises(ValueError, match=r"kept-pruned\.png, for which nothing was measured"):
        generated_docs.render_figures("![a](kept-pruned.png)", MADE[:1], tmp_path)
