"""The command line: one subcommand a verb, and errors as one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vlmcomp.cli import benchmark, compress, deploy, report
from vlmcomp.cli.options import Subcommands


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vlmcomp",
        description="Compress vision-language models and measure what it costs.",
        epilog="example: vlmcomp ask llava-shapes/int8 --image photo.png --question 'What color is the shape?'",
    )
    verbs = Subcommands(parser)
    for group in (compress, benchmark, report, deploy):
        group.add(verbs)
    return parser


def _sentence(error: Exception) -> str:
    """The error as one line for people."""
    if isinstance(error, ImportError):
        return f"{error.name or error} cannot be imported: pip install -r requirements.txt"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError):
        return "the device has not enough memory for this model: use int8 or int4, or --device cpu"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if a recipe of a sweep failed; 2 for bad input, told in one sentence on stderr; 130 when interrupted.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        args = _parser().parse_args(argv)
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("vlmcomp: stopped; what was finished is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        print(f"vlmcomp: {_sentence(error)}", file=sys.stderr)
        return 2
