"""The chart tells what the reports say, relative to FP16, and live answers never move it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vlmcomp.app import charts, explore_tab, relative, results, tables
from vlmcomp.app.relative import LiveMeasurement
from vlmcomp.app.results import ResultFilter
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.pareto import pareto_frontier
from vlmcomp.reporting.plot import FRONTIER
from vlmcomp.results import store

TASK = "shapes-vqa"
MODEL = "llava-shapes"
HARDWARE = results.hardware()[0]
VIEW = ResultFilter(HARDWARE, (MODEL,))


def _recorded(figure) -> list:
    return [t for t in figure.data if t.mode == "markers" and t.customdata is not None and t.name != charts.LIVE]


def _points(figure) -> Iterator[tuple[str, float, float, str]]:
    for trace in _recorded(figure):
        yield from zip((c[0] for c in trace.customdata), trace.x, trace.y, trace.hovertext, strict=True)


def _shown(view: ResultFilter) -> list[str]:
    return [r.recipe for r in results.select(results.reports(), view).shown]


def _live(name: str, ms: float | None) -> LiveMeasurement:
    return LiveMeasurement(Recipe.parse(f"{MODEL}/{name}"), 20.0, ms, 300.0, 20)


@pytest.mark.parametrize("axis", results.AXES)
def test_every_point_and_its_hover_text_tell_the_reports_numbers(axis: str) -> None:
    view = replace(VIEW, axis=axis)
    found = list(_points(charts.scatter(view)))
    dense = results.find(HARDWARE, f"{MODEL}/fp16")
    assert sorted(p[0] for p in found) == sorted(_shown(view)) and len(found) > 5
    for recipe, x, y, text in found:
        report = results.find(HARDWARE, recipe)
        quality, timed, size = report.quality[TASK], report.latency, report.size
        assert y == pytest.approx(100 * quality.score / dense.quality[TASK].score)
        if axis == "size":
            assert x == pytest.approx(size.total_bytes / dense.size.total_bytes)
        else:
            ratio = dense.latency.decode_ms_per_token_median / timed.decode_ms_per_token_median
            assert x == pytest.approx(ratio, rel=0.05)  # the median of ratios, paired by round
        for name, value in (
            ("Exact match", f"{100 * quality.exact_match:.1f} %"),
            ("Composite", f"{100 * quality.composite:.1f} %"),
            ("First token", f"{timed.ttft_ms_median:.2f} ms"),
            ("Decoding", f"{timed.decode_ms_per_token_median:.2f} ms per token"),
            ("End to end", f"{timed.end_to_end_ms_median:.2f} ms for {timed.new_tokens} tokens"),
            ("Weights", f"{size.total_bytes / 1e6:,.2f} MB"),
        ):
            assert re.search(rf"(<br>|^){name}: {re.escape(value)}", text), (name, value, text)


def test_fp16_is_at_one_and_nothing_is_drawn_over_it() -> None:
    for models in ((MODEL,), tuple(results.models_on(HARDWARE))):
        for axis, techniques in itertools.product(results.AXES, [(), ("quantized",)]):  # whatever is hidden
            *_, last = _recorded(charts.scatter(ResultFilter(HARDWARE, models, techniques, axis)))
            assert [c[0] for c in last.customdata] == [f"{model}/fp16" for model in models]
            assert set(last.x) == {1.0} and set(last.y) == {100.0}
            assert [c[1] for c in last.customdata if c[1]] == ["FP16"]


def test_error_bars_are_the_intervals_about_the_points() -> None:
    seen = 0
    for trace in _recorded(charts.scatter(VIEW)):
        for i, (recipe, *_) in enumerate(trace.customdata):
            both, speed = results.against_fp16(results.find(HARDWARE, recipe))
            for bars, interval, scale in (
                (trace.error_x, speed, 1),
                (trace.error_y, both and both.retention, 100),
            ):
                below, above = bars.arrayminus[i], bars.array[i]
                if interval is None:
                    assert (below, above) == (0, 0) and recipe.endswith("/fp16")
                    continue
                seen += 1
                assert below == pytest.approx(scale * (interval.value - interval.low))
                assert above == pytest.approx(scale * (interval.high - interval.value))
    assert seen > 10


def test_color_is_technique_and_shape_is_model_and_markers_are_small() -> None:
    view = ResultFilter(HARDWARE, tuple(results.models_on(HARDWARE)), axis="size")
    shapes: dict[str, set[str]] = {}
    for trace in _recorded(charts.scatter(view)):
        assert trace.marker.color == COLORS[trace.name] and max(trace.marker.size) <= 14
        for (recipe, *_), symbol in zip(trace.customdata, trace.marker.symbol, strict=True):
            assert Recipe.parse(recipe).technique == trace.name
            shapes.setdefault(Recipe.parse(recipe).model, set()).add(symbol)
    assert all(len(found) == 1 for found in shapes.values())
    assert len({found.pop() for found in shapes.values()}) == len(results.models_on(HARDWARE)) > 1


@pytest.mark.parametrize("axis", results.AXES)
def test_the_ringed_and_named_points_are_the_frontier_of_the_current_filter(axis: str) -> None:
    goal = {"speed": "latency", "size": "memory"}[axis]
    for view in (VIEW, replace(VIEW, techniques=("quantized", "combined"))):
        view = replace(view, axis=axis)
        shown = list(results.select(results.reports(), view).shown)
        best = {r.recipe for r in pareto_frontier(shown, store.load_predictions, ["quality", goal])}
        drawn = relative.relative_points(shown, view)
        assert {str(p.recipe) for p in drawn if p.on_frontier} == best and best
        assert {line[0] for line in tables.table(view) if line[-1] == "yes"} == best
        (line,) = [t for t in charts.scatter(view).data if t.name == FRONTIER]
        assert list(line.y) == sorted(line.y) and line.x[-1] == (min if axis == "speed" else max)(p.x for p in drawn)
        said = relative.frontier_sentence(view)
        first = min((p for p in drawn if p.on_frontier), key=lambda p: p.x * (-1 if axis == "speed" else 1))
        assert re.search(rf"for {axis}: <b[^>]*>{re.escape(first.recipe.name)}</b> \({first.x:.2f}x", said), said


def test_live_answers_are_relative_to_the_live_fp16_and_never_move_the_axes() -> None:
    alone = charts.scatter(VIEW)
    recorded = {recipe: y for recipe, _, y, _ in _points(alone)}
    live = [_live("fp16", 25.0), _live("int8", 20.0), _live("int4", 0.001), _live("glu30+int4", 1e6)]
    figure = charts.scatter(VIEW, live)
    (trace,) = [t for t in figure.data if t.name == charts.LIVE]
    assert figure.layout.xaxis.range == alone.layout.xaxis.range
    assert figure.layout.yaxis.range == alone.layout.yaxis.range
    assert list(_points(figure)) == list(_points(alone))
    assert [c[0] for c in trace.customdata] == [str(m.recipe) for m in live[1:]]
    assert trace.y == tuple(recorded[str(m.recipe)] for m in live[1:])
    low, high = figure.layout.xaxis.range
    assert trace.x[0] == 1.25 and all(low < x < high for x in trace.x)
    assert trace.marker.symbol[0].endswith("-open") and "triangle-right" in trace.marker.symbol[1]
    assert "triangle-left" in trace.marker.symbol[2] and "1.25x" in trace.hovertext[0]
    assert "hollow" in explore_tab.legend(VIEW, live) and "hollow" not in explore_tab.legend(VIEW)


def test_live_answers_without_a_live_fp16_are_not_drawn_and_that_is_said() -> None:
    for live in ([_live("int8", 20.0)], [_live("int8", 20.0), _live("fp16", None)]):
        assert all(t.name != charts.LIVE for t in charts.scatter(VIEW, live).data)
        assert "1 live answer not drawn: ask fp16 too" in explore_tab.legend(VIEW, live)
    for live in ([_live("fp16", 20.0)], [_live("fp16", 20.0), _live("int8", None)]):
        assert all(t.name != charts.LIVE for t in charts.scatter(VIEW, live).data)
        assert "not drawn" not in explore_tab.legend(VIEW, live)


def test_a_compact_chart_labels_what_is_asked_for() -> None:
    chosen = [f"{MODEL}/glu30+int8", f"{MODEL}/heads25+fp16"]
    figure = charts.compact_figure(MODEL, highlighted_recipes=chosen, live=[_live("fp16", 9.0), _live("int8", 6.0)])
    labels = {c[0]: (c[1], opacity) for t in _recorded(figure) for c, opacity in zip(t.customdata, t.marker.opacity)}
    assert sorted(labels) == sorted(_shown(VIEW))
    frontier = {line[0] for line in tables.table(VIEW) if line[-1] == "yes"}
    assert {recipe for recipe, (text, _) in labels.items() if text} == {*chosen, *frontier, f"{MODEL}/fp16"}
    assert {recipe for recipe, (_, opacity) in labels.items() if opacity == 1} == {*chosen, f"{MODEL}/fp16"}
    assert any(t.name == charts.LIVE for t in figure.data)
    assert not charts.compact_figure("llava-1.5-7b").data  # never measured


def test_a_choice_without_results_says_so() -> None:
    figure = charts.scatter(ResultFilter("no-such-machine"))
    assert "No recorded result" in figure.layout.annotations[-1].text and not figure.data


def test_machines_are_named_in_words_that_tell_them_apart() -> None:
    titles = [results.hardware_title(slug) for slug in results.hardware()]
    assert len(set(titles)) == len(titles) and not set(titles) & set(results.hardware())
