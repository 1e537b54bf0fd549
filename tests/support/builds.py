"""Builds of the app in processes of their own: few samples, and standing still where a test wants them to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import psutil
import pytest

from vlmcomp.models import registry

SAMPLES = 64  # as ``built`` uses
PRUNED = "llava-shapes/glu30+fp16"
_FEW = f"""
from dataclasses import replace
from vlmcomp.models import registry
registry.MODELS["llava-shapes"] = replace(registry.MODELS["llava-shapes"], num_calibration_samples={SAMPLES})
"""
_STAND_STILL = """
import os, sys, time
class StandStill:
    def find_spec(self, name, *rest):
        while name == "torch" and not os.path.exists({gate!r}):
            time.sleep(0.05)
sys.meta_path.insert(0, StandStill())
"""


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets builds use few samples, and stand still before they import torch until the returned file exists."""
    gate = folder / "gate"
    code = indent(_FEW + _STAND_STILL.format(gate=str(gate)), "    ")
    (folder / "sitecustomize.py").write_text(f"import sys\nif 'vlmcomp.serving.build_worker' in sys.orig_argv:\n{code}")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    spec = registry.MODELS["llava-shapes"]
    monkeypatch.setitem(registry.MODELS, spec.name, replace(spec, num_calibration_samples=SAMPLES))
    return gate


def running(parent: int | None = None) -> list[psutil.Process]:
    """The processes of this process, or of ``parent``, that build."""
    found = []
    for child in psutil.Process(parent or os.getpid()).children(recursive=True):
        try:
            if "vlmcomp.serving.build_worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(condition: Callable[[], object]) -> object:
    """What ``condition`` returns, as soon as it is true."""
    until = time.monotonic() + 60
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found
    return found
