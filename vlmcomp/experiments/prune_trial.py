"""Prune as a cell says: by our scores or by the peer."""

from __future__ import annotations

import time
from collections.abc import Callable

from transformers import PreTrainedModel

from vlmcomp.compression.calibration import Tokens
from vlmcomp.compression.pruning.pruner import Method, prune
from vlmcomp.experiments import optipfair_baseline
from vlmcomp.experiments.ledger import DENSE, Cell
from vlmcomp.recipe import Step


def prune_as(cell: Cell, model: PreTrainedModel, calibration: Callable[[int], list[Tokens]]) -> tuple[float, float]:
    """Prune ``model`` in place with the calibration set of the cell's seed, or one batch of it where no data count.

    Returns:
        The real percentage removed, and the seconds it took with the calibration set at the decoder's door.
    """
    if cell.score == DENSE:
        return 0.0, 0.0
    step, data = Step.parse(cell.step), calibration(cell.seed)
    start = time.perf_counter()
    if cell.score in optipfair_baseline.PEERS:
        real = optipfair_baseline.prune(
            model, cell.score.removeprefix(f"{optipfair_baseline.NAME} "), step.percent, data
        )
    else:
        method = Method(cell.score, cell.reconstruct, seed=cell.seed)
        real = prune(model, (step,), data if cell.looks_at_data else data[:1], method)[0].real_percent
    return real, time.perf_counter() - start
