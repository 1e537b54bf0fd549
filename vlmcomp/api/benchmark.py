"""Measuring a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmcomp import files, hardware
from vlmcomp.api.argument_types import check_count, check_paths, check_progress, check_tasks, check_texts
from vlmcomp.api.arguments import parse_recipe
from vlmcomp.api.results import BenchmarkResult
from vlmcomp.data import task_registry
from vlmcomp.evaluation import required_packages, runner
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.feedback import ShownProgress, refuse_empty, shown_progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import store


def benchmark(
    recipe: str | Recipe,
    *,
    tasks: Sequence[str] = task_registry.DEFAULT_TASKS,
    num_samples: int | None = None,
    seed: int = 0,
    bad_rows: str = "error",
    device: str | None = None,
    source: str | None = None,
    prompt_template: str | None = None,
    calibration_data: str | Path | None = None,
    answers: str = "given",
    results_dir: str | Path | None = None,
    progress: ShownProgress = "terminal",
) -> BenchmarkResult:
    """Compress a recipe and measure its quality, latency, memory and size.

    Runs in this process. ``vlmcomp bench`` measures each recipe in a fresh process instead, resumes where it stopped,
    and times recipes in turns: prefer it for numbers to publish.

    Args:
        recipe: such as ``"llava-shapes/int8"``.
        tasks: names of tasks (``vlmcomp bench --help`` lists them), or folders with a ``task.jsonl``.
        num_samples: questions of each task. Default: the number that each task defines.
        seed: selects the questions if there are more than ``num_samples``.
        bad_rows: what to do with rows of your own tasks and calibration data that cannot be used: ``"error"``, or
            ``"skip"``, which counts them in the report. All are checked before the model is built.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Default: a GPU if there is one.
        source: folder or Hub id of the original weights, if they are not those of the model's authors.
        prompt_template: prompt that these weights were trained with, if it is not that of the model's authors.
        calibration_data: sources to prune and round by, as for ``compress``.
        answers: of the calibration data, as for ``compress``.
        results_dir: folder to write the report and the predictions to. Default: nothing is written.
        progress: called with a text and the fraction done, from 0 to 1; None shows nothing. Default: a bar on stderr
            with the time left, if that is a terminal.

    Returns:
        The report and the predictions.

    Raises:
        ValueError: an unknown model or task, or anything that ``compress`` refuses.
        OSError: ``results_dir`` cannot be written; nothing is measured then.

    Example:
        >>> import vlmcomp
        >>> result = vlmcomp.benchmark("llava-shapes/int8", tasks=["shapes-vqa"], num_samples=4, device="cpu")
        >>> result.report.quality["shapes-vqa"].samples
        4
    """
    refuse_empty(device=device, source=source, prompt_template=prompt_template, results_dir=results_dir)
    refuse_empty(calibration_data=calibration_data)
    parsed = parse_recipe(recipe)
    check_progress(progress)
    check_paths(source=source, results_dir=results_dir, calibration_data=calibration_data)
    check_texts(prompt_template=prompt_template)
    check_count("seed", seed)
    if num_samples is not None:
        check_count("num_samples", num_samples, 1)
    config = BenchmarkConfig(
        check_tasks(tasks),
        num_samples,
        seed=seed,
        device=None if device is None else hardware.usable_device(device),
        source=source,
        prompt_template=prompt_template,
        bad_rows=bad_rows,
        calibration_data=None if calibration_data is None else str(calibration_data),
        answers=answers,
    )
    _validate(parsed, config)
    if results_dir is not None:
        files.check_writable(Path(results_dir))
    with shown_progress(progress) as show:
        report, predictions = runner.benchmark(parsed, config, show)
    if results_dir is not None:
        store.save(report, predictions, Path(results_dir))
    return BenchmarkResult(report, predictions)


def _validate(recipe: Recipe, config: BenchmarkConfig) -> None:
    registry.with_prompt_template(registry.validate_recipe(recipe), config.prompt_template)
    config.validate()
    required_packages.require_for_tasks(config.tasks, config.encoder, "vlmcomp.benchmark")
