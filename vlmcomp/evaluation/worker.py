"""The fresh process in which a sweep measures one recipe: ``python -m vlmcomp.evaluation.worker JOB``."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import collect_provenance, delete_prediction_logs, merge_tasks, prediction_logs
from vlmcomp.evaluation.runner import benchmark
from vlmcomp.feedback import sigterm_as_interrupt
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.schema import Report

PROGRESS_PREFIX = "vlmcomp-progress "  # of the lines that the sweep shows
EXIT_CANNOT_WRITE = 74  # EX_IOERR of sysexits.h: the disk is full or read-only


def _main(job: dict[str, Any]) -> int:
    """Measure one recipe and save its report, whether it succeeds or fails. Returns the exit code."""
    config = BenchmarkConfig(**{**job["config"], "tasks": tuple(job["config"]["tasks"])})
    recipe = Recipe.parse(job["recipe"])
    root = Path(job["root"])
    try:
        result = benchmark(recipe, config, _print_progress, prediction_logs(recipe, config, root))
        report, predictions = merge_tasks(*result, root)
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM
    except Exception as error:
        if files.disk_error(error):  # no failure of the recipe
            return _report_write_error(error)
        traceback.print_exc()
        report = Report(**collect_provenance(recipe, config), error=_error_message(error))
        predictions = None
    try:
        delete_prediction_logs(store.save(report, predictions, root))
    except OSError as error:
        return _report_write_error(error)
    return 0


def _print_progress(text: str, fraction: float) -> None:
    try:
        print(f"{PROGRESS_PREFIX}{text} {100 * fraction:.0f} %", flush=True)
    except BrokenPipeError:  # the sweep was killed: a half-finished measurement must not be recorded as a failure
        os._exit(128 + signal.SIGPIPE)


def _error_message(error: Exception) -> str:
    """One line; the type only of errors that are not meant for people."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def _report_write_error(error: Exception) -> int:
    print(f"a file cannot be written: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_CANNOT_WRITE


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the sweep, which gets it too, sends SIGTERM
    with sigterm_as_interrupt():
        sys.exit(_main(json.loads(sys.argv[1])))
