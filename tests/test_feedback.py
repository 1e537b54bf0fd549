"""Progress in a terminal and nowhere else, and sentences of errors that are whole."""

from __future__ import annotations

import inspect
import io
import sys

import pytest

import vlmcomp
from vlmcomp.feedback import error_summary, shown_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ("one line", "one line"),
        ("\n  first \nsecond", "first"),
        (
            "backend='inductor' raised:\nCppCompileError: no compiler\nmore",
            "backend='inductor' raised: CppCompileError: no compiler",
        ),
        ("because:\n\n  of this:\nreason", "because: of this: reason"),
        ("because:\n", "because"),
        ("", "ValueError"),
    ],
)
def test_a_summary_does_not_end_in_a_colon(message: str, summary: str) -> None:
    assert error_summary(ValueError(message)) == summary


def test_a_terminal_shows_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown_progress("terminal") as progress:
        for fraction in (0.0, 0.5, 1.0, 0.0, 0.1):
            progress("pruning glu30" if fraction else "loading", fraction)
    written = terminal.getvalue()
    assert "loading:   0% |" in written and "pruning glu30" in written and " left" in written
    assert "\n" not in written and written.rpartition("\r")[2].strip() == ""


def test_files_and_notebooks_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's stderr is no terminal."""
    for file, asked in ((io.StringIO(), "terminal"), (Terminal(), None)):
        monkeypatch.setattr(sys, "stderr", file)
        with shown_progress(asked) as progress:
            progress("loading", 0.5)
        assert file.getvalue() == ""
    told: list[tuple[str, float]] = []
    with shown_progress(lambda text, fraction: told.append((text, fraction))) as progress:
        progress("loading", 0.5)
    assert told == [("loading", 0.5)]


@pytest.mark.parametrize(
    "function", [vlmcomp.compress, vlmcomp.load, vlmcomp.benchmark, vlmcomp.prune_, vlmcomp.quantize_]
)
def test_long_work_shows_progress_unless_told_not_to(function: object) -> None:
    assert inspect.signature(function).parameters["progress"].default == "terminal"


def test_compress_says_what_it_does_in_a_terminal(monkeypatch: pytest.MonkeyPatch, few: None) -> None:
    for asked, shows in (({}, True), ({"progress": None}, False)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        vlmcomp.compress("llava-shapes/glu30+int8", device="cpu", **asked)
        assert ("pruning glu30 and quantizing" in terminal.getvalue()) == shows
        assert bool(terminal.getvalue()) == shows
