"""Reports as flat rows for other tools: one a recipe, with its circumstances, and units in the names of the columns.

Shares run from 0 to 1; a step of a batch is one token for each of its questions. ``to_fp16`` compares with the FP16
model on the same machine: differences with their 95 % interval, speed only where the two were timed in turns.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import MAIN_TASK, RowsOf, baseline_of, groups, paired
from vlmcomp.reporting.markdown import table
from vlmcomp.reporting.pareto import frontier
from vlmcomp.reporting.statistics import speed_interval
from vlmcomp.results.schema import PARTS, Latency, Report, p95

Value = str | int | float | bool | None
_Columns = Mapping[str, Callable[[Any], Value]]

_IDENTITY: _Columns = {
    "hardware": lambda r: r.hardware.slug,
    "hardware_name": lambda r: r.hardware.name,
    "hardware_cores": lambda r: r.hardware.cores,
    "hardware_memory_bytes": lambda r: r.hardware.memory_bytes,
    "recipe": lambda r: r.recipe,
    "model": lambda r: Recipe.parse(r.recipe).model,
    "technique": lambda r: Recipe.parse(r.recipe).technique,
    "precision": lambda r: Recipe.parse(r.recipe).precision,
    "image_tokens_removed_percent": lambda r: _removed(r, "vis"),
    "heads_removed_percent": lambda r: _removed(r, "heads"),
    "mlp_neurons_removed_percent": lambda r: _removed(r, "glu", "ffn"),
    "dtype_stored": lambda r: r.dtype_stored,
    "dtype_computed": lambda r: r.dtype_computed,
    "backend": lambda r: r.backend,
    "source": lambda r: r.source,
    "revision": lambda r: r.revision,
    "weights": lambda r: r.weights,
    "commit": lambda r: r.commit,
    "date": lambda r: r.date,
    **{
        f"{name}_version": lambda r, name=name: r.versions.get(name)
        for name in ("torch", "transformers", "bitsandbytes")
    },
    "build_seconds": lambda r: None if r.error else r.build_seconds,
}
_QUALITY: _Columns = {
    "version": lambda q: q.version,
    "samples": lambda q: q.samples,
    "seed": lambda q: q.seed,
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
_PAIRED: _Columns = {
    "exact_match_to_fp16_share": lambda p: p.difference.value,
    "exact_match_to_fp16_low_share": lambda p: p.difference.low,
    "exact_match_to_fp16_high_share": lambda p: p.difference.high,
    "same_answer_as_fp16_share": lambda p: p.same,
    "right_to_wrong_questions": lambda p: p.to_wrong,
    "wrong_to_right_questions": lambda p: p.to_right,
    "mcnemar_p": lambda p: p.p,
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
_FLOOR: _Columns = {
    "memory_bandwidth_bytes_per_s": lambda t: t.floor.bandwidth_bytes_s,
    "compute_flops_per_s": lambda t: t.floor.flops_s,
    "decode_floor_ms_per_token": lambda t: t.floor.decode_ms_per_token,
    "decode_floor_reached_share": lambda t: t.floor.decode_ms_per_token / t.decode_ms_per_token_median,
    "prefill_floor_ms": lambda t: t.floor.prefill_ms,
}
_SIZE: _Columns = {
    **{f"{part.replace(' ', '_')}_weight_bytes": lambda s, part=part: s.weight_bytes.get(part, 0) for part in PARTS},
    "weight_bytes": lambda s: s.total_bytes,
    "disk_bytes": lambda s: s.disk_bytes,
    "parameters": lambda s: sum(s.parameters.values()),
}
_MEMORY: _Columns = {
    "loaded_memory_bytes": lambda m: m.loaded_bytes,
    "building_peak_memory_bytes": lambda m: m.peak_build_bytes,
    "answering_peak_memory_bytes": lambda m: m.peak_answer_bytes,
    "memory_measure": lambda m: m.measure,
}


def flatten(reports: Sequence[Report], rows: RowsOf) -> list[dict[str, Value]]:
    """One row a report, failed ones included, all with the same columns; what was not measured is None.

    ``on_frontier``: no variant of the same model and machine dominates it in exact match, latency and weight bytes.
    """
    tasks = list(dict.fromkeys(task for report in reports for task in report.quality))
    batches = sorted({*_BATCHES, *(b for r in reports if r.latency for b in r.latency.batch_decode_ms)}, key=int)
    found: dict[tuple[str, str], dict[str, Value]] = {}
    for group in groups(reports, timing=False):
        best = {r.recipe for r in frontier(group, rows)}
        for report in group:
            whole = report.size and report.latency and MAIN_TASK in report.quality
            found.setdefault(  # one that failed stands in every group of its machine and model
                (report.hardware.slug, report.recipe),
                {
                    **_part(_IDENTITY, report),
                    **_scores(report, baseline_of(group), rows, tasks),
                    **_times(report.latency, baseline_of(group), batches),
                    **_part(_SIZE, report.size),
                    **_part(_MEMORY, report.memory),
                    "on_frontier": report.recipe in best if whole else None,
                    "error": report.error,
                },
            )
    return list(found.values())


def _part(columns: _Columns, of: Any, prefix: str = "") -> dict[str, Value]:
    return {prefix + name: None if of is None else value(of) for name, value in columns.items()}


def _removed(report: Report, *kinds: str) -> float | None:
    """What really went, in percent; nothing where the recipe has no such step, unknown where it failed before."""
    if not any(step.kind in kinds for step in Recipe.parse(report.recipe).steps):
        return 0.0
    return next((p.real_percent for p in report.pruned if p.step.startswith(kinds)), None)


def _scores(report: Report, dense: Report | None, rows: RowsOf, tasks: Sequence[str]) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for task in tasks:
        measured = report.quality.get(task)
        found = paired(rows, report, dense, task) if measured and dense and task in dense.quality else None
        made |= _part(_QUALITY, measured, f"{task}.") | _part(_PAIRED, found, f"{task}.")
    return made


def _times(timed: Latency | None, dense: Report | None, batches: Sequence[str]) -> dict[str, Value]:
    made = _part(_TIMING, timed)
    runs = {name: getattr(timed, name) if timed else [] for name in TIMES}
    runs |= {f"batch{b}_decode_ms_per_step": timed.batch_decode_ms.get(b, []) if timed else [] for b in batches}
    for name, values in runs.items():
        made[f"{name}_median"] = statistics.median(values) if values else None
        made[f"{name}_p95"] = p95(values) if values else None
    speed = speed_interval(dense.latency, timed) if timed and dense is not None and dense.latency else None
    return made | _part(_SPEED, speed) | _part(_FLOOR, timed if timed and timed.floor else None)


def _markdown(lines: Sequence[Mapping[str, Value]]) -> str:
    """Only the columns that say something of some row."""
    head = [name for name in (lines[0] if lines else {}) if any(line[name] is not None for line in lines)]
    cells = [["–" if line[name] is None else _cell(line[name]) for name in head] for line in lines]
    return table(head, cells, 0)


def _cell(value: Value) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _csv(lines: Sequence[Mapping[str, Value]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def _json(lines: Sequence[Mapping[str, Value]]) -> str:
    return json.dumps(list(lines), indent=2, ensure_ascii=False, allow_nan=False)


FORMATS: dict[str, Callable[[Sequence[Mapping[str, Value]]], str]] = {"markdown": _markdown, "csv": _csv, "json": _json}
