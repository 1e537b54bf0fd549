"""The manager: one build a recipe, never over budget, leased models stay, one retry without memory, no deadlock."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping

import pytest
import torch

from vlmcomp.feedback import is_out_of_memory
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.runtime import device
from vlmcomp.serving.manager import ModelManager, ModelUnavailable

RECIPES = [Recipe("toy", (PruningStep("glu", n),)) for n in range(1, 7)]
OTHERS = [Recipe("top", (PruningStep("glu", n),)) for n in range(1, 4)]


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Every eviction collects garbage: what the libraries hold is left out of it, or that takes most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


class _Model:
    """Refers to itself, as modules do: only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def _percent(recipe: Recipe) -> int:
    return recipe.steps[0].percent


def _alone(each: int) -> Callable[[int], Mapping[int, int]]:
    return lambda n: {n: each}


def _manager(build: Callable, memory_blocks: Callable, budget: int, **settings: object) -> ModelManager:
    return ModelManager(build, memory_blocks, lambda: budget, release_memory=device.release_cached_memory, **settings)


def _total(manager: ModelManager) -> int:
    """Bytes of all models in memory, what they share counted once."""
    with manager._condition:
        blocks: dict[Hashable, int] = {}
        for slot in manager._slots.values():
            blocks |= slot.memory_blocks
    return sum(blocks.values())


def test_simultaneous_visitors_share_one_build_and_its_progress() -> None:
    builds, gate = [], threading.Event()

    def build(recipe: Recipe, progress: Callable) -> int:
        builds.append(recipe)
        gate.wait(5)
        progress("half", 0.5)
        return _percent(recipe)

    manager = _manager(build, _alone(1), 100)
    models: list[int] = []
    reports: list[str] = []

    def visit() -> None:
        with manager.lease(RECIPES[0], lambda text, fraction: reports.append(text)) as model:
            models.append(model)

    threads = [threading.Thread(target=visit) for _ in range(5)]
    for t in threads:
        t.start()
    while len(manager._slots[RECIPES[0]].listeners if RECIPES[0] in manager._slots else ()) < 5:
        time.sleep(0.01)
    gate.set()
    for t in threads:
        t.join(10)
    assert builds == [RECIPES[0]] and models == [1] * 5 and reports == ["half"] * 5


def test_the_least_recently_used_leaves_and_a_pinned_one_stays() -> None:
    manager = _manager(lambda r, p: _percent(r), _alone(10), 20, lease_timeout=0.05)
    with manager.lease(RECIPES[0]):
        with manager.lease(RECIPES[1]):
            pass
        with manager.lease(RECIPES[2]):
            assert {h.recipe for h in manager.loaded_models()} == {RECIPES[0], RECIPES[2]}
            with pytest.raises(ModelUnavailable, match="no room"), manager.lease(RECIPES[3]):
                pass


def test_what_variants_share_counts_once_and_goes_with_the_last() -> None:
    def build(recipe: Recipe, progress: object) -> dict[object, int]:
        return {"tower": 50, recipe: 10}

    def share_weights(model: dict, others: list[dict]) -> None:
        if not others:  # a tower of its own
            model[object()] = model.pop("tower")
        for key in {key for other in others for key in other if type(key) is object}:
            model.pop("tower", None)
            model[key] = 50

    manager = _manager(build, dict, 80, share_weights=share_weights, estimate=lambda recipe: (10, 50))
    for recipe in RECIPES[:3]:
        with manager.lease(recipe):
            pass
    assert _total(manager) == 80 and [h.own_bytes for h in manager.loaded_models()] == [10, 10, 10]
    with manager.lease(OTHERS[0]):  # another model has another tower
        assert [h.recipe for h in manager.loaded_models()] == [OTHERS[0]] and _total(manager) == 60
    with manager.lease(RECIPES[3]):
        assert _total(manager) == 60


def test_too_large_is_one_sentence_and_a_failure_is_forgotten() -> None:
    tries = []

    def build(recipe: Recipe, progress: object) -> int:
        tries.append(recipe)
        if len(tries) == 1:
            raise RuntimeError("disk full")
        return 50

    manager = _manager(build, lambda n: {"it": n}, 40)
    with pytest.raises(RuntimeError, match="disk full"), manager.lease(RECIPES[0]):
        pass
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="choose a smaller"), manager.lease(RECIPES[0]):
            pass
    assert manager.loaded_models() == [] and len(tries) == 2  # the size is known now: nothing is built in vain


