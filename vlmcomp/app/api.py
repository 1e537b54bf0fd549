"""What programs may call: named endpoints with types; their docstrings are what callers and agents read."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from vlmcomp.app import handlers, recommend_tab
from vlmcomp.app import results as recorded
from vlmcomp.app.errors import user_errors
from vlmcomp.models import registry


def compare(image: str | None, question: str, recipes: list[str]) -> list[dict[str, Any]]:
    """Ask one question about an image of several compressed variants of a vision-language model.

    Args:
        image: path of an uploaded image.
        question: the question, at most 500 characters.
        recipes: variants such as "llava-shapes/int8"; at most six.

    Returns:
        One record a variant: recipe, answer, agrees with FP16, times in milliseconds, weight bytes, the device it
        ran on or where and when it was recorded, error.
    """
    with user_errors():
        if not isinstance(recipes, list):
            raise ValueError('the variants must be a list, such as ["llava-shapes/fp16", "llava-shapes/int8"]')
        with closing(handlers.compare(image, question, recipes)) as news:
            *_, last = news
    return [_record(card) for card in last.cards]


def _record(card: handlers.Card) -> dict[str, Any]:
    answer = card.answer
    return {
        "recipe": str(card.recipe),
        "answer": answer.text if answer else None,
        "agrees_with_fp16": card.agrees,
        "ttft_ms": answer.ttft_ms if answer else None,
        "tokens_per_second": answer.tokens_per_second if answer else None,
        "total_ms": answer.total_ms if answer else None,
        "weight_bytes": card.weight_bytes,
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
        loss_points: percentage points of exact match that may be lost, from 0 to 100.
        goal: "memory" for the fewest bytes, "speed" for the fastest decoding.
        task: the task of the loss, such as "vqav2"; null for the one that most of the model's results share.

    Returns:
        The recipe (null where nothing will do), why, what it costs, the command that builds it, the lines of Python
        that load it, what the numbers are based on, and whether they were measured or are arithmetic alone.
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
        hardware: only this machine's, such as "cpu-amd-epyc-2c"; null for all.
        model: only this model's, such as "llava-shapes"; null for all.
        task: the task of the scores, such as "vqav2"; null for the one that most of each model's results share.

    Returns:
        One record a recipe and machine; shares run from 0 to 1, units are in the names.
    """
    with user_errors():
        return recorded.to_records(hardware, model, task)
