"""The command line: parses the arguments, runs one subcommand, and prints errors as one sentence."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vlmcomp import files
from vlmcomp.cli import subcommands
from vlmcomp.cli.options import Subcommands
from vlmcomp.evaluation import extras
from vlmcomp.feedback import Terminated, error_summary, is_out_of_memory, sigterm_as_interrupt
from vlmcomp.results.provenance import __version__

EARLIER_NAMES = {"build": "compress", "study": "experiment"}  # of subcommands; still accepted


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def make_parser() -> tuple[argparse.ArgumentParser, Subcommands]:
    """The parser of the command line, and its subcommands."""
    parser = _Parser(
        prog="vlmcomp",
        description="Compress vision-language models and measure what it costs in quality, latency and size.",
        epilog="'vlmcomp COMMAND --help' describes the options of a command and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}", help="print the version")
    added = Subcommands(parser)
    subcommands.add_all(added)
    return parser, added


def _error_sentence(error: Exception) -> str:
    """The error on one line."""
    if isinstance(error, ImportError):
        return extras.import_error_sentence(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_out_of_memory(error):
        return "the device has not enough memory for this model: use int8 or int4, or --device cpu"
    return error_summary(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        0; 1 if a recipe of a sweep failed; 2 for bad input, with one sentence on stderr; 130 if interrupted,
        143 by SIGTERM.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    words = list(sys.argv[1:] if argv is None else argv)
    if words:
        words[0] = EARLIER_NAMES.get(words[0], words[0])
    try:
        with sigterm_as_interrupt():
            return _run(words)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        _discard_output()
        return 0
    except KeyboardInterrupt as error:
        print("vlmcomp: interrupted; what was finished before is kept", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    except Exception as error:
        if not isinstance(error, ValueError | OSError | ImportError) and not is_out_of_memory(error):
            found = files.disk_error(error)
            if found is None:
                raise
            error = found
        print(f"vlmcomp: {_error_sentence(error)}", file=sys.stderr)
        return 2


def _run(words: Sequence[str]) -> int:
    """Parses ``words``, runs the subcommand and prints all of its output; returns the exit status."""
    try:
        parser, added = make_parser()
        args, unknown = parser.parse_known_args(words)
        if unknown:
            _refuse_unknown(unknown, added.parsers[args.command])
        for check in args.checks:
            check(args)
        return args.run(args) or 0
    finally:
        _flush_output()


def _refuse_unknown(words: Sequence[str], subcommand: argparse.ArgumentParser) -> NoReturn:
    """Raises ``ValueError`` for what ``subcommand`` does not take, with the closest of its options."""
    shown = [action for action in subcommand._actions if action.help != argparse.SUPPRESS]
    names = [name for action in shown for name in action.option_strings]
    closest = difflib.get_close_matches(words[0].partition("=")[0], names, 1, 0.7)
    subcommand.error(f"unknown argument {words[0]}" + (f", did you mean {closest[0]}?" if closest else ""))


def _flush_output() -> None:
    """Raises ``OSError`` if what was printed cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise OSError(f"the output cannot be written: {error.strerror}") from None


def _discard_output() -> None:
    """Sends what is still printed nowhere: the interpreter would fail to write it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
