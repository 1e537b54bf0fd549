"""What a benchmark measures about each recipe."""

from __future__ import annotations

from dataclasses import dataclass

from vlmcomp.data import task_registry
from vlmcomp.evaluation import latency, text_metrics

QUICK_SAMPLES = 200


@dataclass(frozen=True)
class Plan:
    """What is measured about each recipe. ``samples`` None: as many as is usual for each task.

    ``quick``: few samples, which never replace a report of more. ``random``: the architecture with random weights, of
    at most ``layers`` in decoder and towers, for latency, memory and size alone; then no task is asked.
    """

    tasks: tuple[str, ...] = tuple(task_registry.TASKS)
    samples: int | None = None
    seed: int = 0
    device: str | None = None
    source: str | None = None
    encoder: str = "auto"
    batch_size: int = 16
    max_new_tokens: int = 64
    new_tokens: int = latency.NEW_TOKENS
    warmup: int = latency.WARMUP_RUNS
    runs: int = latency.TIMED_RUNS
    quick: bool = False
    random: bool = False
    layers: int | None = None

    def check(self) -> None:
        """Raises ``ValueError`` for a task, sample count or encoder that does not exist."""
        if self.layers is not None and not self.random:
            raise ValueError("only random weights take a number of layers")
        found = [task_registry.find(name) for name in self.tasks]
        for task in found:
            task.count(self.samples)
        if len({task.name for task in found}) < len(found):
            raise ValueError("two tasks have the same name: rename a folder, or give each task once")
        if self.random and (self.tasks or self.source):
            raise ValueError("random weights answer no questions and come from nowhere: leave tasks and source out")
        if not self.tasks and not self.random:
            raise ValueError(f"a benchmark needs a task: choose from {', '.join(task_registry.TASKS)}")
        if self.encoder not in text_metrics.ENCODERS:
            raise ValueError(
                f"unknown BERTScore encoder '{self.encoder}': choose from {', '.join(text_metrics.ENCODERS)}"
            )
