"""Running experiments: measures the trials that a log lacks, the cheapest experiments first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlmcomp import hardware
from vlmcomp.compression.pruning.importance import DEFAULT_SCORE, IMPORTANCE_SCORES
from vlmcomp.experiments import (
    decode_speed,
    language_model,
    optipfair_baseline,
    pruning_cost,
    pruning_quality,
    vqa_domains,
    vqa_kinds,
)
from vlmcomp.experiments.trial_log import Trial, TrialLog, head_to_head, trial_grid
from vlmcomp.results import store


class Experiment(Protocol):
    """Measures the trials of one part; what they share is prepared once."""

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Measurements of one trial, as they are stored."""


EXPERIMENTS: dict[str, Callable[[int | None], Experiment]] = {  # given the number of samples, by part
    "speed": decode_speed.DecodeSpeedExperiment,
    "cost": pruning_cost.PruningCostExperiment,
    "language": language_model.LanguageModelExperiment,
    "domains": language_model.LanguageModelExperiment,
    vqa_kinds.PART: vqa_domains.VQADomainsExperiment,
    "peer": pruning_quality.PruningQualityExperiment,
    "shapes": pruning_quality.PruningQualityExperiment,
}
SEEDS = (0, 1, 2)


def log_path(root: Path = store.PRECOMPUTED, device: str = "cpu") -> Path:
    """Path of the log of this machine's ``device``."""
    return root / hardware.get_hardware(device).slug / "pruning.json"


def trials(part: str, seeds: Sequence[int] = SEEDS, device: str = "cpu") -> list[Trial]:
    """Everything that ``part`` measures; without the baselines if they are not installed.

    Args:
        part: key of ``EXPERIMENTS``.
        seeds: of the calibration sets.
        device: "cpu", or "cuda" for the part "speed" alone.

    Raises:
        ValueError: no such part.
    """
    baselines = optipfair_baseline.BASELINES if optipfair_baseline.is_installed() else ()
    if part == "shapes":
        return list(trial_grid(part, pruning_quality.STEPS, IMPORTANCE_SCORES, baselines, seeds))
    if part == "peer":
        return head_to_head(part, pruning_quality.MLP_STEPS, DEFAULT_SCORE, baselines, seeds)
    if part == "language":
        return list(trial_grid(part, language_model.STEPS, language_model.SCORES, baselines, seeds[:1]))
    if part == language_model.DOMAINS:
        return list(language_model.domain_trials(baselines, seeds))
    if part == vqa_kinds.PART:
        return list(vqa_domains.trials(seeds))
    if part == "speed":
        return decode_speed.trials(device)
    if part == "cost":
        return [Trial(part, name, "second order", True) for name in pruning_cost.DECODER_SHAPES]
    raise ValueError(f"there is no experiment '{part}': choose from {', '.join(EXPERIMENTS)}")


def run_experiments(
    parts: Sequence[str],
    log: TrialLog,
    *,
    num_samples: int | None = None,
    seeds: Sequence[int] = SEEDS,
    report: Callable[[str], None],
) -> int:
    """Measure the trials that ``log`` lacks and store each as soon as it is measured.

    Args:
        parts: keys of ``EXPERIMENTS``.
        log: stores the measurements.
        num_samples: questions, calibration sequences or rounds, by experiment; default: its own number.
        seeds: of the calibration sets.
        report: called with one line before each trial.

    Returns:
        The number of trials that were measured.

    Raises:
        ValueError: an unknown experiment, or one whose model is not installed.
    """
    measured = 0
    for part in parts:
        missing = [trial for trial in trials(part, seeds, log.device) if trial.key not in log.rows_by_key]
        if not missing:
            continue
        experiment = EXPERIMENTS[part](num_samples)
        for index, trial in enumerate(missing):
            report(f"[{index + 1}/{len(missing)}] {trial.key}")
            log.add(trial, experiment.measure(trial))
        measured += len(missing)
    return measured
