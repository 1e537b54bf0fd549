"""The floors: a module imports only from floors below, and torch begins above floor 0."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "recipe": 0,
    "zoo": 0,
    "report": 0,
    "store": 0,
    "frontier": 0,
    "palette": 0,
    "flat": 0,
    "plots": 0,
    "draw": 0,
    "interactive": 0,
    "tables": 0,
    "shapes.scenes": 0,  # descriptions and pixels; no torch
    "shapes.questions": 0,
    "published": 0,
    "hub": 0,
    "deploy": 0,
    "matrix": 0,
    "claims": 0,
    "removal": 0,
    "recommend": 0,
    "answers": 0,
    "question": 0,
    "paired": 0,
    "processor": 1,
    "anatomy": 1,
    "vlm": 1,
    "calibrate": 1,
    "moments": 1,
    "sight": 1,
    "walk": 1,
    "prune.tokens": 1,
    "prune.importance": 1,
    "prune.reconstruct": 1,
    "prune.surgery": 1,
    "packed": 1,
    "integer": 1,
    "dense": 1,
    "regional": 1,
    "triton_attention": 1,
    "triton_kernels": 1,
    "triton_int4": 1,
    "weight_only": 2,
    "tinygemm": 2,
    "prune": 2,
    "quantize": 2,
    "load": 2,
    "architecture": 3,
    "shared_vision": 2,
    "capture": 1,
    "attention": 3,
    "decode": 3,
    "race": 3,
    "kernels": 3,
    "build": 3,
    "checkpoint": 3,
    "ask": 3,
    "shapes": 3,
    "measure": 4,
    "machine": 3,
    "bench": 5,
    "sweep": 6,
    "memory": 3,
    "cache": 4,
    "manager": 4,
    "resident": 5,
    "zerogpu": 5,
    "recorded": 5,
    "policy": 6,
    "doctor": 6,
    "readme": 6,
    "study": 5,
    "verbs": 7,
    "cli": 8,
    "demo": 7,
    "__main__": 9,
}
LEVEL_FLOORS = (0, 1, 3)  # where modules may also import their neighbours


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT / "vlmcomp").with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def _floor(name: str) -> int:
    while name:
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
    return -1  # the package itself


def _room(name: str) -> str:
    return name.partition(".")[0]


def _imports(path: Path) -> set[str]:
    """Modules of ours that ``path`` imports, at any depth, as dotted names without the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vlmcomp":
            base = node.module.partition(".")[2]
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                is_module = (ROOT / "vlmcomp" / Path(*full.split("."))).with_suffix(".py").exists()
                found.add(full if is_module or (ROOT / "vlmcomp" / Path(*full.split("."))).is_dir() else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "vlmcomp"}
    return found


MODULES = sorted((ROOT / "vlmcomp").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_down(path: Path) -> None:
    me = _name(path)
    for other in _imports(path):
        beside = _room(me) == _room(other) or _floor(me) in LEVEL_FLOORS
        assert _floor(other) < _floor(me) + beside, f"{me} (floor {_floor(me)}) imports {other} (floor {_floor(other)})"


def test_prune_and_quantize_do_not_know_each_other() -> None:
    for path in MODULES:
        if _room(_name(path)) == "prune":
            assert "quantize" not in _imports(path)
        if _name(path) == "quantize":
            assert not any(_room(n) == "prune" for n in _imports(path))


def test_no_step_mentions_a_model() -> None:
    for path in MODULES:
        if _room(_name(path)) in ("prune", "quantize", "calibrate", "checkpoint", "ask"):
            code = path.read_text().lower()
            assert not any(word in code for word in ("llava", "paligemma", "blip", "qwen")), path


def test_the_app_starts_without_torch() -> None:
    code = "import sys, app; sys.exit(' '.join({'torch', 'transformers', 'bitsandbytes'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
