"""Which policy applies, and that each keeps its word: resident, a fixed set on ZeroGPU, recordings alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import MAX_NEW_TOKENS, Engine
from vlmcomp.serving import backend, recorded
from vlmcomp.serving.backend import Device, choose
from vlmcomp.serving.local import Resident
from vlmcomp.serving.manager import ManagerError
from vlmcomp.serving.variant_cache import Cache

ROOT = Path(__file__).resolve().parents[2]
WELL, SMALL, BARE = Device(True, 16 * 10**9), Device(True, 10**9), Device(False, 16 * 10**9)
INT8 = Recipe.parse("llava-shapes/int8")


@pytest.mark.parametrize(
    "environ, device, wanted",
    [
        ({}, WELL, "resident"),
        ({}, SMALL, "replay"),
        ({}, BARE, "replay"),
        ({"SPACES_ZERO_GPU": "true"}, WELL, "fixed"),
        ({"SPACES_ZERO_GPU": "1"}, WELL, "fixed"),
        ({"SPACES_ZERO_GPU": "false"}, WELL, "resident"),
        ({"SPACES_ZERO_GPU": "true"}, BARE, "replay"),
        ({"VLMCOMP_POLICY": "replay"}, WELL, "replay"),
        ({"VLMCOMP_POLICY": "resident"}, SMALL, "resident"),
        ({"VLMCOMP_POLICY": "replay", "SPACES_ZERO_GPU": "true"}, WELL, "replay"),
    ],
)
def test_environment_and_device_alone_decide(environ: dict[str, str], device: Device, wanted: str) -> None:
    assert choose(environ, device) == wanted


@pytest.mark.parametrize(
    "environ, says",
    [
        ({"VLMCOMP_POLICY": "lru"}, "use one of resident, fixed, replay"),
        ({"VLMCOMP_POLICY": "resident", "SPACES_ZERO_GPU": "true"}, "ZeroGPU keeps nothing"),
    ],
)
def test_what_cannot_work_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose(environ, WELL)


def test_every_policy_speaks_the_same_language() -> None:
    for kind in (Resident, backend.Replay, backend.Fixed):
        for name in ("answers", "weight_bytes", "held"):
            assert callable(getattr(kind, name))
    assert {Resident.name, backend.Replay.name, backend.Fixed.name} == set(backend.NAMES)


def test_replay_runs_nothing_and_needs_no_torch() -> None:
    code = """
import sys
from vlmcomp.demo import handlers
for e in handlers.examples():
    *_, last = handlers.compare(e.image, e.question, ["llava-shapes/int8", "llava-shapes/fp16"])
    assert [c.status for c in last.cards] == ["done", "done"] and not last.live, last
    assert all(c.answer.text and c.recorded.startswith("recorded on ") for c in last.cards), last
    assert last.cards[1].agrees is not None
*_, last = handlers.compare(e.image, "Is there a star on the moon?", ["llava-shapes/fp16"])
assert last.cards[0].error and "no model runs on this machine" in last.cards[0].status
sys.exit(" ".join({"torch", "transformers", "bitsandbytes"} & set(sys.modules)) or 0)
"""
    environ = os.environ | {"VLMCOMP_POLICY": "replay"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_recorded_answer_is_found_by_pixels_and_question(tmp_path: Path) -> None:
    file, question = recorded.examples()[0]
    with Image.open(file) as image:
        found = recorded.find([INT8], image, question).get(INT8)
        assert found is not None and found.answer.finished and found.weight_bytes > 0 and found.date
        changed = image.convert("RGB")
        changed.putpixel((0, 0), (1, 2, 3))
        assert recorded.find([INT8], changed, question).get(INT8) is None
        assert recorded.find([INT8], image, question + "?").get(INT8) is None
        assert recorded.find([INT8], image, question, root=tmp_path).get(INT8) is None


def test_what_is_recorded_is_what_the_model_says(built, tmp_path: Path) -> None:
    rows = recorded.answers(Engine(built("llava-shapes/int8")), rounds=1)
    recorded.save(rows, "cpu", tmp_path)
    for file, question in recorded.examples():
        with Image.open(file) as image:
            new, kept = (
                recorded.find([INT8], image, question, root)[INT8] for root in (tmp_path, recorded.store.PRECOMPUTED)
            )
            assert new.answer.text == kept.answer.text and new.weight_bytes == kept.weight_bytes
    recorded.save(rows[:1], "cpu", tmp_path)
    assert len(json.loads(next(tmp_path.glob("*/examples.json")).read_text())["answers"]) == 1


@pytest.fixture(scope="module")
def resident() -> Resident:
    return Resident()


def _long(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer has as many tokens as may be."""

    stream = Engine.stream

    def never_done(engine, image, question, vision=None):
        return stream(engine, image, question, MAX_NEW_TOKENS, min_new_tokens=MAX_NEW_TOKENS, vision=vision)

    monkeypatch.setattr(Engine, "stream", never_done)


