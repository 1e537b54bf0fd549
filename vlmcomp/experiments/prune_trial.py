"""Pruning as a trial specifies: by our scores or by a baseline."""

from __future__ import annotations

import time
from collections.abc import Callable

from transformers import PreTrainedModel

from vlmcomp.compression.calibration import CalibrationBatch
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.experiments import optipfair_baseline
from vlmcomp.experiments.trial_log import DENSE, Trial
from vlmcomp.recipe import PruningStep


def prune_by_trial(
    trial: Trial, model: PreTrainedModel, calibration: Callable[[int], list[CalibrationBatch]]
) -> tuple[float, float]:
    """Prune ``model`` in place.

    Args:
        trial: step, score and seed.
        model: modified in place.
        calibration: makes the calibration batches of a seed; trials that use no data get the first batch alone.

    Returns:
        The real percentage removed, and the seconds it took without preparing the calibration batches.
    """
    if trial.score == DENSE:
        return 0.0, 0.0
    step = PruningStep.parse(trial.step)
    data = calibration(trial.seed)
    start = time.perf_counter()
    if trial.score in optipfair_baseline.BASELINES:
        real = optipfair_baseline.prune(
            model, trial.score.removeprefix(f"{optipfair_baseline.NAME} "), step.percent, data
        )
    else:
        method = PruningMethod(trial.score, trial.reconstruct, seed=trial.seed)
        real = prune_decoder_(model, (step,), data if trial.uses_calibration_data else data[:1], method)[0].real_percent
    return real, time.perf_counter() - start
