"""Measure the cells of a study that are not measured yet, the cheapest parts first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vlmcomp import hardware
from vlmcomp.compression.pruning.importance import DEFAULT, SCORES
from vlmcomp.experiments import decode_speed, language_model, optipfair_baseline, pruning_cost, pruning_quality, timing
from vlmcomp.experiments.ledger import Cell, Ledger, duel, grid
from vlmcomp.results import store

PARTS = {
    "timing": timing.Study,
    "speed": decode_speed.Study,
    "cost": pruning_cost.Study,
    "language": language_model.Study,
    "peer": pruning_quality.Study,
    "shapes": pruning_quality.Study,
}
SEEDS = (0, 1, 2)
Progress = Callable[[str], None]


def home(root: Path = store.PRECOMPUTED, device: str = "cpu") -> Path:
    """Where the study of this machine's ``device`` lies."""
    return root / hardware.hardware(device).slug / "pruning.json"


def cells(part: str, seeds: Sequence[int] = SEEDS, device: str = "cpu") -> list[Cell]:
    """Everything that ``part`` measures; without the peer where it is not installed. On a GPU that is speed alone.

    Raises:
        ValueError: no such part.
    """
    peers = optipfair_baseline.PEERS if optipfair_baseline.available() else ()
    if part == "shapes":
        return list(grid(part, pruning_quality.STEPS, SCORES, peers, seeds))
    if part == "peer":
        return duel(part, pruning_quality.MLP_STEPS, DEFAULT, peers, seeds)
    if part == "language":
        return list(grid(part, language_model.STEPS, language_model.SCORES, peers, seeds[:1]))
    if part == "timing":
        return timing.CELLS
    if part == "speed":
        return decode_speed.cells(device)
    if part == "cost":
        return [Cell(part, name, "second order", True) for name in pruning_cost.SHAPES]
    raise ValueError(f"there is no part '{part}' in the study: choose from {', '.join(PARTS)}")


def run(
    parts: Sequence[str], ledger: Ledger, *, samples: int | None = None, seeds: Sequence[int] = SEEDS, say: Progress
) -> None:
    """Measure what ``ledger`` lacks and keep each cell as soon as it is done.

    Raises:
        ValueError: an unknown part, or one whose model is not installed.
    """
    for part in parts:
        todo = [cell for cell in cells(part, seeds, ledger.device) if cell.key not in ledger.done]
        if not todo:
            continue
        study = PARTS[part](samples)
        for index, cell in enumerate(todo):
            say(f"[{index + 1}/{len(todo)}] {cell.key}")
            ledger.add(cell, study.measure(cell))