def test_a_visitor_who_leaves_frees_the_model_within_a_token(
    resident: Resident, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long(resident, monkeypatch)
    calls: list[int] = []
    with resident.manager.lease(INT8) as engine:
        handle = engine.vlm.model.lm_head.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        run = resident.answers(INT8, samples[0][0], "Is there a star?")
        next(run)
        assert [h.leases for h in resident.held()] == [1]
        before = len(calls)
        run.close()
        assert len(calls) - before <= 2  # the token under way, and one that began as it was closed
        assert len(calls) < MAX_NEW_TOKENS / 2 and [h.leases for h in resident.held()] == [0]
        after = len(calls)
        assert next(resident.answers(INT8, samples[0][0], "Is there a star?")).new_tokens >= 1
        assert len(calls) > after  # the hook still counts
    finally:
        handle.remove()


def test_a_stream_holds_no_lock_that_others_need(
    resident: Resident, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmcomp.app import handlers

    _long(resident, monkeypatch)
    monkeypatch.setattr(handlers, "models", lambda: resident)
    file, question = recorded.examples()[0]
    with closing(resident.answers(INT8, samples[0][0], "Is there a star?")) as run:
        next(run)
        done: list[object] = []

        def other() -> None:
            with Image.open(file) as image:
                done.append(recorded.find([INT8], image, question))
            done.append(handlers.status())
            with closing(resident.answers(INT8, samples[1][0], "Is there a star?")) as theirs:
                done.append(next(theirs))

        visitor = threading.Thread(target=other, daemon=True)
        visitor.start()
        visitor.join(60)
        assert len(done) == 3 and next(run).new_tokens > 1


def test_memory_that_runs_out_while_answering_is_met_once_and_then_said(resident: Resident, samples: list) -> None:
    image, question, _ = samples[0]
    left = [1]

    def fail(*_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with resident.manager.lease(INT8) as engine:
        handle = engine.vlm.model.lm_head.register_forward_pre_hook(fail)
    try:
        *_, last = resident.answers(INT8, image, question)
        assert last.finished and left == [0]
        left[0] = 5
        with pytest.raises(ManagerError, match="memory is too small to answer"):
            list(resident.answers(INT8, image, question))
        assert left == [3]
    finally:
        handle.remove()
    assert all(h.leases == 0 for h in resident.held())


def test_a_budget_is_shared_and_kept_with_real_models(samples: list, tmp_path: Path) -> None:
    image, question, _ = samples[0]
    names = ("llava-shapes/fp16", "llava-shapes/int8", "llava-shapes/int4")
    roomy = Resident(Cache(tmp_path, 10**9))
    alone, wanted = [], []
    for recipe in map(Recipe.parse, names):
        *_, last = roomy.answers(recipe, image, question)
        wanted.append(last.text)
        with roomy.manager.lease(recipe) as engine:
            from vlmcomp.runtime.weight_sharing import pieces

            alone.append(sum(pieces(engine.vlm.model).values()))
    all_three = roomy.manager.held_bytes()
    assert len(roomy.held()) == 3 and all_three < sum(alone) and sum(h.own_bytes for h in roomy.held()) < all_three
    tight = Resident(Cache(tmp_path, 10**9), lambda: all_three - 1)
    for recipe, answer in zip(map(Recipe.parse, (*names, *names)), wanted * 2):
        *_, last = tight.answers(recipe, image, question)
        assert last.text == answer and tight.manager.held_bytes() < all_three
    assert len(tight.held()) == 2
    small = Resident(None, lambda: 10**6)
    with pytest.raises(ManagerError, match="choose a smaller variant"):
        list(small.answers(INT8, image, question))
    assert small.held() == []


def test_a_fixed_set_keeps_zero_gpus_rules() -> None:
    names = [f"llava-shapes/{name}" for name in ("fp16", "int8", "int4", "glu30+fp16")]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ.pop("VLMCOMP_POLICY", None)
    command = [sys.executable, "tests/support/zero_gpu.py", "15000000", *names]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["policy"] == "fixed" and found["cuda"] and found["device"] == "cuda:0"
    assert found["held"] <= 15_000_000 < found["claimed"]  # what the faked device claims is no budget
    assert list(found["answers"]) == names[:3] and set(found["answers"].values()) == {"yellow"}
    assert "no room" in found["failed"][names[3]]
    assert found["entries"] == 1 and found["workers"] == 1  # one entry, so that one process serves every variant
    assert found["seconds"][1] > found["seconds"][0] and len(found["seconds"]) == 3
