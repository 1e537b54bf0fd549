"""The tables of models, configurations and architectures agree with each other."""

from __future__ import annotations

import pytest

from vlmcomp.models.architecture import ARCHITECTURES
from vlmcomp.models.configs import PUBLISHED_CONFIGS
from vlmcomp.models.registry import DEFAULT_MODEL, MODELS, ModelSpec
from vlmcomp.recipe import PRUNING_TARGETS
from vlmcomp.results.schema import COMPONENTS


def test_every_published_model_has_a_config() -> None:
    assert set(PUBLISHED_CONFIGS) == {spec.name for spec in MODELS.values() if not spec.bundled}
    assert MODELS[DEFAULT_MODEL].bundled


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_architecture_names_known_components(family: str) -> None:
    architecture = ARCHITECTURES[family]
    assert set(architecture.prefixes) <= set(COMPONENTS)
    assert len(architecture.mlp_inputs) in (1, 2)
    for component, prefixes in architecture.prefixes.items():
        assert all(architecture.component(f"{prefix}.weight") == component for prefix in prefixes)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_image_tokens_can_be_pruned_or_there_is_a_reason(family: str) -> None:
    architecture = ARCHITECTURES[family]
    assert (architecture.image_features_method is None) == bool(architecture.no_token_pruning_reason)


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_the_pruning_targets_are_those_of_the_architecture(spec: ModelSpec) -> None:
    architecture = ARCHITECTURES[spec.family]
    assert set(spec.pruning_targets) <= set(PRUNING_TARGETS)
    assert ("glu" in spec.pruning_targets) == architecture.has_gated_mlp != ("ffn" in spec.pruning_targets)
    assert ("vis" in spec.pruning_targets) == (architecture.image_features_method is not None)
