"""``experiment --part``: what it prints, and what it leaves of the other parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vlmcomp.cli.main import main
from vlmcomp.experiments import run as experiment_run
from vlmcomp.experiments.trial_log import TrialLog
from vlmcomp.results import store


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A copy of results in which no trial of the part "cost" is missing."""
    wanted = {trial.key for trial in experiment_run.trials("cost")}
    found = (f for f in sorted(store.PRECOMPUTED.glob("*/pruning.json")) if wanted <= set(TrialLog(f).rows_by_key))
    return Path(shutil.copy(next(found), tmp_path / "study.json"))


def test_a_part_that_is_measured_is_said_to_be_and_printed_alone(log: Path, capsys: pytest.CaptureFixture) -> None:
    before = log.read_bytes()
    assert main(["experiment", "--part", "cost", "--out", str(log)]) == 0
    out, err = capsys.readouterr()
    assert err == f"nothing was run: {log} has every trial of cost; --force measures them again\n"
    assert "What removing 30 % of the GLU neurons costs" in out and "exact match" not in out
    assert "exact match" in log.with_suffix(".md").read_text() and log.read_bytes() == before


def test_force_keeps_the_other_parts(log: Path) -> None:
    whole = TrialLog(log).rows()
    parts = {row["part"] for row in whole}
    assert len(parts) > 1
    assert TrialLog(log, ["cost"]).rows() == [row for row in whole if row["part"] != "cost"]
    assert TrialLog(log, parts).rows() == []
    log.write_text(json.dumps({"schema": 1, "cells": [{}]}))
    with pytest.raises(ValueError, match="pass --force"):
        TrialLog(log)
    assert TrialLog(log, ["cost"]).rows() == []
