"""Room for what another process builds: idle models leave it, and what is loaded meanwhile does not take it."""

from __future__ import annotations

import gc

import pytest

from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.serving.manager import ModelManager, ModelUnavailable

RECIPES = [Recipe("toy", (PruningStep("glu", n),)) for n in range(1, 5)]


def _manager() -> ModelManager[int]:
    """Room for three models of 10 bytes."""
    return ModelManager(
        lambda recipe, progress: recipe.steps[0].percent,
        lambda number: {number: 10},
        lambda: 30,
        estimate=lambda recipe: (8, 2),
        release_memory=gc.collect,
        lease_timeout=0.05,
    )


def _loaded(manager: ModelManager[int]) -> set[Recipe]:
    return {model.recipe for model in manager.loaded_models()}


def test_idle_models_make_room_and_it_stays_free_until_the_end() -> None:
    manager = _manager()
    for recipe in RECIPES[:3]:
        with manager.lease(recipe):
            pass
    with manager.lease(RECIPES[0]), manager.reserve(RECIPES[3]):
        assert _loaded(manager) == {RECIPES[0], RECIPES[2]}
        with manager.lease(RECIPES[1]):
            assert _loaded(manager) == {RECIPES[0], RECIPES[1]}
            with pytest.raises(ModelUnavailable, match="no room"), manager.lease(RECIPES[2]):
                pass
    for recipe in RECIPES[:3]:
        with manager.lease(recipe):
            pass
    assert len(_loaded(manager)) == 3


def test_no_room_is_one_sentence_and_reserves_nothing() -> None:
    manager = _manager()
    with manager.lease(RECIPES[0]), manager.lease(RECIPES[1]), manager.lease(RECIPES[2]):
        with pytest.raises(ModelUnavailable, match="no room"), manager.reserve(RECIPES[3]):
            pass
    with manager.reserve(RECIPES[3]), manager.lease(RECIPES[0]), manager.lease(RECIPES[1]):
        pass


def test_only_what_is_in_memory_is_leased_without_loading() -> None:
    manager = _manager()
    with manager.lease_loaded(RECIPES[0]) as model:
        assert model is None
    with manager.lease(RECIPES[0]):
        pass
    with manager.lease_loaded(RECIPES[0]) as model:
        assert model == 1 and [m.leases for m in manager.loaded_models()] == [1]
    assert [m.leases for m in manager.loaded_models()] == [0]
