"""Options of every subcommand: what an empty text, the help and the version say."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from vlmcomp import __version__
from vlmcomp.cli.main import main, make_parser

SUBCOMMANDS = make_parser()[1].parsers
_VALUES = {  # of options and arguments that a subcommand cannot do without
    "compress": ["llava-shapes/int8", "--out", "x"],
    "ask": ["llava-shapes/int8", "--image", "a.png", "--question", "?"],
    "train": ["llava-shapes"],
    "bench": ["llava-shapes/int8"],
    "compare": ["llava-shapes/int8", "llava-shapes/fp16"],
    "recommend": ["--memory", "8GB"],
    "deploy": ["--to", "user/space"],
}


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0 and not isinstance(action, argparse._HelpAction)


def _options() -> Iterator[tuple[str, argparse.Action]]:
    for name, parser in SUBCOMMANDS.items():
        for action in parser._actions:
            if _takes_value(action) and action.option_strings and action.dest != "question":
                yield name, action


def _ids(value: object) -> str:
    return value.option_strings[0] if isinstance(value, argparse.Action) else str(value)


@pytest.mark.parametrize("empty", ["", " \t"])
@pytest.mark.parametrize(("name", "action"), _options(), ids=_ids)
def test_an_empty_option_is_refused_by_its_name(name: str, action: argparse.Action, empty: str) -> None:
    for option in action.option_strings:
        with pytest.raises(ValueError, match=f"argument .*{option}"):
            make_parser()[0].parse_args([name, *_VALUES.get(name, []), option, empty])


@pytest.mark.parametrize("name", [n for n, words in _VALUES.items() if not words[0].startswith("-")])
def test_an_empty_argument_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="it is empty"):
        make_parser()[0].parse_args([name, "", *_VALUES[name][1:]])


def test_an_empty_source_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert main(["compress", "llava-shapes/int8", "--out", "x", "--source", ""]) == 2
    sentence = "vlmcomp: argument --source: it is empty: give a value (see vlmcomp compress --help)\n"
    assert capsys.readouterr() == ("", sentence)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_states_the_default_of_every_option(name: str) -> None:
    for action in SUBCOMMANDS[name]._actions:
        if _takes_value(action) and action.option_strings and not action.required and action.help != "==SUPPRESS==":
            assert "(default: " in (action.help or ""), f"{name} {action.option_strings}"
    text = " ".join(SUBCOMMANDS[name].format_help().split())
    assert not re.search(r"%\(|\(default: (None|)\)", text)


def test_the_version_is_printed(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"vlmcomp {__version__}\n"
