"""Answers of a built model to a task, and their scores."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmcomp.data.answer_matching import choose_metric, score_answer
from vlmcomp.data.tasks import Sample, Task, majority_baseline
from vlmcomp.evaluation.text_metrics import ENCODER_DESCRIPTIONS, ROUGE_STEMMED, text_scores
from vlmcomp.feedback import Progress
from vlmcomp.results.journal import PredictionLog
from vlmcomp.results.schema import EXACT_MATCH, VQA_ACCURACY, Quality, Report
from vlmcomp.results.store import Predictions

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine


def measure(
    engine: Engine,
    task: Task,
    num_samples: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    encoder: str = "auto",
    progress: Progress | None = None,
    prediction_log: PredictionLog | None = None,
) -> tuple[Quality, Predictions]:
    """Answer samples of ``task`` and score the answers.

    Args:
        engine: what answers.
        task: where the samples come from.
        num_samples: None for the task's default.
        seed: selects the samples.
        batch_size: questions answered at once.
        max_new_tokens: tokens of an answer, at most.
        encoder: the BERTScore encoder, one of ``text_metrics.ENCODERS``.
        progress: called with the fraction done.
        prediction_log: answers of an interrupted run, which are reused, and where new ones are stored.

    Returns:
        The scores, and one row a sample in the task's order: id, type, question, reference, answer.
    """
    samples = task.sample(task.num_samples(num_samples), seed, engine.vlm.spec.short_answer_prompt)
    report_fraction = (lambda fraction: progress(task.name, fraction)) if progress else (lambda fraction: None)
    rows = predict(engine, samples, batch_size, max_new_tokens, report_fraction, prediction_log)
    return score(task, rows, seed, encoder), rows


def predict(
    engine: Engine,
    samples: Sequence[Sample],
    batch_size: int,
    max_new_tokens: int,
    progress: Callable[[float], None] = lambda fraction: None,
    prediction_log: PredictionLog | None = None,
) -> Predictions:
    """Greedy answers as rows, in the order of ``samples``; images are in memory for one batch only.

    Args:
        engine: what answers.
        samples: the questions.
        batch_size: questions answered at once.
        max_new_tokens: tokens of an answer, at most.
        progress: called with the fraction done.
        prediction_log: the answers of the first samples, which are reused; new ones are appended.
    """
    rows: Predictions = [row for batch in prediction_log.batches for row in batch] if prediction_log else []
    for start in range(len(rows), len(samples), batch_size):
        batch = samples[start : start + batch_size]
        texts = engine.generate_batch([s.image for s in batch], [s.question for s in batch], max_new_tokens)
        for s, text in zip(batch, texts, strict=True):
            row = {"id": s.id, "type": s.type, "question": s.question, "reference": s.reference, "answer": text}
            rows.append(row | ({"references": list(s.references)} if s.references else {}))
        if prediction_log:
            prediction_log.append(rows[start:])
        progress(len(rows) / len(samples))
    return rows


def score(task: Task, rows: Predictions, seed: int, encoder: str = "auto") -> Quality:
    """Scores of the answers in ``rows``, computed without a model."""
    facts = {"seed": seed, "skipped_rows": len(task.skipped)}
    return Quality(task.name, task.version, task.sha256, **facts, **_scores(rows, encoder))


def _scores(rows: Predictions, encoder: str) -> dict[str, Any]:
    """The fields of a ``Quality`` that follow from the answers."""
    exact, exact_by_type = _mean_scores(rows, EXACT_MATCH)
    text = text_scores([r["answer"] for r in rows], [r["reference"] for r in rows], encoder)
    counts = Counter(row["type"] for row in rows)
    return dict(
        samples=len(rows),
        exact_match=exact,
        exact_match_by_type=exact_by_type,
        commonest_answer_by_type=majority_baseline(rows),
        samples_by_type={t: counts[t] for t in exact_by_type},
        composite=text.composite,
        meteor=text.meteor,
        rouge1=text.rouge1,
        bertscore_f1=text.bertscore_f1,
        bertscore_encoder=text.bertscore_encoder,
        meteor_data=text.meteor_data,
        answer_words=statistics.fmean(len(r["answer"].split()) for r in rows),
        rouge1_stemmed=ROUGE_STEMMED,
        **_vqa_scores(rows),
    )


def _mean_scores(rows: Predictions, metric: str) -> tuple[float, dict[str, float]]:
    """The mean score, and that of each question type in alphabetical order."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_type[row["type"]].append(score_answer(row, metric))
    return sum(map(sum, by_type.values())) / len(rows), {t: statistics.fmean(by_type[t]) for t in sorted(by_type)}


def _vqa_scores(rows: Predictions) -> dict[str, Any]:
    if choose_metric(rows) != VQA_ACCURACY:
        return {}
    mean, by_type = _mean_scores(rows, VQA_ACCURACY)
    commonest = majority_baseline(rows, VQA_ACCURACY)
    return dict(vqa_accuracy=mean, vqa_accuracy_by_type=by_type, commonest_answer_vqa_by_type=commonest)


def rescore(report: Report, rows: Mapping[str, Predictions], encoder: str | None = None) -> Report:
    """``report`` with every score of its tasks recomputed from the recorded answers; nothing else changes.

    Args:
        report: with scores of tasks.
        rows: the recorded answers by task.
        encoder: the BERTScore encoder; by default the one that each task was measured with.

    Raises:
        ValueError: answers are not recorded for a task.
    """
    if missing := [name for name in report.quality if not rows.get(name)]:
        raise ValueError(f"{report.recipe} has no recorded answers for {', '.join(missing)}: measure it again")
    rescored = {}
    for name, old in report.quality.items():
        used = next(
            (e for e, description in ENCODER_DESCRIPTIONS.items() if old.bertscore_encoder.startswith(description)),
            "auto",
        )
        facts = {name: getattr(old, name) for name in ("task", "version", "task_sha256", "seed", "skipped_rows")}
        rescored[name] = Quality(**facts, **_scores(rows[name], encoder or used))
    return replace(report, quality=rescored)