def test_what_cannot_fit_is_neither_built_nor_makes_others_go() -> None:
    builds = []
    manager = _manager(
        lambda r, p: builds.append(r), lambda thing: {"it": 1}, 40, estimate=lambda r: (10 * _percent(r), 5)
    )
    with manager.lease(RECIPES[0]):
        pass
    with pytest.raises(ModelUnavailable, match="choose a smaller"), manager.lease(RECIPES[5]):
        pass
    assert builds == [RECIPES[0]] and [h.recipe for h in manager.loaded_models()] == [RECIPES[0]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_retried_once_and_then_reported(error: Exception) -> None:
    left, builds = [0], []

    def build(recipe: Recipe, progress: Callable) -> int:
        builds.append(recipe)
        if left[0]:
            left[0] -= 1
            raise error
        return _percent(recipe)

    manager = _manager(build, _alone(10), 100)
    with manager.lease(RECIPES[0]), manager.lease(RECIPES[1]):
        pass
    left[0] = 1
    reports: list[str] = []
    with manager.lease(RECIPES[0]), manager.lease(RECIPES[2], lambda text, fraction: reports.append(text)):
        assert {h.recipe for h in manager.loaded_models()} == {RECIPES[0], RECIPES[2]}  # the idle one made room
    assert builds[-2:] == [RECIPES[2]] * 2 and any("starting again" in text for text in reports)
    left[0] = 5
    with pytest.raises(
        ModelUnavailable, match=r"memory is too small to build toy/glu4\+fp16: choose a smaller variant"
    ):
        with manager.lease(RECIPES[3]):
            pass
    assert left == [3]
    left[0] = 0
    with manager.lease(RECIPES[3]) as model:
        assert model == 4


def test_an_eviction_at_admission_delays_nobody_but_its_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an answer holds the GPU, an admission evicts an idle model, whose memory only the GPU's next owner can
    free; models in memory, the list of them and the admitted model itself stay within reach meanwhile."""
    freed, answering, answered = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", freed.set)
    manager = _manager(lambda r, p: _percent(r), _alone(10), 20)  # estimates nothing: room is made on admission
    for recipe in RECIPES[:2]:
        with manager.lease(recipe):
            pass
    leased: list[int] = []

    def answer() -> None:
        with device.cuda_lock:
            answering.set()
            answered.wait(120)

    def admit() -> None:
        with manager.lease(RECIPES[2]) as model:
            leased.append(model)

    def visit() -> None:
        while RECIPES[2] not in {h.recipe for h in manager.loaded_models()}:
            time.sleep(0.01)
        for recipe in (RECIPES[1], RECIPES[2]):
            with manager.lease(recipe) as model:
                leased.append(model)

    threads = [threading.Thread(target=work, daemon=True) for work in (answer, admit, visit)]
    try:
        threads[0].start()
        assert answering.wait(60)
        for t in threads[1:]:
            t.start()
        threads[2].join(30)
        assert leased == [2, 3] and not freed.is_set()
    finally:
        answered.set()
    for t in threads:
        t.join(60)
    assert leased == [2, 3, 3] and freed.is_set() and {h.recipe for h in manager.loaded_models()} == set(RECIPES[1:3])


@pytest.mark.parametrize("evict", ["for another", "when asked"])
def test_memory_is_freed_when_nothing_refers_to_an_evicted_model(evict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(model() is not None))
    manager = _manager(lambda r, p: _Model(), lambda m: {id(m): 10}, 10)
    with manager.lease(RECIPES[0]) as first:
        model = weakref.ref(first)
    del first
    if evict == "for another":
        with manager.lease(RECIPES[1]):
            pass
    else:
        manager.evict_idle()
    assert alive == [False]


def test_only_memory_is_tried_again() -> None:
    assert not any(map(is_out_of_memory, (ValueError("out of memory"), RuntimeError("boom"), OSError(28, "no space"))))
    builds = []

    def build(recipe: Recipe, progress: object) -> int:
        builds.append(recipe)
        raise ValueError("the weights cannot be had")

    with pytest.raises(ValueError, match="cannot be had"), _manager(build, _alone(1), 9).lease(RECIPES[0]):
        pass
    assert len(builds) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_200_random_steps_never_break_the_budget_or_build_twice_at_once(seed: int) -> None:
    """Eight visitors lease, hold two at once, evict and fail; each model's variants share a tower of 20 of 70."""
    building: set[Recipe] = set()
    broken: list[object] = []
    lock, luck = threading.Lock(), random.Random(seed)

    def build(recipe: Recipe, progress: Callable) -> dict:
        with lock:
            broken.extend(["twice"] if building else [])
            building.add(recipe)
            fate, pause = luck.random(), luck.random() * 0.004
        time.sleep(pause)
        with lock:
            building.discard(recipe)
        if fate < 0.1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if fate < 0.2:
            raise ValueError("unlucky")
        return {(recipe, "own"): 5 * _percent(recipe), (recipe.model, "tower"): 20, "recipe": recipe}

    def memory_blocks(model: dict) -> dict:
        return {key: size for key, size in model.items() if key != "recipe"}

    manager = _manager(build, memory_blocks, 70, lease_timeout=0.02, estimate=lambda r: (5 * _percent(r), 20))
    steps = iter(range(200))

    def visit(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        while True:
            with lock:
                if next(steps, None) is None:
                    return
            first, second = rng.choices([*RECIPES, *OTHERS], k=2)
            try:
                if rng.random() < 0.1:
                    manager.evict_idle()
                with contextlib.ExitStack() as leases:
                    for recipe in (first, second) if rng.random() < 0.3 else (first,):
                        model = leases.enter_context(manager.lease(recipe))
                        time.sleep(rng.random() * 0.004)
                        leased = {h.recipe for h in manager.loaded_models() if h.leases}
                        if model["recipe"] != recipe or recipe not in leased or _total(manager) > 70:
                            broken.append((recipe, leased, _total(manager)))
            except (ValueError, ModelUnavailable):
                continue
            except BaseException as error:
                broken.append(error)

    threads = [threading.Thread(target=visit, args=(n,), daemon=True) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(600)
    assert not any(t.is_alive() for t in threads) and broken == []
    assert next(steps, None) is None and all(h.leases == 0 for h in manager.loaded_models())
    assert _total(manager) <= 70
