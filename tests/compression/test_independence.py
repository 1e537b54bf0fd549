"""Pruning and quantization are independent of each other: the pipeline alone combines them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "vlmcomp" / "compression"


def _imports(package: str) -> set[str]:
    """Names of all imported modules, imports inside functions included."""
    found: set[str] = set()
    for path in (PACKAGE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("package, other", [("pruning", "quantization"), ("quantization", "pruning")])
def test_neither_imports_the_other(package: str, other: str) -> None:
    imports = _imports(package)
    assert imports and not [name for name in imports if name.startswith(f"vlmcomp.compression.{other}")]
