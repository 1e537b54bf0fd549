"""Reports made up for tests of what reads and draws them; nothing here was measured."""

from __future__ import annotations

from typing import Any

from vlmcomp.results.schema import Hardware, Latency, Memory, PruningResult, Quality, Report, Size

NUM_QUESTIONS = 100
HARDWARE = Hardware("cpu-test-2c", "cpu", "Test CPU", 2, 8_000_000_000)


def quality(task: str = "shapes-vqa", exact: float = 0.75, **changes: Any) -> Quality:
    facts: dict[str, Any] = {
        "task": task,
        "version": "1",
        "task_sha256": "ab" * 32,
        "samples": 4,
        "seed": 0,
        "exact_match": exact,
        "exact_match_by_type": {"color": 1.0, "count": 0.5},
        "commonest_answer_by_type": {"color": 0.5, "count": 0.25},
        "samples_by_type": {"color": 2, "count": 2},
        "composite": 0.6,
        "meteor": 0.4,
        "rouge1": 0.7,
        "bertscore_f1": 0.7123456789,
        "bertscore_encoder": "encoder A",
        "meteor_data": "data A",
        "answer_words": 1.5,
    }
    return Quality(**(facts | changes))


def report(recipe: str = "llava-shapes/fp16", exact: float = 0.75, ms: float = 4.0, **changes: Any) -> Report:
    """A whole report; ``changes`` replace its fields."""
    facts: dict[str, Any] = {
        "recipe": recipe,
        "hardware": HARDWARE,
        "date": "2026-11-24T10:00:00+00:00",
        "commit": "c0ffee",
        "versions": {"python": "3.11.7"},
        "source": "models/llava-shapes",
        "revision": "sha256:0123",
        "weights": "trained here",
        "seeds": {"samples": 0, "latency": 0},
        "pruned": [PruningResult("glu30", 30, 30.0, 448, 640, "MLP neurons a layer", "a score", "8 samples")],
        "size": Size({"decoder MLP": 3_000_000, "lm_head": 1_000_000}, {"decoder MLP": 1_500_000}, 4_100_000),
        "memory": Memory(1, 2, 3, "rss"),
        "latency": Latency(32, 80, 2, 2, [10.0, 11.0, 12.0], [ms, ms, ms + 1], [100.0, 101.0, 1 / 3]),
        "quality": {"shapes-vqa": quality(exact=exact), "easy-vqa": quality("easy-vqa", exact)},
    }
    return Report(**(facts | changes))


def failed(recipe: str, reason: str = "it broke") -> Report:
    return report(recipe, size=None, memory=None, latency=None, quality={}, error=reason)


def scored(recipe: str, ms: float = 4.0, megabytes: int = 4, **correct: int) -> Report:
    """A report with ``correct`` of ``NUM_QUESTIONS`` answers right by task, ``vqav2=90``; see ``scored_rows``."""
    by_task = {task.replace("_", "-"): count for task, count in correct.items()}
    times = [ms * (1 + 0.001 * i) for i in range(10)]
    return report(
        recipe,
        quality={task: quality(task, n / NUM_QUESTIONS, samples=NUM_QUESTIONS) for task, n in by_task.items()},
        latency=Latency(32, 80, 2, 2, [10.0] * 10, times, [100.0] * 10, session="one"),
        size=Size({"decoder MLP": megabytes * 10**6}, {"decoder MLP": 1}, 1),
    )


def scored_rows(found: Report) -> dict[str, list[dict[str, Any]]]:
    """The rows of a report made by ``scored``: the first answers are the right ones."""
    by_task = {}
    for task, scores in found.quality.items():
        correct = round(scores.exact_match * NUM_QUESTIONS)
        by_task |= rows(*["red"] * correct, *["blue"] * (NUM_QUESTIONS - correct), task=task)
    return by_task


def rows(*answers: str, task: str = "shapes-vqa") -> dict[str, list[dict[str, Any]]]:
    """Rows of ``task``, one an answer."""
    made = [
        {"id": str(i), "type": "color", "question": "?", "reference": "red", "answer": a} for i, a in enumerate(answers)
    ]
    return {task: made}
