"""One of a thing is named in the singular, wherever a count is told."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import made_reports as made
from vlmcomp.data.bad_rows import format_skipped
from vlmcomp.feedback import format_count
from vlmcomp.reporting import comparison, results_tables

ROOT = Path(__file__).resolve().parent.parent
MANY = ("pattern", "total")  # a text, and a number above 1
NOUNS = """answers candidates characters cores files images layers models questions recipes reports rows runs
samples seeds tensors threads tokens variants"""
PLURAL = re.compile(rf" (?:measured |new |CPU |prompt |image )?(?:{'|'.join(NOUNS.split())})\b(?!/)")


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")])
def test_a_count_and_its_noun(count: int, text: str) -> None:
    assert format_count(count, "row") == text


def _plurals(path: Path) -> list[str]:
    """The f-strings in which a plural follows a value that may be 1."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:]):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            name = ast.unparse(value.value)
            if PLURAL.match(str(text.value)) and not name.isupper() and name not in MANY:
                found.append(f"line {node.lineno}: {name}{text.value}")
    return found


def test_no_plural_follows_a_count() -> None:
    """``format_count`` writes both."""
    found = {str(path): _plurals(path) for path in (ROOT / "vlmcomp").rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_one_question_in_a_verdict() -> None:
    right, wrong = made.rows("red")["shapes-vqa"], made.rows("blue")["shapes-vqa"]
    (task,) = made.rows("red")
    before = replace(made.report(), quality={task: made.quality(samples=1)})
    said = comparison.verdict(before, before, {task: wrong}, {task: right})
    assert f"On 1 question of {task} " in said and "questions" not in said.replace("too few questions", "")
    assert "1 question" in results_tables.caption([before]) and "1 questions" not in results_tables.caption([before])


def test_one_of_everything() -> None:
    assert format_skipped(1) == "1 bad row skipped" and format_skipped(2) == "2 bad rows skipped"
    hardware = replace(made.HARDWARE, cores=1)
    latency = replace(made.report().latency, threads=1, new_tokens=1, ttft_ms=[1.0])
    said = results_tables.caption([replace(made.report(), hardware=hardware, latency=latency)])
    assert "1 core," in said and "1 run at" in said and "1 new token," in said and "1 thread," in said
