"""What the verbs' options have in common."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from vlmcomp.results import store

Run = Callable[[argparse.Namespace], int | None]  # returns the exit status; None is 0

RECIPE = "MODEL/STEPS+PRECISION, for example llava-shapes/heads25+glu30+int4"


class Subcommands:
    """The subcommands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(required=True, metavar="VERB")

    def add(self, name: str, run: Run, text: str, *examples: str) -> argparse.ArgumentParser:
        """A verb; ``examples`` are what may follow its name."""
        shown = "\n".join(["examples:", *(f"  vlmcomp {name} {e}".rstrip() for e in examples)])
        kind = argparse.RawDescriptionHelpFormatter
        sub = self._subparsers.add_parser(name, help=text, description=text, epilog=shown, formatter_class=kind)
        sub.set_defaults(run=run)
        return sub


def add_device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", type=_device, help="cpu, cuda or cuda:N; default: a GPU if there is one")


def add_weights_options(sub: argparse.ArgumentParser) -> None:
    """Where a recipe is built, and of which weights."""
    add_device(sub)
    sub.add_argument("--source", help="folder or Hub id of the dense weights, instead of the model's own")


def add_results_folder(sub: Any, name: str = "--root") -> None:
    sub.add_argument(name, default=str(store.PRECOMPUTED), help="folder of the reports")


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: use cpu, cuda or cuda:N")
    return text


def stderr_progress() -> Callable[[str, float], None]:
    """Progress as one line a stage, so that stdout holds the result alone and an error stands on its own line."""
    told: set[str] = set()

    def say(text: str, share: float) -> None:
        if share < 1 and text not in told:
            told.add(text)
            print(f"{text} ...", file=sys.stderr, flush=True)

    return say
