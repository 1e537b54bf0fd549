"""Builds in a process of their own: shared, queued, ended by whoever wanted them last, and clean after any end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.support import builds
from vlmcomp.compression import checkpoint, pipeline
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import build_worker, variants
from vlmcomp.serving.build_worker import NOT_STORED
from vlmcomp.serving.local import LocalBackend
from vlmcomp.serving.manager import LOADABLE, NOT_BUILT, ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.waiting import Waiting

ROOT = Path(__file__).resolve().parents[2]
PRUNED = Recipe.parse(builds.PRUNED)
OTHER = Recipe.parse("llava-shapes/glu20+int4")
IMAGE, QUESTION = Image.new("RGB", (96, 96)), "Is there a star?"


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Builds stand still until this file exists."""
    return builds.prepare(tmp_path, monkeypatch)


def _ask(backend: LocalBackend, recipe: Recipe = PRUNED) -> Iterator[Answer | Waiting]:
    return backend.stream(recipe, IMAGE, QUESTION)


def _read_until(run: Iterator[Answer | Waiting], text: str) -> None:
    """Reads what a visitor sees for a minute at most, until it says ``text``."""
    seen = ""
    for answer in islice(run, 120):
        seen = answer.text
        if text in seen:
            return
    raise AssertionError(f"'{seen}' at last, never '{text}'")


def test_visitors_share_a_build_and_the_last_one_to_leave_ends_it(gate: Path) -> None:
    backend = LocalBackend()
    first, second, third = _ask(backend), _ask(backend), _ask(backend, OTHER)
    _read_until(first, "building")
    (process,) = builds.running()
    assert builds.wait_for(lambda: process.nice() >= 10 and os.getpgid(process.pid) == process.pid)
    _read_until(second, "building")
    _read_until(third, "waiting for another build")
    first.close()
    _read_until(second, "building")  # the time in which the process would be told to end
    assert builds.running() == [process]
    second.close()
    assert builds.wait_for(lambda: not process.is_running())
    _read_until(third, "building")
    assert len(builds.running()) == 1
    third.close()
    assert builds.wait_for(lambda: not builds.running())


def test_what_waits_in_the_queue_can_leave_it(gate: Path) -> None:
    backend = LocalBackend()
    first, second = _ask(backend), _ask(backend, OTHER)
    _read_until(first, "building")
    _read_until(second, "waiting for another build")
    second.close()
    first.close()
    assert builds.wait_for(lambda: not builds.running()) and not backend._builds._builds


def test_a_killed_build_is_one_sentence_and_the_next_one_is_cached(gate: Path, tmp_path: Path, built) -> None:
    cache = VariantCache(tmp_path / "cache", 10**9)
    backend = LocalBackend(cache)
    run = _ask(backend)
    _read_until(run, "building")
    builds.wait_for(builds.running)[0].kill()
    with pytest.raises(ModelUnavailable, match=r"cannot be built here now: its process ended .*SIGKILL.*: ask again$"):
        list(run)
    assert not cache.root.exists() or not cache.entries()
    gate.touch()
    *waits, answer = _ask(backend)
    stages = [wait.text for wait in waits if isinstance(wait, Waiting)]
    assert any(text.startswith("building: ") for text in stages)
    assert answer.text == Engine(built(builds.PRUNED)).generate(IMAGE, QUESTION).text
    assert [entry.name.partition("--glu30")[0] for entry, _ in cache.entries()] == ["llava-shapes"]
    assert {path.name for path in cache.root.iterdir() if path.is_file()} == {".lock", "build_seconds.json"}
    other = LocalBackend(cache)
    assert other.readiness(PRUNED) == LOADABLE and other.readiness(OTHER) == NOT_BUILT
    assert not [part.text for part in _ask(other) if isinstance(part, Waiting) and "build" in part.text]


def test_the_time_left_is_that_of_the_last_time(gate: Path, tmp_path: Path) -> None:
    cache = VariantCache(tmp_path, 10**9)
    for recorded, left in ((f'{{"{PRUNED}": 1000}}', ", about 17 min left"), ("[]", "")):  # the second one is damaged
        (tmp_path / "build_seconds.json").write_text(recorded)
        backend = LocalBackend(cache)
        run, other = _ask(backend), _ask(backend, OTHER)
        _read_until(run, f"building: starting{left}")
        _read_until(other, f"waiting for another build{left}")
        other.close()
        run.close()


_SERVER = """
import sys
from vlmcomp.recipe import Recipe
from vlmcomp.serving.build_process import BuildProcess
from vlmcomp.serving.variant_cache import VariantCache
from pathlib import Path
build = BuildProcess(Recipe.parse(sys.argv[1]), "cpu", [VariantCache(Path(sys.argv[2]), 10**9)])
print(build._process.pid, flush=True)
build.follow(print)
"""


def test_a_build_ends_with_its_server(gate: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SERVER, builds.PRUNED, str(tmp_path / "cache")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        process = psutil.Process(int(server.stdout.readline()))
        builds.wait_for(lambda: os.getpgid(process.pid) == process.pid)
        os.kill(server.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs([process], 30)
    assert gone and not alive


def test_what_the_cache_cannot_store_is_stored_until_it_is_loaded(
    built, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(VariantCache(tmp_path, 10))
    small, temporary = backend._caches
    key = variants.cache_key(PRUNED, "cpu")
    vlm = built(builds.PRUNED)
    monkeypatch.setattr(pipeline, "compress", lambda recipe, **settings: vlm)
    variants.build(backend._caches, key, "cpu", lambda text, fraction: None)
    assert temporary.has(key) and not small.has(key)
    *_, answer = _ask(backend)
    assert answer.text == Engine(built(builds.PRUNED)).generate(IMAGE, QUESTION).text
    assert not temporary.has(key) and not temporary.entries()
    root = temporary.root
    del backend
    gc.collect()
    assert not root.exists()


def test_nowhere_to_store_it_is_one_sentence(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = built(builds.PRUNED)
    monkeypatch.setattr(pipeline, "compress", lambda recipe, **settings: vlm)
    (tmp_path / "file").write_text("not a folder")
    job = {"recipe": builds.PRUNED, "device": "cpu", "caches": [(tmp_path / "file" / "cache", 10**9)] * 2}
    with pytest.raises(OSError, match=NOT_STORED):
        build_worker._build(job, lambda text, fraction: None)


def test_a_damaged_entry_is_built_again(gate: Path, tmp_path: Path, built) -> None:
    cache = VariantCache(tmp_path / "cache", 10**9)
    key = variants.cache_key(PRUNED, "cpu")
    cache.put(key, partial(checkpoint.save, built(builds.PRUNED)), lambda text, fraction: None)
    weights = next(cache.root.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    run = _ask(LocalBackend(cache))
    _read_until(run, "building")
    run.close()
