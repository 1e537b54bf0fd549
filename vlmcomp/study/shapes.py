"""The embedded VLM under every score: exact match, composite, agreement with the dense model, on fixed questions."""

from __future__ import annotations

import copy
import time
from functools import cache, cached_property
from typing import Any

from vlmcomp import zoo
from vlmcomp.build import build, calibration_samples
from vlmcomp.calibrate import Tokens, sequences
from vlmcomp.measure import metrics, quality, tasks
from vlmcomp.prune.cut import Method, prune
from vlmcomp.recipe import Recipe, Step
from vlmcomp.store import Rows
from vlmcomp.study import peer
from vlmcomp.study.cells import DENSE, Cell
from vlmcomp.vlm import VLM

PART = "shapes"
MODEL = "llava-shapes"
STEPS = ("glu20", "glu30", "heads25", "glu10", "glu40", "glu50", "heads50")  # what is claimed comes first
TASKS = ("shapes-vqa", "easy-vqa")
NEW_TOKENS = 8  # no answer of these tasks has more


class Study:
    """The dense model, its calibration sets and its answers, made once for all cells."""

    def __init__(self, samples: int | None = None, device: str = "cpu") -> None:
        self.samples = samples
        self.dense: VLM = build(Recipe(MODEL, (), "fp16"), device=device)
        self.answers: dict[str, Rows] = {}

    @cached_property
    def questions(self) -> dict[str, list[tasks.Sample]]:
        """The samples of every task, with their images drawn once."""
        found = {}
        for name in TASKS:
            task = tasks.find(name)
            drawn = task.samples(task.count(self.samples), 0, self.dense.entry.one_word)
            found[name] = [tasks.drawn(sample) for sample in drawn]
        return found

    @cache
    def calibration(self, seed: int) -> list[Tokens]:
        samples = calibration_samples(zoo.find(MODEL).calibration, seed)
        return sequences(self.dense, samples, batch=32)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Prune as ``cell`` says, ask, score."""
        vlm = copy.copy(self.dense)
        vlm.model = copy.deepcopy(self.dense.model)
        start = time.perf_counter()
        real = self._prune(vlm, cell)
        found: dict[str, Any] = {"real_percent": real, "prune_seconds": time.perf_counter() - start}
        for name, samples in self.questions.items():
            rows = quality.answer(vlm, samples, 64, NEW_TOKENS)
            if cell.score == DENSE:
                self.answers[name] = rows
            scores = quality.score(tasks.find(name), samples, rows, 0, "minilm")
            found[name] = {
                "samples": scores.samples,
                "exact_match": scores.exact_match,
                "composite": scores.composite,
                "agreement": self._agreement(name, rows),
            }
        return found

    def _prune(self, vlm: VLM, cell: Cell) -> float:
        if cell.score == DENSE:
            return 0.0
        step = Step.parse(cell.step)
        if cell.score in peer.PEERS:
            method = cell.score.removeprefix(f"{peer.NAME} ")
            calibration = self.calibration(cell.seed) if method.endswith("hybrid") else []
            return peer.prune(vlm.model, method, step.percent, calibration)
        method = Method(cell.score, cell.reconstruct, seed=cell.seed)
        return prune(vlm.model, (step,), self.calibration(cell.seed), method)[0].real_percent

    def _agreement(self, task: str, rows: Rows) -> float:
        """Share of answers that are the dense model's, right or wrong."""
        if task not in self.answers:  # a resumed study measured the dense model earlier
            self.answers[task] = quality.answer(self.dense, self.questions[task], 64, NEW_TOKENS)
        pairs = zip(rows, self.answers[task], strict=True)
        same = [metrics.normalise(a["answer"]) == metrics.normalise(b["answer"]) for a, b in pairs]
        return sum(same) / len(same)
