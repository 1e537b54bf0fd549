"""The doctor measures what a precision changes, and its recommendations follow from the numbers alone."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from torch import nn

from vlmcomp.cli.main import main
from vlmcomp.compression.size_estimate import estimate_memory, meta_model
from vlmcomp.evaluation import doctor
from vlmcomp.evaluation.doctor import DeviceProfile, PrecisionProfile
from vlmcomp.evaluation.steady_timing import SESSIONS, TRIES, time_sessions
from vlmcomp.models import architecture, registry
from vlmcomp.recipe import BASE_PRECISIONS, PRECISIONS, Recipe
from vlmcomp.results.schema import Hardware
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.linear.cpu_int8 import FbgemmMatmul

HERE = Hardware("cpu-test", "cpu", "Test", 2, 10**10)


def _diagnosis(*found: tuple[int, float], budget: int = 100) -> DeviceProfile:
    """Of (bytes, ms) of each precision."""
    findings = [
        PrecisionProfile(
            Recipe("llava-shapes", (), p), size, size <= budget, tuple(ms + 0.001 * i for i in range(15)), ms / 2
        )
        for p, (size, ms) in zip(BASE_PRECISIONS, found, strict=True)
    ]
    return DeviceProfile(HERE, "float32", 2, 1e10, 1e11, budget, tuple(findings))


@pytest.mark.parametrize("model", [m.name for m in registry.MODELS.values() if m.bundled])
def test_every_family_is_measured_at_its_own_linears(model: str) -> None:
    found = doctor.profile_device(model, rounds=2)
    assert [f.recipe.precision for f in found.precisions] == list(PRECISIONS)
    assert all(
        len(f.ms_per_token) == 2 * SESSIONS and min(f.ms_per_token) > 0 and f.roofline_ms > 0 for f in found.precisions
    )
    kernels = {f.recipe.precision: f.kernel for f in found.precisions}
    assert {p for p, kernel in kernels.items() if not kernel} == {"fp16", "int4"}  # PyTorch and bitsandbytes alone
    assert [f.required_bytes for f in found.precisions] == [sum(estimate_memory(f.recipe)) for f in found.precisions]
    dense = doctor._decoder_linears(model, "fp16", "cpu")
    shapes = [(m.in_features, m.out_features) for m in dense.modules() if isinstance(m, nn.Linear)]
    layer = architecture.decoder_layers(meta_model(model))[0]
    assert shapes == [(m.in_features, m.out_features) for m in layer.block.modules() if isinstance(m, nn.Linear)]
    floors = [f.roofline_ms for f in found.precisions]
    assert floors[:3] == sorted(floors[:3], reverse=True) and floors[0] > 3 * floors[2]  # bytes as stored in memory


def test_shared_products_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    block = doctor._decoder_linears("llava-shapes", "int8", "cpu")
    made: list[object] = []
    dispatch.set_linear_kernel_(block, dispatch.FBGEMM)
    whole = FbgemmMatmul.__call__
    monkeypatch.setattr(FbgemmMatmul, "__call__", lambda product, x: made.append(product) or whole(product, x))
    doctor._decode_step(block, "cpu")()
    assert len(made) == len(set(map(id, made))) == 4  # query, key and value; output; gate and up; down


def test_without_torchao_it_measures_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert [f.recipe.precision for f in doctor.profile_device("llava-shapes", rounds=1).precisions] == list(
        BASE_PRECISIONS
    )


def test_the_fastest_that_fits_is_recommended_and_the_smallest() -> None:
    text = "\n".join(doctor.recommendations(_diagnosis((90, 4.0), (60, 2.0), (40, 3.0))))
    assert "For speed: llava-shapes/int8" in text and "For memory: llava-shapes/int4" in text and "not time" not in text
    text = "\n".join(doctor.recommendations(_diagnosis((90, 4.0), (60, 8.0), (40, 12.0))))
    assert "For speed: llava-shapes/fp16" in text
    assert "int8 saves memory here, not time: its Linears take 2.0 times as long" in text
    assert "int4 saves memory here, not time: its Linears take 3.0 times as long" in text
    text = "\n".join(doctor.recommendations(_diagnosis((90, 4.0), (60, 8.0), (40, 12.0), budget=70)))
    assert "For speed: llava-shapes/int8" in text
    assert doctor.recommendations(_diagnosis((90, 4.0), (60, 8.0), (40, 12.0), budget=9))[0].startswith(
        "Nothing fits: int4"
    )


def test_a_difference_inside_the_noise_is_none() -> None:
    noisy = _diagnosis((90, 4.0), (60, 3.9), (40, 5.0))
    first, second, third = noisy.precisions
    second = replace(second, ms_per_token=tuple(3.9 + (0.5 if i % 2 else -0.5) for i in range(15)))
    noisy = replace(noisy, precisions=(first, second, third))
    assert "For speed: llava-shapes/fp16" in "\n".join(doctor.recommendations(noisy))
    assert "no difference seen" in doctor.to_text(noisy)


def test_sessions_are_repeated_until_they_agree() -> None:
    made = []

    def measure(int8_ms: list[float]) -> dict[str, list[float]]:
        made.append(int8_ms.pop(0))
        return {"fp16": [4.0, 4.0, 9.0], "int8": [made[-1]] * 3}

    sessions, busy = time_sessions(lambda times=[2.0, 2.0, 9.0, 2.0, 2.1, 2.0]: measure(times), "fp16")
    assert made == [2.0, 2.0, 9.0, 2.0, 2.1, 2.0] and 0 <= busy <= 1
    assert [times["int8"][0] for times in sessions] == made[SESSIONS:]
    made.clear()
    time_sessions(lambda times=[2.0, 9.0, 2.0] * TRIES: measure(times), "fp16")
    assert len(made) == TRIES * SESSIONS


def test_an_unsteady_speed_is_no_interval_and_no_advice() -> None:
    first, second, third = _diagnosis((90, 4.0), (60, 2.0), (40, 3.0)).precisions
    second = replace(second, speedups=(1.73, 1.0, 0.21))
    unsteady = DeviceProfile(HERE, "float32", 2, 1e10, 1e11, 100, (first, second, third), busy_share=0.45)
    text = doctor.to_text(unsteady)
    assert "unsteady, 0.21x to 1.73x" in text and "For speed: llava-shapes/int4" in text
    assert "Unsteady: the speed of int8 changes" in text and "took 45% of the processors" in text


def test_the_command_prints_device_floor_and_advice(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(doctor, "ROUNDS", 2)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for text in ("device ", "GB/s", "TFLOP/s", "FLOOR", "llava-shapes/int4", "For speed: ", "For memory: "):
        assert text in out, out
    assert main(["doctor", "--model", "gpt"]) == 2
    assert "unknown model" in capsys.readouterr().err
