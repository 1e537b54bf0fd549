"""Which backend is selected, and what each promises: local models, a fixed set on ZeroGPU, recordings alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Hashable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import MAX_NEW_TOKENS
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.weight_sharing import storage_bytes
from vlmcomp.serving import backend, recorded, recording
from vlmcomp.serving.backend import HostResources, select_backend
from vlmcomp.serving.local import LocalBackend
from vlmcomp.serving.manager import ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.zerogpu import ZeroGpuBackend

ROOT = Path(__file__).resolve().parents[2]
WELL, SMALL, BARE = HostResources(True, 16 * 10**9), HostResources(True, 10**9), HostResources(False, 16 * 10**9)
INT8 = Recipe.parse("llava-shapes/int8")


@pytest.mark.parametrize(
    "environ, host, name",
    [
        ({}, WELL, "local"),
        ({}, SMALL, "recorded"),
        ({}, BARE, "recorded"),
        ({"SPACES_ZERO_GPU": "true"}, WELL, "zerogpu"),
        ({"SPACES_ZERO_GPU": "1"}, WELL, "zerogpu"),
        ({"SPACES_ZERO_GPU": "false"}, WELL, "local"),
        ({"SPACES_ZERO_GPU": "true"}, BARE, "recorded"),
        ({"VLMCOMP_BACKEND": "recorded"}, WELL, "recorded"),
        ({"VLMCOMP_BACKEND": "local"}, SMALL, "local"),
        ({"VLMCOMP_BACKEND": "recorded", "SPACES_ZERO_GPU": "true"}, WELL, "recorded"),
    ],
)
def test_environment_and_machine_alone_decide(environ: dict[str, str], host: HostResources, name: str) -> None:
    assert select_backend(environ, host) == name


@pytest.mark.parametrize(
    "environ, says",
    [
        ({"VLMCOMP_BACKEND": "lru"}, "use one of local, zerogpu, recorded"),
        ({"VLMCOMP_BACKEND": "local", "SPACES_ZERO_GPU": "true"}, "ZeroGPU keeps nothing"),
    ],
)
def test_what_cannot_work_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        select_backend(environ, WELL)


def test_every_backend_has_the_same_interface() -> None:
    for kind in (LocalBackend, backend.RecordedBackend, ZeroGpuBackend):
        for name in ("stream", "weight_bytes", "loaded_models"):
            assert callable(getattr(kind, name))
    assert {LocalBackend.name, backend.RecordedBackend.name, ZeroGpuBackend.name} == set(backend.BACKEND_NAMES)


def test_recorded_answers_run_nothing_and_need_no_torch() -> None:
    code = """
import sys
from vlmcomp.app import handlers
for e in handlers.examples():
    *_, last = handlers.compare(e.image, e.question, ["llava-shapes/int8", "llava-shapes/fp16"])
    assert [c.status for c in last.cards] == ["done", "done"] and not last.measurements, last
    assert all(c.answer.text and c.recorded.startswith("recorded on ") for c in last.cards), last
    assert last.cards[1].agrees is not None
*_, last = handlers.compare(e.image, "Is there a star on the moon?", ["llava-shapes/fp16"])
assert last.cards[0].error and "no model runs on this machine" in last.cards[0].status
sys.exit(" ".join({"torch", "transformers", "bitsandbytes"} & set(sys.modules)) or 0)
"""
    environ = os.environ | {"VLMCOMP_BACKEND": "recorded"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_recorded_answer_is_found_by_pixels_and_question(tmp_path: Path) -> None:
    file, question = recorded.examples()[0]
    with Image.open(file) as image:
        found = recorded.lookup([INT8], image, question).get(INT8)
        assert found is not None and found.answer.finished and found.weight_bytes > 0 and found.date
        changed = image.convert("RGB")
        changed.putpixel((0, 0), (1, 2, 3))
        assert recorded.lookup([INT8], changed, question).get(INT8) is None
        assert recorded.lookup([INT8], image, question + "?").get(INT8) is None
        assert recorded.lookup([INT8], image, question, root=tmp_path).get(INT8) is None


def test_recorded_answers_are_those_of_the_model(built, tmp_path: Path) -> None:
    rows = recording.record_answers(Engine(built("llava-shapes/int8")), rounds=1)
    recorded.save(rows, "cpu", tmp_path)
    for file, question in recorded.examples():
        with Image.open(file) as image:
            new, published = (
                recorded.lookup([INT8], image, question, root)[INT8] for root in (tmp_path, recorded.store.PRECOMPUTED)
            )
            assert new.answer.text == published.answer.text and new.weight_bytes == published.weight_bytes
    recorded.save(rows[:1], "cpu", tmp_path)
    assert len(json.loads(next(tmp_path.glob("*/examples.json")).read_text())["answers"]) == 1


@pytest.fixture(scope="module")
def local() -> LocalBackend:
    return LocalBackend()


def _long(local: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer has as many tokens as it may have."""
    stream = Engine.stream

    def never_done(engine, image, question, vision_cache=None):
        return stream(engine, image, question, MAX_NEW_TOKENS, min_new_tokens=MAX_NEW_TOKENS, vision_cache=vision_cache)

    monkeypatch.setattr(Engine, "stream", never_done)


