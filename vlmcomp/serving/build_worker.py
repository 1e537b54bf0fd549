"""The process in which the app builds one variant: ``python -m vlmcomp.serving.build_worker JOB``.

The job is JSON: the recipe, the device, and the caches (folder and limit of each), of which the first that can stores
it. Progress goes to stdout, a JSON object a line; the last one may hold an error. The process ends with the one that
started it, whose pipe to stdin then closes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmcomp.feedback import Progress, error_summary, is_out_of_memory, sigterm_as_interrupt
from vlmcomp.recipe import Recipe
from vlmcomp.serving.variant_cache import VariantCache

NICENESS = 10  # a tenth of a busy core: at 19 a build would not get on while others ask
SECONDS_TO_CLEAN_UP = 5.0
NOT_STORED = "it cannot be stored: make room on the disk, or let VLMCOMP_CACHE name a folder on another one"


def main(job: dict[str, Any]) -> int:
    """Builds and stores a variant. Returns the exit code."""
    report = _reporter()
    try:
        with sigterm_as_interrupt():
            threading.Thread(target=_end_with_parent, daemon=True).start()
            return _build(job, lambda text, fraction: report(stage=text, fraction=fraction))
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM
    except Exception as error:
        if not isinstance(error, ValueError | OSError):
            sys.excepthook(type(error), error, error.__traceback__)  # for the owner of the app
        report(error="memory ran out" if is_out_of_memory(error) else error_summary(error))
        return 1


def _build(job: dict[str, Any], progress: Progress) -> int:
    from vlmcomp.serving import variants  # imports torch: the process can be told to end before

    recipe = Recipe.parse(job["recipe"])
    caches = [VariantCache(Path(root), limit) for root, limit in job["caches"]]
    key = variants.cache_key(recipe, job["device"])
    variants.build(caches, key, job["device"], progress)
    if not any(cache.has(key) for cache in caches):
        raise OSError(NOT_STORED)
    return 0


def _reporter() -> Callable[..., None]:
    """Writes its arguments to stdout as an object; whatever else is printed goes to stderr."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(**message: Any) -> None:
        print(json.dumps(message), file=lines, flush=True)

    return report


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # sys.stdin's own lock would fail the end of the interpreter
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_CLEAN_UP)
    if os.name == "posix":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    # A group of its own, so that it can be ended with its children. A session of its own would make its low priority
    # count against itself alone, where the kernel groups processes by session (autogroup).
    if os.name == "posix":
        os.setpgid(0, 0)
        os.nice(NICENESS)
    sys.exit(main(json.loads(sys.argv[1])))
