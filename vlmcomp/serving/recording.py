"""Recording: the answers of a model to the app's examples, as ``serving.recorded`` stores them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace

from vlmcomp.compression.size import weight_bytes
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.results import provenance
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import recorded
from vlmcomp.serving.examples import get_examples

_TIMES = ("preprocess_ms", "ttft_ms", "total_ms")
_DEFAULT_ROUNDS = 5  # times are medians over this many answers


def record_answers(engine: Engine, rounds: int = _DEFAULT_ROUNDS) -> list[dict[str, object]]:
    """Answers of ``engine`` to its model's examples, as rows of the file; times are medians of ``rounds`` answers."""
    rows = []
    for example in get_examples(engine.vlm.spec.name):
        image = open_image(example.image)
        question = normalize_question(example.question)
        answers = [engine.generate(image, question) for _ in range(rounds + 1)][1:]  # the first warms up
        times = {name: round(statistics.median(getattr(a, name) for a in answers), 3) for name in _TIMES}
        facts = {
            "recipe": str(engine.vlm.recipe),
            "image": recorded.pixel_digest(image),
            "question": question,
            "date": provenance.utc_timestamp(),
        }
        size = sum(weight_bytes(engine.vlm.model).values())
        rows.append({**facts, "weight_bytes": size, "answer": asdict(replace(answers[-1], **times))})
    return rows
