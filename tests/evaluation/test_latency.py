"""The parts of a latency, batches and the roofline. Nothing here depends on the speed of the machine."""

from __future__ import annotations

import pytest

from vlmcomp.compression.size import decode_bytes_and_params
from vlmcomp.evaluation.latency import BATCH_SIZES, compute_roofline, time_interleaved
from vlmcomp.models import architecture
from vlmcomp.reporting.statistics import percentile_95
from vlmcomp.results.schema import Latency, Report, Roofline
from vlmcomp.runtime.engine import Engine


def test_every_part_is_timed_in_every_run(built) -> None:
    engines = [Engine(built("llava-shapes/fp16")), Engine(built("blip2-shapes/int8"))]
    for found in time_interleaved(engines, new_tokens=3, warmup=1, runs=2):
        for part in (
            found.ttft_ms,
            found.decode_ms_per_token,
            found.end_to_end_ms,
            found.preprocess_ms,
            found.vision_ms,
        ):
            assert len(part) == 2 and all(ms > 0 for ms in part)
        assert list(found.batch_decode_ms) == [str(size) for size in BATCH_SIZES]
        assert all(len(steps) == 2 for steps in found.batch_decode_ms.values())
        assert found.session and found.floor is None


def test_the_floor_reads_what_decoding_reads(built) -> None:
    dense, small = built("llava-shapes/fp16"), built("llava-shapes/int8")
    held, logical = decode_bytes_and_params(dense.model)
    linears = [linear for _, linear in architecture.decoder_linears(dense.model)] + [dense.model.lm_head]
    assert logical == sum(p.numel() for linear in linears for p in linear.parameters())
    assert held == sum(p.numel() * p.element_size() for linear in linears for p in linear.parameters())
    assert decode_bytes_and_params(small.model)[0] < held and decode_bytes_and_params(small.model)[1] == logical
    assert compute_roofline(dense, 80).prefill_flops == 2 * logical * 80


def test_a_tied_head_is_read_as_well(built) -> None:
    model = built("qwen2-vl-shapes/fp16").model
    held, _ = decode_bytes_and_params(model)
    tied = model.get_input_embeddings().weight
    assert model.lm_head.weight is tied and held > tied.numel() * tied.element_size()


def test_the_floor_is_bytes_by_bandwidth() -> None:
    found = Roofline(
        bandwidth_bytes_s=936e9, flops_s=71e12, decode_bytes=13_200_000_000, prefill_flops=8_300_000_000_000
    )
    assert found.decode_ms_per_token == pytest.approx(14.1, abs=0.01)  # LLaVA-1.5-7B in FP16 on a 3090
    assert found.prefill_ms == pytest.approx(116.9, abs=0.1)


def test_percentiles_and_reports_keep_the_floor() -> None:
    from tests.support.made_reports import report

    assert (
        percentile_95([1.0]) == 1.0
        and percentile_95(range(1, 22)) == 20.0
        and percentile_95([1.0, 2.0]) == pytest.approx(1.95)
    )
    timed = Latency(2, 3, 1, 1, [1.0], [1.0], [1.0], batch_decode_ms={"4": [2.0]}, floor=Roofline(1.0, 2.0, 3, 4))
    made = report(latency=timed)
    assert Report.from_dict(made.to_dict()) == made
