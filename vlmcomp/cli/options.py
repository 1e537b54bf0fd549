"""Subcommands and the options that several of them share."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vlmcomp.data.bad_rows import BAD_ROWS, BadRow
from vlmcomp.data.calibration_source import ANSWERS, GIVEN
from vlmcomp.hardware import check_device_name
from vlmcomp.models import registry
from vlmcomp.results import store

Run = Callable[[argparse.Namespace], int | None]  # returns the exit status; None is 0

ENV_MODEL = "VLMCOMP_MODEL"  # the model that the app shows first
RECIPE = "MODEL/STEPS+PRECISION, such as llava-shapes/heads25+glu30+int4"


@dataclass(frozen=True)
class LazyFunction:
    """The function ``module:function``, whose module is imported when it is called: parsing needs neither torch nor
    images."""

    name: str

    def __call__(self, args: argparse.Namespace) -> int | None:
        module, _, function = self.name.partition(":")
        return getattr(importlib.import_module(module), function)(args)


class Subcommands:
    """The subcommands of a parser; ``parsers`` holds each by its name."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._action = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
        self.parsers: dict[str, argparse.ArgumentParser] = {}

    def add(self, name: str, run: str, description: str, example: str, *checks: Run) -> argparse.ArgumentParser:
        """Adds a subcommand.

        Args:
            name: the word that follows ``vlmcomp``.
            run: ``module:function``, called with the parsed arguments.
            description: one line for the list of subcommands and for the subcommand's own help.
            example: arguments of an example call, shown below the subcommand's help.
            checks: called with the parsed arguments before the module of ``run`` is imported; they raise
                ``ValueError`` for what needs no torch to be refused.
        """
        sub = self._action.add_parser(
            name,
            help=description,
            description=description,
            epilog=f"example:\n  vlmcomp {name} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.register("type", None, not_empty)  # the type of options and arguments that name none
        sub.set_defaults(run=LazyFunction(run), checks=checks, command=name)
        self.parsers[name] = sub
        return sub


def add_renamed(sub: Any, name: str, old: str, **settings: Any) -> None:
    """Adds the option ``name`` to a parser or group, and its earlier spelling ``old``, which the help does not show."""
    option = sub.add_argument(name, **settings)
    hidden = settings | {"dest": option.dest, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    sub.add_argument(old, **hidden)


def add_device(sub: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    sub.add_argument("--device", type=_device, help="cpu, cuda or cuda:N (default: a GPU if there is one)")


def add_weights_options(sub: argparse.ArgumentParser) -> None:
    """Adds ``--device``, ``--source`` and ``--prompt-template``: where a recipe is built, and from which weights."""
    add_device(sub)
    text = "folder or Hub id of the unpruned FP16 weights (default: the model's own)"
    sub.add_argument("--source", help=text)
    text = r"prompt of these weights, such as 'USER: <image>\n{question} ASSISTANT:' (default: the model's own)"
    sub.add_argument("--prompt-template", metavar="TEXT", type=_unescape_newlines, help=text)


class _JoinSources(argparse.Action):
    """A repeated option is the same as its values with commas between them."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        earlier = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, f"{earlier},{values}" if earlier else values)


def add_calibration_options(sub: argparse.ArgumentParser) -> None:
    """Adds ``--calibration-data``, ``--answers`` and ``--bad-rows``: what recipes that prune or round are built by."""
    text = (
        "what to prune and round by: mixture (real images, downloaded once), shapes (drawn scenes), a JSON Lines file "
        "with image (a path), question and answer, a folder, or hub:OWNER/NAME@REVISION?config=C&split=S&image=I&"
        "question=Q&answer=A; several by commas or by repeating, each with *WEIGHT (default: mixture, and shapes for "
        "a bundled model)"
    )
    add_renamed(sub, "--calibration-data", "--calibration", metavar="SOURCE", action=_JoinSources, help=text)
    text = "self: the original model answers the calibration questions, or describes images without one"
    sub.add_argument("--answers", choices=ANSWERS, default=GIVEN, help=f"{text} (default: {GIVEN})")
    add_bad_rows(sub)


def add_bad_rows(sub: argparse.ArgumentParser) -> None:
    """Adds ``--bad-rows``."""
    text = "rows of your own files that cannot be used: error stops at once, skip leaves them out and counts them"
    sub.add_argument("--bad-rows", choices=BAD_ROWS, default=BAD_ROWS[0], help=f"{text} (default: {BAD_ROWS[0]})")


def add_results_folder(sub: argparse.ArgumentParser, old: str = "--root") -> None:
    """Adds ``--results``, the folder of the reports, and its earlier spelling ``old``."""
    text = "folder of the reports (default: %(default)s)"
    add_renamed(sub, "--results", old, metavar="DIR", default=str(store.PRECOMPUTED), help=text)


def add_model(sub: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """Adds ``--model``, with ``text`` as its help; a Hub id is accepted for the model's name."""
    sub.add_argument("--model", type=_model_name, metavar="NAME", default=default, help=text)


def add_result_filters(sub: argparse.ArgumentParser, task: str) -> None:
    """Adds ``--hardware`` and ``--task``, whose help is ``task``: which of the reports are used."""
    text = "only the results of this machine (default: of every machine)"
    sub.add_argument("--hardware", metavar="SLUG", help=text)
    sub.add_argument("--task", metavar="NAME", help=task)


def not_empty(text: str) -> str:
    """A name or a path: a shell variable that is not set must not mean the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a value")
    return text


def _unescape_newlines(text: str) -> str:
    """``text`` with a line break for every backslash and n, which shells do not write as one."""
    return not_empty(text).replace("\\n", "\n")


def _model_name(text: str) -> str:
    return registry.resolve_hub_id(not_empty(text))


def _device(text: str) -> str:
    try:
        check_device_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def print_skipped(bad: Sequence[BadRow]) -> None:
    """Prints on stderr which rows are left out, one line each."""
    for row in bad:
        print(f"skipped: {row.reason}", file=sys.stderr)


def stderr_progress() -> Callable[[str, float], None]:
    """Progress on stderr, one line a stage: stdout holds the result alone, and an error starts on a line of its own."""
    printed: set[str] = set()

    def progress(stage: str, fraction: float) -> None:
        if fraction < 1 and stage not in printed:
            printed.add(stage)
            print(f"{stage} ...", file=sys.stderr, flush=True)

    return progress
