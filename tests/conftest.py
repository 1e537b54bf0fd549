"""Shared pieces: the embedded model built once per recipe, and scenes to ask about."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side take one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# what is faster on a machine must not decide what a test sees
os.environ["VLMCOMP_RUNTIME"] = "int8_kernel=fbgemm,dense_kernel=pytorch"
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # before anyone imports Triton: kernels are interpreted
os.environ["VLMCOMP_CACHE_GB"] = "0"  # no test finds what another one built
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have their parent's: the user's own cache is left alone
    os.environ["VLMCOMP_CACHE"] = tempfile.mkdtemp(prefix="vlmcomp-tests-")
    atexit.register(shutil.rmtree, os.environ["VLMCOMP_CACHE"], ignore_errors=True)

import pytest
from PIL import Image

from vlmcomp.models import registry
from vlmcomp.recipe import Recipe


def _calibrate_by_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.get_model_spec(registry.DEFAULT_MODEL)
    monkeypatch.setitem(registry.MODELS, entry.name, replace(entry, num_calibration_samples=64))


@cache
def _build(text: str):
    from vlmcomp.compression.pipeline import compress

    with pytest.MonkeyPatch.context() as monkeypatch:
        _calibrate_by_few_samples(monkeypatch)
        return compress(Recipe.parse(text), device="cpu")


@pytest.fixture(scope="session")
def built() -> Callable:
    """``built("llava-shapes/int8")``: that recipe in memory, made once and pruned by few samples.

    Tests do not change what they get, but they ask it questions, by which libraries repack weights.
    """
    return _build


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is pruned by few samples, for what is true of any number of them."""
    _calibrate_by_few_samples(monkeypatch)


@pytest.fixture(scope="session")
def samples() -> list[tuple[Image.Image, str, str]]:
    """Eight (image, question, answer) triples."""
    from vlmcomp.data.calibration_data import synthetic_calibration_data

    return list(synthetic_calibration_data(8, seed=99))
