"""What a benchmark measures about each recipe."""

from __future__ import annotations

from dataclasses import dataclass

from vlmcomp.data import task_registry
from vlmcomp.data.calibration_set import check_answers
from vlmcomp.data.calibration_source import GIVEN, parse_sources
from vlmcomp.data.tasks import Task
from vlmcomp.evaluation import text_metrics
from vlmcomp.feedback import refuse_empty

QUICK_SAMPLES = 200
NEW_TOKENS = 32  # of a timed answer
WARMUP_RUNS = 2
TIMED_RUNS = 10


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured about each recipe.

    Attributes:
        tasks: names or folders of the tasks.
        num_samples: samples of each task; None for the task's default.
        seed: selects the samples of tasks and of latency.
        device: for example "cuda:0"; None for the default device.
        source: folder or Hub repository of the dense weights, instead of the registry's.
        prompt_template: prompt that the dense weights were trained with, instead of the registry's.
        encoder: the BERTScore encoder, one of ``text_metrics.ENCODERS``.
        batch_size: questions answered at once by tasks.
        max_new_tokens: tokens of an answer to a task, at most.
        new_tokens: tokens of every timed answer, exactly.
        warmup: untimed answers before the timed ones.
        runs: timed answers.
        quick: few samples; a report of more samples is accepted instead and never replaced.
        random_weights: the architecture with random weights, for latency, memory and size alone; requires no tasks.
        num_layers: layers of decoder and towers, at most; for random weights only.
        bad_rows: what to do with rows of the user's files that cannot be used, one of ``bad_rows.BAD_ROWS``.
        calibration_data: sources of the recipes that need any, as ``parse_sources`` reads them; None for the default.
        answers: of the calibration data: ``given``, or ``self`` for those of the original model.
    """

    tasks: tuple[str, ...] = task_registry.DEFAULT_TASKS
    num_samples: int | None = None
    seed: int = 0
    device: str | None = None
    source: str | None = None
    prompt_template: str | None = None
    encoder: str = "auto"
    batch_size: int = 16
    max_new_tokens: int = 64
    new_tokens: int = NEW_TOKENS
    warmup: int = WARMUP_RUNS
    runs: int = TIMED_RUNS
    quick: bool = False
    random_weights: bool = False
    num_layers: int | None = None
    bad_rows: str = "error"
    calibration_data: str | None = None
    answers: str = GIVEN

    def load_tasks(self) -> list[Task]:
        """The tasks, checked as far as they will be asked; files that have not changed are read once a process.

        Raises:
            ValueError: as ``get_checked_task``.
        """
        return [task_registry.get_checked_task(name, self.num_samples, self.seed, self.bad_rows) for name in self.tasks]

    def validate(self) -> None:
        """Raises ``ValueError`` for unknown, empty or contradictory settings."""
        refuse_empty(source=self.source, prompt_template=self.prompt_template, device=self.device)
        if self.num_layers is not None and not self.random_weights:
            raise ValueError("a number of layers requires random weights")
        if self.random_weights and (self.tasks or self.source):
            raise ValueError("random weights answer no questions and have no source: omit tasks and source")
        if not self.tasks and not self.random_weights:
            raise ValueError(f"a benchmark needs a task: choose from {', '.join(task_registry.TASKS)}")
        if self.encoder not in text_metrics.ENCODERS:
            raise ValueError(
                f"unknown BERTScore encoder '{self.encoder}': choose from {', '.join(text_metrics.ENCODERS)}"
            )
        check_answers(self.answers)
        if self.calibration_data is not None:
            parse_sources(self.calibration_data)
        names = [task.name for task in self.load_tasks()]  # last: it may read and decode many files
        if len(set(names)) < len(names):
            raise ValueError("two tasks have the same name: rename a folder, or give each task once")
