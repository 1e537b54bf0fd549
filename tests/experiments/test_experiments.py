"""The study of pruning: its trials, its log, its baseline, and that it asks as a benchmark does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.cli.main import main
from vlmcomp.compression.activation_stats import solver_memory_bytes
from vlmcomp.compression.calibration import text_batches
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.importance import DEFAULT_SCORE
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.size import count_parameters
from vlmcomp.evaluation import quality
from vlmcomp.experiments import decode_speed, optipfair_baseline, pruning_cost, pruning_quality, speed_tables
from vlmcomp.experiments import run as experiment_run
from vlmcomp.experiments import tables as experiment_tables
from vlmcomp.experiments.trial_log import Trial, TrialLog, decode_flags, encode_flags, head_to_head, trial_grid
from vlmcomp.models import architecture
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.results import store
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import CAPTURED, GENERATE, GreedyGenerator


def test_grid_measures_data_free_scores_once() -> None:
    cells = list(trial_grid("shapes", ["glu20", "heads25"], ["activation", "magnitude"], ["optipfair MAW"], [0, 1]))
    assert len(set(cells)) == len(cells)
    assert {c.seed for c in cells if c.score == "magnitude" and not c.reconstruct} == {0}
    assert {c.seed for c in cells if c.score == "magnitude" and c.reconstruct} == {0, 1}
    assert [c.step for c in cells if c.score == "optipfair MAW"] == ["glu20"]  # optipfair prunes no heads
    assert cells[0].score == "dense"


@pytest.mark.parametrize("flags", [[], [False, False, True], [True] * 9, [False]])
def test_flags_round_trip(flags: list[bool]) -> None:
    assert decode_flags(encode_flags(flags)) == flags


def test_a_head_to_head_has_only_what_is_compared() -> None:
    cells = head_to_head("peer", ["glu20"], "activation", ["optipfair MAW", "optipfair MAW hybrid"], [0, 1])
    assert [(c.score, c.reconstruct, c.seed) for c in cells] == [
        ("dense", False, 0),
        ("activation", True, 0),
        ("optipfair MAW", False, 0),
        ("optipfair MAW hybrid", False, 0),
        ("activation", True, 1),
        ("optipfair MAW hybrid", False, 1),
    ]


def test_head_to_head_verdicts_are_mcnemars() -> None:
    def row(score: str, seed: int, right: int) -> dict:
        flags = encode_flags([i < right for i in range(100)])
        kept = {"shapes-vqa": {"right": flags, "same": flags}}
        return {"step": "glu20", "score": score, "reconstruct": score == DEFAULT_SCORE, "seed": seed} | kept

    ours = [row(DEFAULT_SCORE, 0, 60), row(DEFAULT_SCORE, 1, 62)]
    theirs = [row("even", 0, 61), row("worse", 0, 50), row("better", 0, 60), row("better", 1, 90)]
    text = experiment_tables.head_to_head_tables(ours + theirs)
    assert "| even | +0.0 (0, 0) |" in text and "| worse | +11.0 (2, 0) |" in text
    assert "| better | -14.0 (0, 1) |" in text  # 62 against 90 on the second set alone


def test_trial_log_resumes_where_it_stopped(tmp_path: Path) -> None:
    file, cell = tmp_path / "pruning.json", Trial("cost", "2M", "second order", True)
    TrialLog(file).add(cell, {"prune_seconds": 1.0})
    again = TrialLog(file)
    assert again.rows("cost")[0]["prune_seconds"] == 1.0 and cell.key in again.rows_by_key
    assert not TrialLog(file, [cell.part]).rows_by_key
    file.write_text('{"schema": 1, "cells": [{}]}')
    with pytest.raises(ValueError, match="is not a log of trials"):
        TrialLog(file)


def test_answers_are_those_of_the_engine() -> None:
    experiment = pruning_quality.PruningQualityExperiment(num_samples=24)
    for name, samples in experiment.questions.items():
        expected = quality.predict(Engine(experiment.dense), samples, 8, pruning_quality.MAX_NEW_TOKENS)
        assert experiment.predict(experiment.dense.model, name) == expected


@pytest.mark.skipif(not optipfair_baseline.is_installed(), reason="optipfair is a development dependency")
@pytest.mark.parametrize("method", optipfair_baseline.METHODS)
def test_optipfair_prunes_the_decoder_it_is_given(method: str) -> None:
    model = tiny_llava(width=256)
    small = copy.deepcopy(model)
    calibration = text_batches(model, token_ids(4))
    assert optipfair_baseline.prune(small, method, 50, calibration) == 50.0
    assert {layer.down_proj.in_features for layer in architecture.decoder_layers(small)} == {128}
    assert small.config.get_text_config().intermediate_size == 128
    with torch.no_grad():
        assert small(input_ids=token_ids(1)).logits.isfinite().all()
    assert {layer.down_proj.in_features for layer in architecture.decoder_layers(model)} == {256}


def test_projection_fits_a_24_gb_gpu_in_ten_minutes() -> None:
    found = pruning_cost.project_cost()
    assert found["peak_bytes"] < pruning_cost.RTX_3090.memory_bytes and found["prune_seconds"] < 600
    assert found["moments_bytes"] == solver_memory_bytes(11008, 4096)


def test_a_small_experiment_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pruning_cost, "DECODER_SHAPES", {name: pruning_cost.DECODER_SHAPES[name] for name in ("2M", "8M")}
    )
    out = tmp_path / "pruning.json"
    assert main(["study", "--part", "cost", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert all(f"| {name} |" in shown.out for name in pruning_cost.DECODER_SHAPES) and "7B" in shown.out
    assert main(["study", "--part", "cost", "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "nothing was run" in err and "[1/" not in err  # nothing is measured twice


def test_tables_hold_every_method() -> None:
    def row(step: str, score: str, reconstruct: bool, seed: int, exact: float) -> dict:
        scores = {"samples": 10, "exact_match": exact, "composite": exact, "agreement": exact}
        cell = {"part": "shapes", "step": step, "score": score, "reconstruct": reconstruct, "seed": seed}
        return cell | {"shapes-vqa": scores, "easy-vqa": scores}

    text = experiment_tables.quality_tables(
        [row("", "dense", False, 0, 0.8)] + [row("glu20", "second order", True, s, e) for s, e in ((0, 0.8), (1, 0.6))]
    )
    assert "| **second order + least squares** | 87.5 ±12.5 |" in text


def test_stored_tables_are_those_of_their_trials() -> None:
    files = sorted(store.PRECOMPUTED.glob("*/pruning.json"))
    assert files
    for file in files:
        text = experiment_tables.render(TrialLog(file).to_dict(), pruning_cost.project_cost(), whole=True)
        assert file.with_suffix(".md").read_text() == text + "\n", "run: vlmcomp experiment"


@pytest.mark.parametrize("pair", experiment_tables.EQUAL_BYTES)
def test_what_is_called_equal_bytes_is(pair: tuple[str, str], built: Callable) -> None:
    left = []
    for step in pair:
        vlm = copy.deepcopy(built("llava-shapes/fp16"))
        prune_decoder_(
            vlm.model,
            [PruningStep.parse(step)],
            text_batches(vlm.model, token_ids(4)),
            PruningMethod("magnitude", reconstruct=False),
        )
        left.append(sum(count_parameters(vlm.model).values()))
    assert left[0] == left[1] < sum(count_parameters(built("llava-shapes/fp16").model).values())


def _recorded(part: str) -> list[dict]:
    found = [TrialLog(file).rows(part) for file in sorted(store.PRECOMPUTED.glob("*/pruning.json"))]
    rows = max(found, key=len)
    assert rows, f"no machine has measured the part '{part}'"
    return rows


@pytest.mark.parametrize("step, bar", [("glu20", 0.98), ("glu30", 0.95)])
def test_pruned_keeps_its_answers(step: str, bar: float) -> None:
    """A bar that was set before anything was measured, held by what is recorded; so are those below."""
    assert _kept(step, True) >= bar


def _kept(step: str, reconstruct: bool) -> float:
    rows = _recorded("shapes")
    dense = next(r for r in rows if r["score"] == "dense")["shapes-vqa"]["exact_match"]
    mine = [r for r in rows if (r["step"], r["score"], r["reconstruct"]) == (step, DEFAULT_SCORE, reconstruct)]
    return fmean(r["shapes-vqa"]["exact_match"] for r in mine) / dense


def test_least_squares_makes_head_pruning_usable() -> None:
    assert _kept("heads25", True) > _kept("heads25", False) + 0.2


@pytest.mark.parametrize("step, bar", [("glu20", 1.08), ("glu30", 1.14)])
def test_a_language_model_keeps_its_perplexity(step: str, bar: float) -> None:
    perplexity = {(r["step"], r["score"], r["reconstruct"]): r["perplexity"] for r in _recorded("language")}
    ours = perplexity.pop((step, DEFAULT_SCORE, True))
    assert ours / perplexity["", "dense", False] <= bar
    assert all(ours <= p for (s, *_), p in perplexity.items() if s == step)


@pytest.mark.parametrize("kept", [kept for kept, _ in experiment_tables.HEAD_TO_HEAD_MEASURES])
def test_no_setting_of_optipfair_is_ahead(kept: str) -> None:
    rows = _recorded("peer")
    ours = {(r["step"], r["seed"]): r for r in rows if r["score"] == DEFAULT_SCORE}
    others = {(r["score"], r["step"], r["seed"]): r for r in rows if r["score"] not in (DEFAULT_SCORE, "dense")}
    assert len({step for step, _ in ours}) == 5 and len({score for score, *_ in others}) == len(
        optipfair_baseline.BASELINES
    )
    for score, step in {(score, step) for score, step, _ in others}:
        theirs = {(step, seed): r for (name, _, seed), r in others.items() if name == score}
        told = experiment_tables.compare_methods(step, ours, theirs, "shapes-vqa", kept)
        assert told.points >= 0 and not told.behind, (score, step)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no experiment"):
        experiment_run.trials("colour")


def test_speed_is_taken_in_turns_and_told_as_ratios(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = [
        decode_speed.Variant("fp16", GENERATE, True),
        *(decode_speed.Variant(n, CAPTURED) for n in ("fp16", "bf16", "int8")),
    ]
    found = decode_speed.time_variants("llava-shapes", 2, chosen)
    assert not caplog.messages  # which would say why a step was not captured
    assert list(found["variants"]) == ["fp16, generate", "fp16, captured", "bf16, captured", "int8, captured"]
    for label, variant in found["variants"].items():
        assert label.endswith(variant["decoder"]) and all(len(variant[name]) == 2 for name in decode_speed.METRICS)
        assert (variant["capture_seconds"] > 0) == (variant["decoder"] == CAPTURED)
        assert variant["floor_ms"] > 0
    log = TrialLog(tmp_path / "study.json")
    log.add(decode_speed.trials("cpu")[0], found)
    again = TrialLog(tmp_path / "study.json").rows("speed")
    assert speed_tables.render_tables(again) == speed_tables.render_tables([log.rows("speed")[0]])
    table = speed_tables.render_tables(again)
    assert len(found["overhead"]["ask_ms"]) == len(found["overhead"]["loop_ms"]) == 14 and "on top of the loop" in table
    assert "Against bf16, captured, a token of int8, captured comes " in table
    assert len({line.count(" | ") for line in table.splitlines() if line.startswith("| ")}) == 1  # as many cells a row
    assert table.count("\n| fp16") == 2 and "fp16, generate" in table and "multiplied by FBGEMM" in table
    *_, row = speed_tables.render_summary([("here", again[0])]).splitlines()
    assert row.startswith("| here, in float32 | llava-shapes | ") and (row.count("x)"), row.count("–")) == (2, 3)


@pytest.mark.parametrize("model", decode_speed.BUNDLED_MODELS)
def test_a_dense_model_in_bfloat16_is_captured_too(model: str, samples: list) -> None:
    vlm = decode_speed.in_bfloat16(compress(Recipe.parse(f"{model}/fp16"), device="cpu"))
    decoder, heard = GreedyGenerator(vlm.model, CAPTURED, capture_after_tokens=0), []
    decoder.generate(vlm.encode([samples[0][0]], [samples[0][1]]), 8, 8, lambda token, at: heard.append(token))
    assert decoder.mode == CAPTURED and decoder.capture_seconds > 0 and len(heard) == 8


def test_the_prompt_is_told_without_the_tower() -> None:
    slow = {"ttft_ms": [30.0, 32.0], "vision_ms": [10.0, 12.0]}
    fast = {"ttft_ms": [20.0, 22.0], "vision_ms": [10.0, 12.0]}
    assert speed_tables.speedup(slow, fast, "prefill_ms") == "2.00x (2.00 to 2.00)"
