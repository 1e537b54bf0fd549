"""Reports as flat rows for other tools: one a recipe, with its circumstances, and units in the column names.

Shares run from 0 to 1; a step of a batch is one token for each of its questions. ``to_fp16`` compares with the FP16
model on the same machine: differences with their 95 % interval, speed only if the two were timed in turns.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import (
    PredictionLoader,
    choose_headline_task,
    comparable_groups,
    compare_to_baseline,
    find_baseline,
    find_metric,
)
from vlmcomp.reporting.markdown import markdown_table
from vlmcomp.reporting.pareto import pareto_frontier
from vlmcomp.reporting.statistics import percentile_95, speed_interval
from vlmcomp.results.schema import COMPONENTS, EXACT_MATCH, VQA_ACCURACY, Latency, Report, Size

Value = str | int | float | bool | None
_Columns = Mapping[str, Callable[[Any], Value]]


def _version(package: str, report: Report) -> Value:
    return report.versions.get(package)


def _part_bytes(part: str, size: Size) -> Value:
    return size.weight_bytes.get(part, 0)


def _differences(metric: str) -> _Columns:
    return {
        f"{metric}_to_fp16_share": lambda p: p.difference.value,
        f"{metric}_to_fp16_low_share": lambda p: p.difference.low,
        f"{metric}_to_fp16_high_share": lambda p: p.difference.high,
        "same_answer_as_fp16_share": lambda p: p.agreement,
    }


_IDENTITY: _Columns = {
    "hardware": lambda r: r.hardware.slug,
    "hardware_name": lambda r: r.hardware.name,
    "hardware_cores": lambda r: r.hardware.cores,
    "hardware_memory_bytes": lambda r: r.hardware.memory_bytes,
    "recipe": lambda r: r.recipe,
    "model": lambda r: Recipe.parse(r.recipe).model,
    "technique": lambda r: Recipe.parse(r.recipe).technique,
    "precision": lambda r: Recipe.parse(r.recipe).precision,
    "image_tokens_removed_percent": lambda r: _percent_removed(r, "vis"),
    "heads_removed_percent": lambda r: _percent_removed(r, "heads"),
    "mlp_neurons_removed_percent": lambda r: _percent_removed(r, "glu", "ffn"),
    "dtype_stored": lambda r: r.dtype_stored,
    "dtype_computed": lambda r: r.dtype_computed,
    "backend": lambda r: r.backend,
    "source": lambda r: r.source,
    "revision": lambda r: r.revision,
    "settings": lambda r: r.settings,
    "weights": lambda r: r.weights,
    "commit": lambda r: r.commit,
    "date": lambda r: r.date,
    **{f"{name}_version": partial(_version, name) for name in ("torch", "transformers", "bitsandbytes")},
    "build_seconds": lambda r: None if r.error else r.build_seconds,
}
_QUALITY: _Columns = {
    "version": lambda q: q.version,
    "samples": lambda q: q.samples,
    "seed": lambda q: q.seed,
    "metric": lambda q: q.metric,
    "exact_match_share": lambda q: q.exact_match,
    "vqa_accuracy_share": lambda q: q.vqa_accuracy,
    "composite_share": lambda q: q.composite,
    "meteor_share": lambda q: q.meteor,
    "meteor_data": lambda q: q.meteor_data,
    "rouge1_share": lambda q: q.rouge1,
    "rouge1_stemmed": lambda q: q.rouge1_stemmed,
    "bertscore_f1_share": lambda q: q.bertscore_f1,
    "bertscore_encoder": lambda q: q.bertscore_encoder,
    "answer_words_mean": lambda q: q.answer_words,
}
_PAIRED: dict[str, _Columns] = {  # by metric
    EXACT_MATCH: {
        **_differences("exact_match"),
        "right_to_wrong_questions": lambda p: p.regressions,
        "wrong_to_right_questions": lambda p: p.improvements,
        "mcnemar_p": lambda p: p.p_value,
    },
    VQA_ACCURACY: {
        **_differences("vqa_accuracy"),
        "lower_score_questions": lambda p: p.regressions,
        "higher_score_questions": lambda p: p.improvements,
        "p_value": lambda p: p.p_value,
    },
}
_TIMING: _Columns = {
    "new_tokens": lambda t: t.new_tokens,
    "prompt_tokens": lambda t: t.prompt_tokens,
    "timed_runs": lambda t: len(t.decode_ms_per_token),
    "threads": lambda t: t.threads,
    "timing_session": lambda t: t.session or None,
}
TIMES = ("preprocess_ms", "vision_ms", "ttft_ms", "decode_ms_per_token", "end_to_end_ms")
_BATCHES = ("4", "8")
_SPEED: _Columns = {
    "decode_speed_to_fp16_ratio": lambda i: 1 + i.value,
    "decode_speed_to_fp16_low_ratio": lambda i: 1 + i.low,
    "decode_speed_to_fp16_high_ratio": lambda i: 1 + i.high,
}
_ROOFLINE: _Columns = {
    "memory_bandwidth_bytes_per_s": lambda t: t.floor.bandwidth_bytes_s,
    "compute_flops_per_s": lambda t: t.floor.flops_s,
    "decode_floor_ms_per_token": lambda t: t.floor.decode_ms_per_token,
    "decode_floor_reached_share": lambda t: t.floor.decode_ms_per_token / t.decode_ms_per_token_median,
    "prefill_floor_ms": lambda t: t.floor.prefill_ms,
}
_SIZE: _Columns = {
    **{f"{part.replace(' ', '_')}_weight_bytes": partial(_part_bytes, part) for part in COMPONENTS},
    "weight_bytes": lambda s: s.total_bytes,
    "disk_bytes": lambda s: s.disk_bytes or None,
    "parameters": lambda s: sum(s.parameters.values()),
}
_MEMORY: _Columns = {
    "loaded_memory_bytes": lambda m: m.loaded_bytes,
    "building_peak_memory_bytes": lambda m: m.peak_build_bytes,
    "answering_peak_memory_bytes": lambda m: m.peak_answer_bytes,
    "memory_measure": lambda m: m.measure,
}


def to_rows(
    reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None
) -> list[dict[str, Value]]:
    """One row a report, failed ones included, all with the same columns; None for what was not measured.

    ``on_frontier``: no recipe of the same model and machine dominates it in quality, latency and weight bytes.

    Args:
        reports: any reports.
        load_predictions: reads the predictions of a report.
        task: the task of the frontier (None: of each group its headline task).
    """
    metrics = {name: find_metric(reports, name) for report in reports for name in report.quality}
    batches = sorted({*_BATCHES, *(b for r in reports if r.latency for b in r.latency.batch_decode_ms)}, key=int)
    rows: dict[tuple[str, str], dict[str, Value]] = {}
    for group in comparable_groups(reports, timing=False, task=task):
        headline = task or choose_headline_task(group)
        frontier = {r.recipe for r in pareto_frontier(group, load_predictions, task=headline)}
        baseline = find_baseline(group)
        for report in group:
            complete = report.size and report.latency and headline in report.quality
            rows.setdefault(  # a failed one is in every group of its machine and model
                (report.hardware.slug, report.recipe),
                {
                    **_values(_IDENTITY, report),
                    **_quality_values(report, baseline, load_predictions, metrics),
                    **_latency_values(report.latency, baseline, batches),
                    **_values(_SIZE, report.size),
                    **_values(_MEMORY, report.memory),
                    "on_frontier": report.recipe in frontier if complete else None,
                    "error": report.error,
                },
            )
    return list(rows.values())


def _values(columns: _Columns, source: Any, prefix: str = "") -> dict[str, Value]:
    return {prefix + name: None if source is None else value(source) for name, value in columns.items()}


def _percent_removed(report: Report, *targets: str) -> float | None:
    """Percent that was really removed; 0 if the recipe has no such step, None if it failed before."""
    if not any(step.target in targets for step in Recipe.parse(report.recipe).steps):
        return 0.0
    return next((p.real_percent for p in report.pruned if p.step.startswith(targets)), None)


def _quality_values(
    report: Report, baseline: Report | None, load_predictions: PredictionLoader, metrics: Mapping[str, str]
) -> dict[str, Value]:
    """The scores of every task in ``metrics``, which names the one that judges it."""
    values: dict[str, Value] = {}
    for task, metric in metrics.items():
        compared = compare_to_baseline(load_predictions, report, baseline, task) if baseline else None
        if compared is not None and compared.metric != metric:
            compared = None
        values |= _values(_QUALITY, report.quality.get(task), f"{task}.")
        values |= _values(_PAIRED[metric], compared, f"{task}.")
    return values


def _latency_values(timed: Latency | None, baseline: Report | None, batches: Sequence[str]) -> dict[str, Value]:
    values = _values(_TIMING, timed)
    runs = {name: getattr(timed, name) if timed else [] for name in TIMES}
    runs |= {f"batch{b}_decode_ms_per_step": timed.batch_decode_ms.get(b, []) if timed else [] for b in batches}
    for name, times in runs.items():
        values[f"{name}_median"] = statistics.median(times) if times else None
        values[f"{name}_p95"] = percentile_95(times) if times else None
    speed = speed_interval(baseline.latency, timed) if timed and baseline is not None and baseline.latency else None
    return values | _values(_SPEED, speed) | _values(_ROOFLINE, timed if timed and timed.floor else None)


def _to_markdown(rows: Sequence[Mapping[str, Value]]) -> str:
    """Only the columns in which some row has a value."""
    head = [name for name in (rows[0] if rows else {}) if any(row[name] is not None for row in rows)]
    cells = [["–" if row[name] is None else _cell(row[name]) for name in head] for row in rows]
    return markdown_table(head, cells, 0)


def _cell(value: Value) -> str:
    return " ".join(str(value).split())


def _to_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _to_json(rows: Sequence[Mapping[str, Value]]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False, allow_nan=False)


WRITERS: dict[str, Callable[[Sequence[Mapping[str, Value]]], str]] = {
    "markdown": _to_markdown,
    "csv": _to_csv,
    "json": _to_json,
}
