"""The fresh process in which a sweep measures one recipe: ``python -m vlmcomp.evaluation.worker ORDER``."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from vlmcomp.evaluation.config import Plan
from vlmcomp.evaluation.provenance import circumstances, journals, with_other_tasks
from vlmcomp.evaluation.runner import measure
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.schema import Report

MARK = "vlmcomp-progress "  # starts the child's lines that are meant for the parent


CANNOT_WRITE = 74  # EX_IOERR of sysexits.h: the child's disk is full or not to be written


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def _main(order: dict[str, Any]) -> int:
    """The fresh process: measure one recipe and save its report, whether it succeeds or fails."""
    plan = Plan(**{**order["plan"], "tasks": tuple(order["plan"]["tasks"])})
    recipe, root = Recipe.parse(order["recipe"]), Path(order["root"])

    def tell(text: str, share: float) -> None:
        try:
            print(f"{MARK}{text} {100 * share:.0f} %", flush=True)
        except BrokenPipeError:  # the sweep was killed: what is half measured must not be recorded as a failure
            os._exit(128 + signal.SIGPIPE)

    try:
        report, rows = with_other_tasks(*measure(recipe, plan, tell, journals(recipe, plan, root)), root)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in _FULL):  # nothing that the recipe has failed at
            return _cannot_write(error)
        traceback.print_exc()
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        report, rows = Report(**circumstances(recipe, plan), error=kind + " ".join(str(error).split())), None
    try:
        store.save(report, rows, root)
    except OSError as error:
        return _cannot_write(error)
    return 0


def _cannot_write(error: Exception) -> int:
    print(f"a file cannot be written: {' '.join(str(error).split())}", file=sys.stderr)
    return CANNOT_WRITE


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
