"""The endpoints of the app's HTTP API and MCP server. Their docstrings are the documentation that callers see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from vlmcomp.app import handlers, recommend_tab
from vlmcomp.app import results as recorded
from vlmcomp.app.errors import user_errors
from vlmcomp.models import registry


def compare(image: str | None, question: str, recipes: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Ask several compressed variants of a vision-language model the same question about an image.

    Args:
        image: path of an uploaded image.
        question: the question, at most 500 characters.
        recipes: variants such as "llava-shapes/int8"; at most six.

    Returns:
        One record per variant: recipe, status ("done", "answering", or what it waits for), answer, why it ended
        ("stop", or "length" if the limit of tokens cut it), whether it agrees with FP16, times in milliseconds, what
        else the app did meanwhile, bytes of the weights, the device it ran on, or where and when it was recorded, and
        the error if it failed. What is not known, as after a failure, is null.
    """
    with user_errors():
        if not isinstance(recipes, list):
            raise ValueError('the variants must be a list, such as ["llava-shapes/fp16", "llava-shapes/int8"]')
        with closing(handlers.compare(image, question, recipes)) as comparisons:
            for comparison in comparisons:  # a caller who cancels or leaves ends it here
                yield [_record(card) for card in comparison.cards]


def _record(card: handlers.Card) -> dict[str, Any]:
    answer = card.answer
    return {
        "recipe": str(card.recipe),
        "status": "failed" if card.error else card.status,
        "answer": answer.text if answer else None,
        "finish_reason": answer.finish_reason or None if answer else None,
        "agrees_with_fp16": card.agrees,
        "ttft_ms": answer.ttft_ms if answer else None,
        "tokens_per_second": answer.tokens_per_second if answer else None,
        "total_ms": answer.total_ms if answer else None,
        "beside": answer.beside or None if answer else None,
        "weight_bytes": card.weight_bytes or None,
        "device": card.device or None,
        "recorded": card.recorded or None,
        "error": card.status if card.error else None,
    }


def recommend(
    model: str = registry.DEFAULT_MODEL,
    memory: str = recommend_tab.DEFAULT_MEMORY,
    loss_points: float = 1.0,
    goal: str = "memory",
    task: str | None = None,
) -> dict[str, Any]:
    """Choose the best compression recipe for a device from the measured results.

    Args:
        model: the model to compress, such as "llava-shapes".
        memory: the device's memory, such as "8GB" or "60MB".
        loss_points: largest acceptable loss of the task's score in percentage points, from 0 to 100.
        goal: "memory" for the smallest recipe that qualifies, "speed" for the fastest.
        task: the task of the loss, such as "vqav2"; null for the one that most of the model's results share.

    Returns:
        The recipe (null if none qualifies), the reason, the cost in quality, the command that builds it, Python code
        that loads it, the source of the numbers, and whether they were measured or only estimated from the
        architecture.
    """
    with user_errors():
        found = recommend_tab.advise(model, memory, loss_points, goal, task)
    return {
        "recipe": str(found.best.recipe) if found.best else None,
        "why": found.reason,
        "cost": found.cost,
        "command": found.command,
        "python": found.python,
        "basis": found.basis,
        "measured": found.measured,
    }


def results(hardware: str | None = None, model: str | None = None, task: str | None = None) -> list[dict[str, Any]]:
    """List the recorded results: quality, latency and weight bytes of every measured recipe.

    Args:
        hardware: only results of this machine, such as "cpu-amd-epyc-2c"; null for all.
        model: only results of this model, such as "llava-shapes"; null for all.
        task: the task of the scores, such as "vqav2"; null for the one that most of each model's results share.

    Returns:
        One record per recipe and machine. Scores are fractions from 0 to 1; names of times and sizes end in their
        unit.
    """
    with user_errors():
        return recorded.to_records(hardware, model, task)
