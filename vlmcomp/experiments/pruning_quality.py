"""The embedded VLM under every score: exact match, composite, agreement with the dense model, on fixed questions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.calibration import Tokens, enter, sequences
from vlmcomp.compression.pipeline import build
from vlmcomp.data import task_registry, tasks
from vlmcomp.data.answer_matching import exact_match, normalise
from vlmcomp.data.calibration_data import calibration_samples
from vlmcomp.evaluation import quality
from vlmcomp.experiments.ledger import DENSE, Cell, packed
from vlmcomp.experiments.prune_trial import prune_as
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.results.store import Rows

PART = "shapes"
MODEL = "llava-shapes"
STEPS = ("glu20", "glu30", "heads25", "glu10", "glu40", "glu50", "heads50")  # what is claimed comes first
MLP_STEPS = tuple(sorted(step for step in STEPS if step.startswith("glu")))
NEW_TOKENS = 64  # the longest answers of shapes-vqa have 39
SAMPLES = {"shapes-vqa": 2000, "easy-vqa": 300}
BATCH = 256


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts at the decoder's door: no pruning changes what comes before it."""

    indices: list[int]
    hidden: torch.Tensor
    mask: torch.Tensor


class Study:
    """The dense model, its calibration sets and its answers, made once for all cells."""

    def __init__(self, samples: int | None = None, device: str = "cpu") -> None:
        self.samples = samples
        self.dense: VLM = build(Recipe(MODEL, (), "fp16"), device=device)
        self.answers: dict[str, Rows] = {}
        self.prompts, self.calibration = cache(self._prompts), cache(self._calibration)

    @cached_property
    def questions(self) -> dict[str, list[tasks.Sample]]:
        """The samples of every task."""
        found = {}
        for name, usual in SAMPLES.items():
            task = task_registry.find(name)
            found[name] = task.samples(task.count(self.samples or usual), 0, self.dense.spec.one_word)
        return found

    def _prompts(self, task: str) -> list[Prompts]:
        """The task's prompts; answers of like length share a batch, which ends with its longest."""
        samples, found = self.questions[task], []
        order = sorted(range(len(samples)), key=lambda i: len(samples[i].reference))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = self.dense.encode([samples[i].image for i in part], [samples[i].question for i in part])
            found.append(
                Prompts(
                    part,
                    enter(self.dense.model, dict(inputs), inputs["attention_mask"]).hidden,
                    inputs["attention_mask"],
                )
            )
        return found

    @torch.no_grad()
    def answer(self, model: PreTrainedModel, task: str) -> Rows:
        """Greedy answers of ``model`` as rows in the order of the task's questions."""
        texts: dict[int, str] = {}
        for batch in self.prompts(task):
            ids = model.generate(
                inputs_embeds=batch.hidden, attention_mask=batch.mask, do_sample=False, max_new_tokens=NEW_TOKENS
            )
            decoded = self.dense.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            texts |= zip(batch.indices, map(str.strip, decoded), strict=True)
        return [
            {"id": s.id, "type": s.type, "question": s.question, "reference": s.reference, "answer": texts[i]}
            for i, s in enumerate(self.questions[task])
        ]

    def _calibration(self, seed: int) -> list[Tokens]:
        """The zoo's usual number of samples for the model."""
        return sequences(self.dense, calibration_samples(self.dense.spec.calibration, seed), batch=32)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Prune as ``cell`` says, ask, score; which questions came out right, and as from the dense model, is kept."""
        model = copy.deepcopy(self.dense.model)
        real, seconds = prune_as(cell, model, self.calibration)
        found: dict[str, Any] = {"real_percent": real, "prune_seconds": seconds}
        for name in self.questions:
            rows = self.answer(model, name)
            if cell.score == DENSE:
                self.answers[name] = rows
            scores, same = quality.score(task_registry.find(name), rows, 0, "minilm"), self._same(name, rows)
            found[name] = {
                "samples": scores.samples,
                "exact_match": scores.exact_match,
                "composite": scores.composite,
                "agreement": sum(same) / len(same),
                "right": packed(exact_match(row["answer"], row["reference"]) for row in rows),
                "same": packed(same),
            }
        return found

    def _same(self, task: str, rows: Rows) -> list[bool]:
        """Which answers are the dense model's, right or wrong."""
        if task not in self.answers:  # a resumed study measured the dense model earlier
            self.answers[task] = self.answer(self.dense.model, task)
        pairs = zip(rows, self.answers[task], strict=True)
        return [normalise(a["answer"]) == normalise(b["answer"]) for a, b in pairs]
