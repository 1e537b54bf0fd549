"""The examples in the docstrings of the public API are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("vlmcomp.api.model", "vlmcomp.api.benchmark", "vlmcomp.api.results", "vlmcomp")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # paths in examples are relative to the repository
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0 and (found.attempted > 0 or name == "vlmcomp")
