"""A task's questions through a built model: its answers, and what they are worth."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmcomp.data.answer_matching import exact_match, vqa_accuracy
from vlmcomp.data.tasks import Sample, Task, commonest
from vlmcomp.evaluation.text_metrics import ENCODER_TITLES, ROUGE_STEMMED, text_scores
from vlmcomp.feedback import Progress
from vlmcomp.results.journal import Journal
from vlmcomp.results.schema import Quality, Report
from vlmcomp.results.store import Rows

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine


def measure(
    engine: Engine,
    task: Task,
    count: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    encoder: str = "auto",
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> tuple[Quality, Rows]:
    """Ask ``count`` samples (None: as many as is usual for the task) and score the answers.

    What ``journal`` holds is not asked again.

    Returns:
        The scores, and one row a sample in the task's order: id, type, question, reference, answer.
    """
    samples = task.samples(task.count(count), seed, engine.vlm.spec.one_word)
    told = (lambda share: progress(task.name, share)) if progress else (lambda share: None)
    rows = answer(engine, samples, batch_size, max_new_tokens, told, journal)
    return score(task, rows, seed, encoder), rows


def answer(
    engine: Engine,
    samples: Sequence[Sample],
    batch_size: int,
    max_new_tokens: int,
    progress: Callable[[float], None] = lambda share: None,
    journal: Journal | None = None,
) -> Rows:
    """The model's greedy answers as rows, in the order of ``samples``; images live for one batch only."""
    rows: Rows = [row for batch in journal.batches for row in batch] if journal else []
    for start in range(len(rows), len(samples), batch_size):
        batch = samples[start : start + batch_size]
        texts = engine.generate_batch([s.image for s in batch], [s.question for s in batch], max_new_tokens)
        for s, text in zip(batch, texts, strict=True):
            row = {"id": s.id, "type": s.type, "question": s.question, "reference": s.reference, "answer": text}
            rows.append(row | ({"references": list(s.references)} if s.references else {}))
        if journal:
            journal.add(rows[start:])
        progress(len(rows) / len(samples))
    return rows


def score(task: Task, rows: Rows, seed: int, encoder: str = "auto") -> Quality:
    """The scores of recorded answers: no model is needed, so they can be computed anew from the rows."""
    return Quality(task.name, task.version, task.sha256, seed=seed, **_scores(rows, encoder))


def _scores(rows: Rows, encoder: str) -> dict[str, Any]:
    """All of a ``Quality`` that follows from the answers."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        hits[row["type"]].append(exact_match(row["answer"], row["reference"]))
    kinds = sorted(hits)
    baseline = commonest(rows)
    soft = [vqa_accuracy(row["answer"], row["references"]) for row in rows if "references" in row]
    text = text_scores([r["answer"] for r in rows], [r["reference"] for r in rows], encoder)
    return dict(
        samples=len(rows),
        exact_match=sum(map(sum, hits.values())) / len(rows),
        exact_match_by_type={kind: statistics.fmean(hits[kind]) for kind in kinds},
        commonest_answer_by_type={kind: baseline[kind] for kind in kinds},
        samples_by_type={kind: len(hits[kind]) for kind in kinds},
        composite=text.composite,
        meteor=text.meteor,
        rouge1=text.rouge1,
        bertscore_f1=text.bertscore_f1,
        bertscore_encoder=text.bertscore_encoder,
        meteor_data=text.meteor_data,
        answer_words=statistics.fmean(len(r["answer"].split()) for r in rows),
        rouge1_stemmed=ROUGE_STEMMED,
        vqa_accuracy=statistics.fmean(soft) if len(soft) == len(rows) else None,
    )


def rescore(report: Report, rows: Mapping[str, Rows], encoder: str | None = None) -> Report:
    """``report`` with every score of its tasks computed anew from the recorded answers; nothing else changes.

    BERTScore is computed with the encoder that it was measured with, unless another is named.

    Raises:
        ValueError: answers are not recorded for a task.
    """
    if missing := [name for name in report.quality if not rows.get(name)]:
        raise ValueError(f"{report.recipe} has no recorded answers for {', '.join(missing)}: measure it again")
    found = {}
    for name, old in report.quality.items():
        used = next((e for e, title in ENCODER_TITLES.items() if old.bertscore_encoder.startswith(title)), "auto")
        facts = {name: getattr(old, name) for name in ("task", "version", "task_sha256", "seed")}
        found[name] = Quality(**facts, **_scores(rows[name], encoder or used))
    return replace(report, quality=found)
