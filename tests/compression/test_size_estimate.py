"""Sizes of the real models from their published shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vlmcomp.cli.main import main
from vlmcomp.compression.size import weight_bytes
from vlmcomp.compression.size_estimate import COLUMNS, estimate, linear_bytes
from vlmcomp.models import architecture
from vlmcomp.models.configs import PUBLISHED_CONFIGS

# Millions of parameters as published.
PUBLISHED = {
    "llava-1.5-7b": 7063,
    "blip2-opt-2.7b": 3745,
    "paligemma-3b": 2923,
    "paligemma2-3b": 3032,
    "qwen2-vl-2b": 2209,
    "qwen2-vl-7b": 8291,
    "qwen2.5-vl-3b": 3755,
    "qwen2.5-vl-7b": 8292,
    "qwen3-vl-2b": 2128,
    "qwen3-vl-4b": 4438,
    "smolvlm-256m": 256.5,
    "smolvlm-500m": 507.5,
}


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_totals_are_the_published_ones_and_columns_shrink(name: str) -> None:
    found = estimate(name)
    assert sum(found.parameters.values()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.6)
    assert found.total("fp16") == 2 * sum(found.parameters.values())
    assert found.total("fp16") > found.total("int8") > found.total("int4")
    for column in COLUMNS:
        for part in ("vision tower", "Q-Former", "projector", "embeddings", "lm_head"):
            assert found.weight_bytes[column][part] == 2 * found.parameters[part], "left alone"
    assert found.removed_percent == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_every_small_variant_builds_on_a_gpu_of_24_gb(name: str) -> None:
    found = estimate(name)
    for column in COLUMNS:
        assert found.peak_build_bytes(column) > found.total(column)
        if "int" in column:
            assert found.peak_build_bytes(column) < 24e9, f"{column} of {name}"


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("model", ["llava-shapes", "blip2-shapes"])
def test_the_arithmetic_is_what_a_built_model_holds(model: str, precision: str, built: Callable) -> None:
    vlm = built(f"{model}/{precision}")
    dense = dict(architecture.decoder_linears(built(f"{model}/fp16").model))
    held = weight_bytes(vlm.model)
    tables = 1100 if precision == "int4" else 0  # of codes, in a matrix of any size: nothing to a real model
    counted = sum(linear_bytes(linear, 1.0, precision, False) + tables for linear in dense.values())
    assert held["decoder attention"] + held["decoder MLP"] == pytest.approx(counted, rel=0.01)


def test_the_table_holds_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--sizes"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: mlp30 removes" in shown for name in PUBLISHED_CONFIGS)
    assert "45.8 %" in shown and "68.0 %" in shown  # LLaVA-1.5-7B in INT8 and INT4
