"""The start of the command line: nothing is imported that parsing, or refusing the arguments, does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ASKED = ["--image", "none.png", "--question", "How many circles are there?"]
ROOT = Path(__file__).resolve().parents[2]


def test_the_command_line_starts_without_torch() -> None:
    slow = {"torch", "transformers", "PIL", "numpy", "matplotlib", "plotly"}
    code = f"import sys, vlmcomp.cli.main as m; m.make_parser(); sys.exit(' '.join({slow} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_arguments_are_refused_without_torch() -> None:
    refused = [
        ["squash"],
        ["compress", "llava-shapes/nf4", "--out", "x"],
        ["compress", "llava-shapes/int8", "--out", "."],
        ["compress", "llava-shapes/int8", "--out", "x", "--source", "./none"],
        ["compress", "llava-shapes/glu30+int8", "--out", "x", "--calibration-data", "none.jsonl"],
        ["ask", "small", *ASKED],
        ["ask", "runs/small", *ASKED],
        ["ask", "llava-shapes/ffn30+int8", *ASKED],
        ["ask", "llava-shapes/int8", *ASKED],
        ["ask", "llava-shapes/int8", *ASKED, "--source", "./none"],
        ["ask", "docs", *ASKED],
        ["ask", "docs", *ASKED, "--source", "assets"],
        ["train", "llava-1.5-7b"],
        ["doctor", "--model", "gpt-4"],
        ["bench"],
        ["bench", "llava-shapes/int8", "--task", "vqa9"],
        ["experiment", "--seeds", "0"],
        ["record", "llava-shapes/ffn30+int8"],
        ["report", "--root", "none"],
        ["report", "--docs", "--model", "llava-shapes"],
        ["compare", "llava-shapes/int8", "gpt-4"],
        ["recommend", "--memory", "plenty"],
    ]
    code = f"""
import sys
from vlmcomp.cli.main import main
for words in {refused!r}:
    assert main(words) == 2, words
    assert not {{"torch", "transformers"}} & set(sys.modules), words
assert main(["models"]) == 0
assert main(["models", "--sizes"]) == 0 and "torch" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(refused)
