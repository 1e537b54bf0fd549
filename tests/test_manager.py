"""The manager: one build a recipe, never over budget, pins hold, no deadlock."""

from __future__ import annotations

import random
import threading

import pytest

from vlmcomp.manager import Manager, ManagerError
from vlmcomp.recipe import Recipe, Step

RECIPES = [Recipe("toy", (Step("glu", n),)) for n in range(1, 7)]


def _percent(recipe: Recipe) -> int:
    return recipe.steps[0].percent


def test_simultaneous_visitors_share_one_build() -> None:
    builds, gate = [], threading.Event()

    def build(recipe: Recipe, progress: object) -> int:
        builds.append(recipe)
        gate.wait(5)
        return _percent(recipe)

    manager: Manager[int] = Manager(build, lambda n: n, 100)
    got: list[int] = []

    def visit() -> None:
        with manager.lease(RECIPES[0]) as thing:
            got.append(thing)

    threads = [threading.Thread(target=visit) for _ in range(5)]
    for t in threads:
        t.start()
    gate.set()
    for t in threads:
        t.join(10)
    assert builds == [RECIPES[0]] and got == [1] * 5


def test_the_least_recently_used_leaves_and_a_pinned_one_stays() -> None:
    manager: Manager[int] = Manager(lambda r, p: _percent(r), lambda n: 10, 20, patience_seconds=0.05)
    with manager.lease(RECIPES[0]):
        with manager.lease(RECIPES[1]):
            pass
        with manager.lease(RECIPES[2]):
            held = {r.recipe for r in manager.resident()}
            assert held == {RECIPES[0], RECIPES[2]}
            with pytest.raises(ManagerError, match="no room"), manager.lease(RECIPES[3]):
                pass


def test_too_large_is_one_sentence_and_a_failure_is_forgotten() -> None:
    tries = []

    def build(recipe: Recipe, progress: object) -> int:
        tries.append(recipe)
        if len(tries) == 1:
            raise RuntimeError("disk full")
        return 50

    manager: Manager[int] = Manager(build, lambda n: n, 40)
    with pytest.raises(RuntimeError, match="disk full"), manager.lease(RECIPES[0]):
        pass
    with pytest.raises(ManagerError, match="choose a smaller"), manager.lease(RECIPES[0]):
        pass
    assert manager.resident() == []


def test_random_visitors_never_break_the_budget_or_build_twice_at_once() -> None:
    building, errors, lock = set(), [], threading.Lock()

    def build(recipe: Recipe, progress: object) -> int:
        with lock:
            assert recipe not in building
            building.add(recipe)
        with lock:
            building.discard(recipe)
        if random.random() < 0.2:
            raise RuntimeError("unlucky")
        return _percent(recipe)

    manager: Manager[int] = Manager(build, lambda n: 10 * n, 100, patience_seconds=0.2)

    def visit(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            try:
                with manager.lease(rng.choice(RECIPES)) as thing:
                    assert thing in range(1, 7)
                    assert sum(r.weight_bytes for r in manager.resident()) <= 100
            except (RuntimeError, ManagerError):
                continue
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads) and not errors
    assert all(r.leases == 0 for r in manager.resident())