def test_a_visitor_who_leaves_frees_the_model_within_a_token(
    local: LocalBackend, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long(local, monkeypatch)
    calls: list[int] = []
    with local.manager.lease(INT8) as engine:
        handle = engine.vlm.model.lm_head.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        run = local.stream(INT8, samples[0][0], "Is there a star?")
        next(run)
        assert [h.leases for h in local.loaded_models()] == [1]
        before = len(calls)
        run.close()
        assert len(calls) - before <= 2  # the token under way, and one that began as it was closed
        assert len(calls) < MAX_NEW_TOKENS / 2 and [h.leases for h in local.loaded_models()] == [0]
        after = len(calls)
        assert next(local.stream(INT8, samples[0][0], "Is there a star?")).new_tokens >= 1
        assert len(calls) > after  # the hook still counts
    finally:
        handle.remove()


def test_a_stream_holds_no_lock_that_others_need(
    local: LocalBackend, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmcomp.app import handlers

    _long(local, monkeypatch)
    monkeypatch.setattr(handlers, "backend", lambda: local)
    file, question = recorded.examples()[0]
    with closing(local.stream(INT8, samples[0][0], "Is there a star?")) as run:
        next(run)
        done: list[object] = []

        def other() -> None:
            with Image.open(file) as image:
                done.append(recorded.lookup([INT8], image, question))
            done.append(handlers.status())
            with closing(local.stream(INT8, samples[1][0], "Is there a star?")) as theirs:
                done.append(next(theirs))

        visitor = threading.Thread(target=other, daemon=True)
        visitor.start()
        visitor.join(60)
        assert len(done) == 3 and next(run).new_tokens > 1


def test_memory_that_runs_out_while_answering_is_retried_once_and_then_reported(
    local: LocalBackend, samples: list
) -> None:
    image, question, _ = samples[0]
    left = [1]

    def fail(*_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with local.manager.lease(INT8) as engine:
        handle = engine.vlm.model.lm_head.register_forward_pre_hook(fail)
    try:
        *_, last = local.stream(INT8, image, question)
        assert last.finished and left == [0]
        left[0] = 5
        with pytest.raises(ModelUnavailable, match="memory is too small to answer"):
            list(local.stream(INT8, image, question))
        assert left == [3]
    finally:
        handle.remove()
    assert all(h.leases == 0 for h in local.loaded_models())


def _total(local: LocalBackend) -> int:
    """Bytes of all models in memory, what they share counted once."""
    together: dict[Hashable, int] = {}
    for model in reversed(local.loaded_models()):  # the order of their last use stays
        with local.manager.lease(model.recipe) as engine:
            together |= storage_bytes(engine.vlm.model)
    return sum(together.values())


def test_a_budget_is_shared_and_respected_by_real_models(samples: list, tmp_path: Path) -> None:
    image, question, _ = samples[0]
    names = ("llava-shapes/fp16", "llava-shapes/int8", "llava-shapes/int4")
    roomy = LocalBackend(VariantCache(tmp_path, 10**9))
    alone, wanted = [], []
    for recipe in map(Recipe.parse, names):
        *_, last = roomy.stream(recipe, image, question)
        wanted.append(last.text)
        with roomy.manager.lease(recipe) as engine:
            alone.append(sum(storage_bytes(engine.vlm.model).values()))
    all_three = _total(roomy)
    assert len(roomy.loaded_models()) == 3 and all_three < sum(alone)
    assert sum(h.own_bytes for h in roomy.loaded_models()) < all_three
    tight = LocalBackend(VariantCache(tmp_path, 10**9), lambda: all_three - 1)
    for recipe, answer in zip(map(Recipe.parse, (*names, *names)), wanted * 2):
        *_, last = tight.stream(recipe, image, question)
        assert last.text == answer and _total(tight) < all_three
    assert len(tight.loaded_models()) == 2
    small = LocalBackend(None, lambda: 10**6)
    with pytest.raises(ModelUnavailable, match="choose a smaller variant"):
        list(small.stream(INT8, image, question))
    assert small.loaded_models() == []


def test_a_fixed_set_follows_the_rules_of_zerogpu(tmp_path: Path) -> None:
    names = [f"llava-shapes/{name}" for name in ("fp16", "int8", "int4", "glu30+fp16")]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ.pop("VLMCOMP_BACKEND", None)
    command = [sys.executable, "tests/support/zero_gpu.py", "15000000", str(tmp_path), *names]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "zerogpu" and found["cuda"] and found["device"] == "cuda:0"
    assert found["loaded_bytes"] <= 15_000_000 < found["claimed"]  # what the faked device claims is no budget
    assert list(found["answers"]) == names[:3] and set(found["answers"].values()) == {"yellow"}
    assert "no room" in found["failed"][names[3]]
    assert {entry.name.split("--")[1] for entry, _ in VariantCache(tmp_path, 10**9).entries()} == {"int8", "int4"}
    assert found["entries"] == 1 and found["workers"] == 1  # one entry, so that one process serves every variant
    assert found["seconds"][1] > found["seconds"][0] and len(found["seconds"]) == 3


def test_a_question_during_the_warm_up_is_answered() -> None:
    code = (
        "import threading\nfrom PIL import Image\n"
        "from vlmcomp.recipe import Recipe\nfrom vlmcomp.serving.local import LocalBackend, import_libraries\n"
        "threading.Thread(target=import_libraries).start()\n"
        "image = Image.new('RGB', (96, 96))\n"
        "*_, last = LocalBackend().stream(Recipe.parse('llava-shapes/fp16'), image, 'What is it?')\n"
        "print(last.finished)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
